"""The built wheel, alone and from another directory."""

import os
import subprocess
import sys
import zipfile

import pytest

from lt_jax.run import config as config_lib

ROOT = config_lib.builtin_folder().parent


@pytest.mark.slow
def test_wheel_runs_the_demo_from_another_directory(tmp_path, tiny):
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("needs a checkout to build from")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={tmp_path / 'dist'}", str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*words):
        command = [sys.executable, *words]
        return subprocess.run(command, env=environment, cwd=tmp_path / "elsewhere", capture_output=True, text=True)

    where = run("-c", "import lt_jax; print(lt_jax.__file__)")
    assert where.stdout.startswith(str(tmp_path / "site"))
    done = run("-m", "lt_jax.main", *tiny, "--config.stages=('pretrain','retrain','evaluate','report')")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere/runs/digits_lt/report.html").exists()


def test_set_up_pins_versions_that_the_bounds_allow():
    from packaging.requirements import Requirement

    text = (ROOT / "pyproject.toml").read_text()
    for file in sorted((ROOT / "launch").glob("constraints-*.txt")):
        pins = dict(line.split("==") for line in file.read_text().splitlines() if "==" in line)
        for name in ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"):
            (line,) = [x for x in text.splitlines() if x.strip().startswith(f'"{name}>')]
            assert Requirement(line.split('"')[1]).specifier.contains(pins[name]), (file.name, name)
        assert all("/" not in line and "@" not in line for line in file.read_text().splitlines())
