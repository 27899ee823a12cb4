"""Checks of settings: known keys, types and intervals; paths and tokens of --config."""

import subprocess
import sys

import pytest

from configs import common
from lt_jax.core import errors
from lt_jax.run import command, config, dependencies, knobs


def write(file, lines):
    """Writes a config file: the demo with additional lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    body = "\n    ".join(lines)
    file.write_text(
        "from configs import common, digits_lt\n\n\n"
        f"def get_config(arg=''):\n    config = digits_lt.get_config(arg)\n    {body}\n    return config\n"
    )
    return file


OWN = {
    "config.pretrain.temprature = 0.1": "temprature is no key: did you mean config.pretrain.temperature?",
    "config.retrian = common.training(1, 1, 1.0, 1)": "config.retrian is no key: did you mean config.retrain?",
    "config.baseline.augment.colour = 1": "config.baseline.augment.colour is no key: ",
    "del config.retrain['k']": "config.retrain.k is missing",
    "del config['probe']": "config.stages: probe needs the settings config.probe",
    "config.pretrain.m = 'two'": "own.py: TypeError: Could not override field 'm'",
    "config.data = 3": "own.py: TypeError: Could not override field 'data'",
}


@pytest.mark.parametrize("line", OWN)
def test_a_config_file_is_checked_like_the_command_line(line, tmp_path, run_main, capsys):
    file = write(tmp_path / "own.py", [line])
    assert run_main(f"--config={file}", f"--workdir={tmp_path / 'run'}") == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("lt_jax: ")]
    assert len(lines) == 1 and OWN[line] in lines[0], lines
    assert not (tmp_path / "run").exists()


INVALID = {
    "data.largest=-5": "expected at least 0, found -5",
    "data.largest=0": "config.data.largest: expected at least 1, found 0",
    "data.test_share=1.5": "config.data.test_share: expected a number between 0 and 1, found 1.5",
    "data.many=10": "config.data.few: expected at most config.data.many=10, found 20",
    "data.imbalance_factor=0.5": "config.data.imbalance_factor: expected at least 1",
    "data.counts=(1,2)": "config.data.counts: expected none with config.data.profile=exponential",
    "data.validation=1.0": "config.data.validation: expected at least 0 and less than 1, found 1.0",
    "baseline.epochs=-3": "config.baseline.epochs: expected more than 0, found -3",
    "baseline.base_learning_rate=nan": "config.baseline.base_learning_rate: expected at least 0, found nan",
    "baseline.weight_decay=inf": "config.baseline.weight_decay: expected at least 0, found inf",
    "pretrain.temperature=0.0": "config.pretrain.temperature: expected more than 0",
    "pretrain.augment.crop_scale=0.0": "config.pretrain.augment.crop_scale: expected more than 0 and at most 1",
    "pretrain.projector=(16,-8)": "config.pretrain.projector: expected at least 1, found -8",
    "pretrain.projector=(16.5,)": "config.pretrain.projector: expected a whole number, found 16.5",
    "encoder.std=(0.0,)": "config.encoder.std: expected more than 0",
    "checkpoint.keep=0": "config.checkpoint.keep: expected at least 1",
    "seed=-1": "config.seed: expected at least 0 and at most 2147483647",
    "data.dir=~nobody_here/x": "config.data.dir: there is no home folder as in '~nobody_here/x'",
    "init_from=~nobody_here/x": "config.init_from: there is no home folder",
}


@pytest.mark.parametrize("flag", INVALID)
def test_invalid_values_are_refused(flag, tmp_path, run_main, capsys):
    assert run_main(f"--config.{flag}", f"--workdir={tmp_path / 'run'}") == 2
    assert INVALID[flag] in capsys.readouterr().err.strip().splitlines()[-1]


def test_settings_that_profile_all_ignores_are_refused(tmp_path, run_main, capsys):
    words = ("--config=configs/folder.py:smoke", f"--workdir={tmp_path / 'run'}")
    for flag in ("largest=100", "imbalance_factor=10"):
        assert run_main(*words, f"--config.data.{flag}") == 2
        assert "expected only with a profile that chooses images" in capsys.readouterr().err
    command.parse(["x", "--config.data.profile=all"])  # of a config that sets the size of a subset
    assert "have no effect: config.data.profile=all takes every image" in capsys.readouterr().err


def test_every_number_has_an_interval():
    for key, value in dependencies.flattened(dependencies.resolved(common.every_key())).items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and key[0] != "dlsa":
            assert ".".join(key) in knobs.INTERVALS, key


def test_a_config_path_may_contain_a_colon(tmp_path, run_main, capsys):
    file = write(tmp_path / "a:b" / "own.py", ["config.retrain.k = 7"])
    parsed, name, _ = config.from_command_line(["x", f"--config={file}:10,smoke"])
    assert (parsed.data.imbalance_factor, parsed.retrain.k, name) == (10.0, 7, "own")
    odd = write(tmp_path / "own.py:c.py", ["config.retrain.k = 8"])
    assert config.from_command_line(["x", f"--config={odd}"])[0].retrain.k == 8
    assert config.split_tokens("configs/digits_lt.py:method=a.py") == ("configs/digits_lt.py", "method=a.py")


@pytest.mark.parametrize("module", ["lt_jax.main", "lt_jax.report", "lt_jax.data.prepare"])
def test_help_works_without_docstrings(module):
    words = [sys.executable, "-OO", "-m", module, "--help"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"python -m {module}" in text


def test_a_missing_home_folder_is_refused(tmp_path, run_main, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_main("--workdir=~nobody_here/run") == 2
    assert "--workdir: there is no home folder '~nobody_here'" in capsys.readouterr().err
    assert run_main("--stage=predict", "--images=~nobody_here/cat.jpg", f"--workdir={tmp_path}") == 2
    assert run_main("--config=~nobody_here/own.py") == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(errors.BadInput, match="home"):
        import lt_jax

        lt_jax.load("~nobody_here/run")
