"""launch/setup.py: an environment with a pip of its own, extras, accelerators, and the commands that it runs."""

import subprocess
import sys

import pytest

from launch import setup


@pytest.fixture
def bare(tmp_path):
    """Returns a folder with a virtual environment without pip, as uv makes them."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    assert not (tmp_path / "env/bin/pip").exists()
    return tmp_path / "env"


def pip_of_activated(folder):
    """Returns (where `pip` is after activation, where it installs)."""
    words = f"source {folder}/bin/activate && command -v pip && pip --version"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_pip_is_that_of_the_environment_once_it_is_activated(tmp_path):
    setup.create(tmp_path / "env", str(tmp_path / "env/bin/python"))
    path, version = pip_of_activated(tmp_path / "env")
    assert path == str(tmp_path / "env/bin/pip") and str(tmp_path / "env/lib") in version


@pytest.mark.slow
def test_an_environment_without_pip_gets_one(bare):
    setup.create(bare, str(bare / "bin/python"))
    path, version = pip_of_activated(bare)
    assert path == str(bare / "bin/pip") and str(bare / "lib") in version


def test_ways_to_pip_are_tried_in_turn(bare, monkeypatch):
    tried = []

    def succeeds(command):
        tried.append(command)
        return "ok" if "uv" in command[0] else ""

    monkeypatch.setattr(setup, "succeeds", succeeds)
    python = str(bare / "bin/python")
    setup.create(bare, python)
    assert [command[1:3] for command in tried] == [["-m", "ensurepip"], ["-m", "pip"], ["pip", "install"]]
    assert all(python in command for command in tried)
    monkeypatch.setattr(setup, "succeeds", lambda command: "")
    with pytest.raises(SystemExit, match="no way to install pip"):
        setup.create(bare, python)


def test_pins_are_those_of_the_version_of_the_environment(tmp_path, capsys):
    python = tmp_path / "python"
    for version, expected in (
        ("3.12", ["--constraint", str(setup.ROOT / "launch/constraints-3.12.txt")]),
        ("3.99", []),
    ):
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
        assert setup.constraints(str(python)) == expected
    assert "no pinned versions for Python 3.99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "extras", "flags"),
    [
        ([], set(), []),
        (["--config.seed=1", "--extra=cuda12"], {"cuda12"}, ["--config.seed=1"]),
        (["--extra=tables,h5", "--extra", "export", "-x"], {"tables", "h5", "export"}, ["-x"]),
    ],
)
def test_extras_are_split_from_the_other_flags(words, extras, flags):
    assert setup.split_extras(words) == (extras, flags)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--extra=cuda11", "there is no extra 'cuda11': did you mean cuda13?"),
        ("--extra=nothing_like_it", "there is no extra 'nothing_like_it': expected one of cuda12, cuda13, tpu"),
        ("--extra", "there is no extra ''"),
    ],
)
def test_an_unknown_extra_is_one_line(word, line):
    with pytest.raises(SystemExit) as raised:
        setup.split_extras([word])
    assert line in raised.value.code and "\n" not in raised.value.code


@pytest.fixture
def called(monkeypatch):
    """Returns the extras that setup installs, then the commands that it runs; nothing is run, the first one fails."""
    commands = []

    def run(command, **_):
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, len(commands) == 2)

    monkeypatch.setattr(setup.subprocess, "run", run)
    monkeypatch.setattr(setup, "set_up", lambda extras: commands.append(extras) or "python")
    monkeypatch.setattr(setup, "accelerator", lambda: ("", []))
    return commands


def test_demo_installs_extras_and_passes_the_flags(called):
    setup.main(["demo", "--extra=cuda12", "--config.seed=1"])
    quick = ["--config=configs/digits_lt.py:quick", "--workdir=runs/digits_quick", "--config.seed=1"]
    assert called == [["cuda12"], ["-m", "lt_jax.main", *quick]]


def test_a_given_folder_replaces_that_of_the_quick_form():
    assert setup.demo_flags(["--workdir=runs/x"]) == ["--config=configs/digits_lt.py:quick", "--workdir=runs/x"]


@pytest.mark.parametrize("flag", ["--config=configs/folder.py", "--config", "--stage=report"])
def test_a_config_or_stage_replaces_the_quick_form(flag):
    assert setup.demo_flags([flag, "--workdir=runs/x"]) == [flag, "--workdir=runs/x"]


def test_demo_names_the_command_before_it_runs(called, capsys):
    setup.main(["demo"])
    assert "running python -m lt_jax.main --config=configs/digits_lt.py:quick" in capsys.readouterr().err


def test_test_installs_dev_too(called):
    setup.main(["test", "--extra=cuda13", "-x"])
    assert called[0] == ["cuda13", "dev"] and called[1][1] == "pytest" and called[1][-1] == "-x"


def test_lint_runs_every_linter_and_fails_if_one_does(called):
    assert setup.main(["lint"]) == 1
    assert called == [["dev"], ["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"]]


def test_docs_builds_the_site(called):
    setup.main(["docs"])
    assert called == [["dev"], ["-m", "mkdocs", "build", "--strict"]]


@pytest.mark.parametrize("words", [[], ["tests"], ["lint", "lt_jax"], ["docs", "serve"]])
def test_set_up_prints_its_usage(words):
    with pytest.raises(SystemExit, match=r"setup.py lint"):
        setup.main(words)


@pytest.mark.parametrize(
    ("smi", "device", "extras"),
    [
        ("echo 575.57.08", "nvidia0", ["cuda12"]),
        ("echo 580.65.06", "nvidia0", ["cuda13"]),
        ("exit 9", "nvidia0", ["cuda12", "cuda13"]),
        (None, "nvidia0", ["cuda12", "cuda13"]),
        ("exit 9", "accel0", ["tpu"]),
        (None, "vfio/0", ["tpu"]),
        (None, "vfio/vfio", []),  # there without any device, too
        (None, "null", []),
    ],
)
def test_the_accelerator_of_the_machine(tmp_path, monkeypatch, smi, device, extras):
    if smi is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "dev" / device).parent.mkdir(parents=True)
    (tmp_path / "dev" / device).touch()
    monkeypatch.setattr(setup, "DEVICES", tmp_path / "dev")
    assert setup.accelerator()[1] == extras


def test_a_missing_extra_is_mentioned_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "accelerator", lambda: ("an NVIDIA GPU", ["cuda13"]))
    setup.mention_accelerator(set())
    assert capsys.readouterr().err.splitlines() == [
        "[set-up] there is an NVIDIA GPU, and JAX here runs on the CPU alone: give --extra=cuda13"
    ]
    setup.mention_accelerator({"cuda12"})
    (tmp_path / "lib/python3.12/site-packages/jax_cuda13_plugin").mkdir(parents=True)
    setup.mention_accelerator(set())
    assert not capsys.readouterr().err


def test_a_second_call_installs_nothing(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "run", commands.append)
    monkeypatch.setattr(setup, "create", lambda folder, python: None)
    monkeypatch.setattr(setup, "constraints", lambda python: [])
    for _ in range(2):
        assert setup.set_up(["h5", "tables"]) == str(tmp_path / "bin/python")
    (command,) = commands
    assert f"{setup.ROOT}[h5,tables]" in command
    setup.set_up(["h5"])  # installed with others
    setup.set_up([])
    assert len(commands) == 1
    setup.set_up(["dev", "h5"])
    assert len(commands) == 2
