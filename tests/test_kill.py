"""A run that is killed in every stage and restarted gives the results of an uninterrupted run."""

import importlib.util
import json
import pathlib
import signal
import sys

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
# At least 18 steps a stage, of which every second one saves.
SHORT = (
    *(f"--config.{stage}.epochs={n}" for stage, n in (("pretrain", 4), ("probe", 3), ("baseline", 3), ("retrain", 4))),
    "--config.checkpoint.every_steps=2",
)


@pytest.fixture(scope="module")
def kill():
    """Returns the module benchmarks/kill.py."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmarks_kill", FOLDER / "kill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


@pytest.fixture(scope="module")
def words(kill, tiny):
    return (*kill.WORDS, *SHORT, tiny[-1])


@pytest.fixture(scope="module")
def start(kill, words):
    """Returns start(workdir) -> process of a run with one device; eight devices take 1.5 times as long."""

    def start_on_one_device(workdir):
        with pytest.MonkeyPatch.context() as patch:  # not longer: JAX in this process may still have to start
            patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
            return kill.start(workdir, words)

    return start_on_one_device


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, kill, start):
    workdir = tmp_path_factory.mktemp("unbroken")
    status, stderr = kill.finish(start(workdir))
    assert status == 0, stderr
    return workdir


@pytest.mark.slow
def test_killed_in_every_stage(unbroken, tmp_path, kill, start):
    seed = np.random.SeedSequence().entropy
    print(f"moments of seed {seed}")  # which a failed test shows
    generator = np.random.default_rng(seed)
    resumed = []
    for stage in kill.TRAINED:
        name = "SIGTERM" if stage == "baseline" else "SIGKILL"
        moment = "inside a save" if stage == "retrain" else "saved"
        after = int(generator.integers(3, 8))  # not the first save, of step 2: there is no earlier one to resume from
        point = {"stage": stage, "moment": moment, "signal": name, "after_step": after}
        process = start(tmp_path)
        assert kill.kill_at(process, tmp_path, point), point
        status, stderr = kill.finish(process)
        assert status == (75 if name == "SIGTERM" else -signal.SIGKILL), (point, stderr)
        resumed += [line for line in stderr.splitlines() if "resuming from step" in line]
    status, stderr = kill.finish(start(tmp_path))
    assert status == 0, stderr
    resumed += [line for line in stderr.splitlines() if "resuming from step" in line]
    assert [line.split("] ")[1].split(":")[0] for line in resumed] == list(kill.TRAINED), resumed
    assert kill.differences(tmp_path, unbroken) == []


def test_only_times_may_differ(kill, finished, copied):
    result = json.loads((copied / "result.json").read_text())
    result["timing"] = {}
    for method in result["methods"].values():
        method["seconds"] = 1e6
    (copied / "result.json").write_text(json.dumps(result))
    assert kill.differences(copied, finished) == []
    result["test"]["overall"] += 1e-9
    (copied / "result.json").write_text(json.dumps(result))
    assert kill.differences(copied, finished) == ["result.json"]


def test_plan_covers_every_stage_and_moment(kill):
    points = [kill.plan(number) for number in range(30)]
    seen = {(point["stage"], point["moment"]) for point in points}
    assert {(stage, moment) for stage in kill.TRAINED for moment in kill.MOMENTS} <= seen
    assert {stage for stage, _ in seen} == set(kill.STAGES)
    assert {point["signal"] for point in points} == {"SIGKILL", "SIGTERM"}
