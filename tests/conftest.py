"""Strict JAX settings, eight CPU devices, the compilation cache, and runs that many tests share."""

import os

# Set before JAX starts. Programs of tiny networks run for milliseconds, so compile time dominates. The tests of an
# accelerator (JAX_PLATFORMS=cuda,cpu) run with the compiler's defaults.
_FLAGS = " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + _FLAGS

import pathlib  # noqa: E402
import tempfile  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from lt_jax.core import allocator  # noqa: E402
from lt_jax.run import config as config_lib  # noqa: E402

# A process of hundreds of tests would keep the memory of all of them.
allocator.keep_freed_memory = lambda: False

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "lt_jax" / "tests"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

flags.FLAGS.mark_as_parsed()  # grain requires it
config_lib._make_importable()


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps():
    """Forgets compiled programs before the process has more memory maps than Linux allows, 65,530 by default.

    The program that fits a head takes 170 to 520 of them. Without a free one, compiling ends the process with a
    segmentation fault.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def real_data():
    """Returns the folder of the official CIFAR archives, or skips the test."""
    folder = os.environ.get("LT_JAX_DATA")
    shared = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder and (shared / "unpack.py").exists():
        folder = str(_unpack(shared))
    if not folder or not pathlib.Path(folder, "cifar-10-batches-bin").is_dir():
        pytest.skip("needs the official CIFAR archives; LT_JAX_DATA names no folder that holds them")
    return folder


def _unpack(shared):
    """Rebuilds the archives once for all test workers and returns their folder."""
    import subprocess
    import sys

    folder = pathlib.Path(tempfile.gettempdir()) / f"lt_jax-cifar-{os.getuid()}"
    if not (folder / "cifar.complete").exists():
        beside = tempfile.mkdtemp()
        subprocess.run([sys.executable, str(shared / "unpack.py"), beside], check=True)
        try:
            os.rename(beside, folder)
        except OSError:
            assert (folder / "cifar.complete").exists()
    return folder


@pytest.fixture(scope="session")
def fixed_image():
    """Returns fixed_image(side) -> an image in [0, 1], (1, side, side, 3): waves of another direction in each channel.

    Constants of the tests are features of other libraries for these images.
    """

    def image(side):
        y, x = np.mgrid[:side, :side] / side
        waves = [np.sin(7 * x + 3 * y), np.cos(5 * x * y + 2 * y), np.sin(11 * y - 4 * x)]
        return (0.5 + 0.5 * np.stack(waves, -1)[None]).astype(np.float32)

    return image


TINY = (
    "--config=configs/digits_lt.py:smoke",
    "--config.encoder.width=4",
    "--config.pretrain.projector=(16,8)",
    "--config.probe.per_class=20",
    f"--config.host.compile_cache={CACHE}",
)


@pytest.fixture(scope="session")
def tiny():
    """Returns the flags of the smallest run of all stages."""
    return TINY


@pytest.fixture(scope="session")
def run_main():
    """Returns run_main(*flags) -> exit status, which runs the command in this process."""
    import signal

    from lt_jax import main

    def run(*words):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return main.main(["lt_jax", *map(str, words)])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory, run_main):
    """Returns the work directory of a finished tiny run. Tests must not change it; see `copied`."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert run_main(*TINY, f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture
def copied(finished, tmp_path):
    """Returns a copy of the finished run that a test may change."""
    import shutil

    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
