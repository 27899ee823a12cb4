"""The built wheel, without the checkout and from another directory; pinned versions."""

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


def test_pins_are_versions_without_urls():
    for file in sorted((ROOT / "launch").glob("constraints-*.txt")):
        assert all("/" not in line and "@" not in line for line in file.read_text().splitlines())


def test_every_requirement_is_pinned_within_its_bounds():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (own,) = [Requirement(line) for line in extras["dev"] if line.startswith("lt_jax[")]
    assert own.extras == set(extras) - {"dev", "cuda12", "cuda13", "tpu", "prepare"}
    lines = [*project["dependencies"], *extras["dev"], *(line for name in own.extras for line in extras[name])]
    requirements = [Requirement(line) for line in lines if not line.startswith("lt_jax[")]
    for file in sorted((ROOT / "launch").glob("constraints-*.txt")):
        pins = dict(line.split("==") for line in file.read_text().splitlines() if "==" in line)
        for requirement in requirements:
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(pins[name]), (file.name, name)


def test_lint_and_the_pre_commit_hook_use_the_same_ruff():
    import yaml

    (hook,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for file in (ROOT / "launch").glob("constraints-*.txt"):
        assert f"ruff=={hook['rev'].removeprefix('v')}" in file.read_text().splitlines()
