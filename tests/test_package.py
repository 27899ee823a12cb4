"""The built wheel and source archive, without the checkout and from another directory; metadata; pinned versions."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
import trove_classifiers
from packaging import metadata, specifiers, utils

import lt_jax
from lt_jax.run import config as config_lib

ROOT = config_lib.builtin_folder().parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns (wheel, source archive); the wheel is built from the source archive, so that this one is complete."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("needs a checkout to build from")
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder}", str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


@pytest.mark.slow
def test_wheel_runs_the_demo_from_another_directory(built, tmp_path, tiny):
    zipfile.ZipFile(built[0]).extractall(tmp_path / "site")
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


@pytest.mark.slow
def test_metadata_of_the_wheel_is_valid_and_complete(built):
    (name,) = [name for name in zipfile.ZipFile(built[0]).namelist() if name.endswith("dist-info/METADATA")]
    about = metadata.Metadata.from_email(zipfile.ZipFile(built[0]).read(name), validate=True)
    assert (about.name, str(about.version)) == ("lt_jax", lt_jax.__version__)
    assert about.license_expression == "Apache-2.0" and about.license_files == ["LICENSE"]
    assert about.description_content_type == "text/markdown" and about.description.startswith("# lt_jax")
    assert about.project_urls and set(about.classifiers) <= trove_classifiers.classifiers
    assert {str(minor) for minor in about.requires_python} == {">=3.11"}
    assert {"docs", "cuda12", "weights"} <= set(about.provides_extra)


@pytest.mark.slow
def test_source_archive_holds_what_a_build_and_the_tests_need(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = (
        "mkdocs.yml",
        "docs/hooks/pages.py",
        "SECURITY.md",
        "launch/setup.py",
        "tests/conftest.py",
        "configs/common.py",
    )
    assert set(files) <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("site/", "runs/", ".venv"))]


def test_the_version_is_the_same_everywhere():
    import yaml

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lt_jax.__version__
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == lt_jax.__version__


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


def test_pinned_packages_support_the_first_release_of_their_python():
    """Systems keep a Python such as 3.11.2 for years, and a package may ask for 3.11.5."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = (ROOT / "launch" / f"constraints-{minor}.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    installed = [dist for dist in importlib.metadata.distributions() if pins.get(_canonical(dist)) == dist.version]
    assert len(installed) > 50
    for dist in installed:
        assert specifiers.SpecifierSet(dist.metadata["Requires-Python"] or "").contains(f"{minor}.0"), dist.name


def _canonical(dist):
    return utils.canonicalize_name(dist.metadata["Name"])


def test_lint_and_the_pre_commit_hook_use_the_same_ruff():
    import yaml

    (hook,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for file in (ROOT / "launch").glob("constraints-*.txt"):
        assert f"ruff=={hook['rev'].removeprefix('v')}" in file.read_text().splitlines()
