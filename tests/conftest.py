"""Strict settings for every test, eight CPU devices, the compile cache, and runs that many tests share."""

import os

# Before JAX starts. Programs of tiny networks run for milliseconds: compiling them fast is what counts.
_FLAGS = " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + _FLAGS
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pathlib  # noqa: E402
import tempfile  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from lt_jax.run import config as config_lib  # noqa: E402

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "lt_jax" / "tests"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

flags.FLAGS.mark_as_parsed()  # grain asks for it
config_lib._make_importable()


@pytest.fixture(scope="session")
def real_data():
    """The folder of the official CIFAR archives, or a skip with the reason."""
    folder = os.environ.get("LT_JAX_DATA")
    shared = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder and (shared / "unpack.py").exists():
        folder = str(_unpack(shared))
    if not folder or not pathlib.Path(folder, "cifar-10-batches-bin").is_dir():
        pytest.skip("needs the official CIFAR archives; LT_JAX_DATA names no folder that holds them")
    return folder


def _unpack(shared):
    """Rebuilds the archives once for all workers."""
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


TINY = (
    "--config=configs/digits_lt.py:smoke",
    "--config.encoder.width=4",
    "--config.pretrain.projector=(16,8)",
    f"--config.host.compile_cache={CACHE}",
)


@pytest.fixture(scope="session")
def tiny():
    """Flags of the smallest run that passes through every stage."""
    return TINY


@pytest.fixture(scope="session")
def run_main():
    """main(flags) in this process -> exit status."""
    from lt_jax import main

    return lambda *words: main.main(["lt_jax", *map(str, words)])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, run_main):
    """The work directory of a finished tiny run. Read only."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert run_main(*TINY, f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it, to do with as one likes."""
    import shutil

    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
