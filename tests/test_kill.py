"""Killed in every stage, started again, and the result is that of an unbroken run."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

STAGES = ("pretrain", "probe", "baseline", "retrain")
LONGER = (
    "--config.pretrain.epochs=10",
    "--config.probe.epochs=8",
    "--config.baseline.epochs=8",
    "--config.retrain.epochs=10",
    "--config.retrain.redraw_every=3",
    "--config.checkpoint.every_steps=1",
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, run_main, tiny):
    workdir = tmp_path_factory.mktemp("unbroken")
    assert run_main(*tiny, *LONGER, f"--workdir={workdir}") == 0
    return workdir


def start(tiny, workdir):
    command = [sys.executable, "-m", "lt_jax.main", *tiny, *LONGER, f"--workdir={workdir}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def kill_in(process, folder, number, after):
    """Sends the signal once a checkpoint of step `after` or later is there; returns (status, what was said)."""
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if folder.exists() and any(path.name.isdigit() and int(path.name) >= after for path in folder.iterdir()):
            process.send_signal(number)
            break
        time.sleep(0.002)
    said = process.communicate(timeout=300)[1]
    return process.returncode, said


def without_time(path):
    result = json.loads((path / "result.json").read_text())
    del result["timing"]
    return result


@pytest.mark.slow
def test_killed_in_every_stage(unbroken, tmp_path, tiny):
    generator = np.random.default_rng()
    said, resumed = "", []
    for stage in STAGES:
        after = int(generator.integers(1, 8))
        number = signal.SIGTERM if stage == "baseline" else signal.SIGKILL
        status, said = kill_in(start(tiny, tmp_path), tmp_path / "checkpoints" / stage, number, after)
        assert status == (75 if stage == "baseline" else -signal.SIGKILL), (stage, after, said)
        resumed += [line for line in said.splitlines() if "resuming from step" in line]
    process = start(tiny, tmp_path)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    resumed += [line for line in said.splitlines() if "resuming from step" in line]
    assert [line.split("] ")[1].split(":")[0] for line in resumed] == list(STAGES), resumed
    assert without_time(tmp_path) == without_time(unbroken)
    for path in (unbroken / "subsets").iterdir():
        np.testing.assert_array_equal(np.load(path)["indices"], np.load(tmp_path / "subsets" / path.name)["indices"])
