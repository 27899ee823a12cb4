"""Several processes on this machine train one model; they are killed, stopped or lost, and resume on any number."""

import argparse
import concurrent.futures
import json
import pathlib
import shutil
import signal
import sys
import time

import jax
import numpy as np
import pytest

from configs import digits_lt
from launch import local
from lt_jax import data, ipdpp
from lt_jax.core import distributed, errors

# Relative, after 20 steps: sums in another order differ in the last bit, and training amplifies the difference.
ROUNDING = 2e-4
STAGES = ("--config.stages=('pretrain','retrain','evaluate','report')",)
LONGER = ("--config.pretrain.epochs=4", "--config.checkpoint.every_steps=2", "--config.host.heartbeat_seconds=10")


def start(count, words, workdir):
    options = argparse.Namespace(processes=count, devices=1, port=None)
    command = local.command([*words, *STAGES, *LONGER, f"--workdir={workdir}"])
    return [local.start(local.environment(options, i, 0), command) for i in range(count)]


def finish(processes, seconds=400):
    """Returns (status, output) of each process.

    All outputs are read at the same time: a process with a full pipe would wait, and the other processes for it.
    """
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as readers:
        outputs = list(readers.map(lambda process: process.communicate(timeout=seconds)[0], processes))
    return [(process.returncode, text) for process, text in zip(processes, outputs, strict=True)]


def until_step(processes, workdir, step):
    """Waits for a checkpoint of pretraining of `step` or later."""
    folder, deadline = workdir / "checkpoints/pretrain", time.monotonic() + 300
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if folder.exists() and any(path.name.isdigit() and int(path.name) >= step for path in folder.iterdir()):
            return
        time.sleep(0.01)
    for process in processes:
        process.kill()
    raise AssertionError(finish(processes))


def losses(workdir, stage="pretrain"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses_by_step = {line["step"]: line["loss"] for line in lines if line["stage"] == stage}
    assert list(losses_by_step) == list(range(1, len(losses_by_step) + 1))
    return list(losses_by_step.values())


def result(workdir):
    return json.loads((workdir / "result.json").read_text())["test"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny):
    """Returns the work directory of an uninterrupted run on two processes."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    for status, output in finish(start(2, tiny, workdir)):
        assert status == 0, output
    return workdir


@pytest.fixture(scope="module")
def killed(tmp_path_factory, tiny):
    """Returns the work directory of a run on two processes that were both killed in pretraining."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    processes = start(2, tiny, workdir)
    until_step(processes, workdir, 4)
    for process in processes:
        process.kill()
    finish(processes)
    return workdir


@pytest.mark.slow
def test_two_processes_train_like_one(two, tmp_path, run_main, tiny):
    assert run_main(*tiny, *STAGES, *LONGER, "--stage=pretrain", f"--workdir={tmp_path}") == 0
    assert len(losses(two)) == 20
    np.testing.assert_allclose(losses(two), losses(tmp_path), rtol=ROUNDING)
    assert json.loads((two / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_two_processes_draw_the_subset_of_one_process(two):
    labels = data.load(digits_lt.get_config("smoke").data).train.labels
    assert len(list((two / "subsets").iterdir())) == 2
    for path in (two / "subsets").iterdir():
        subset = dict(np.load(path))
        key = jax.random.wrap_key_data(subset["key"])
        again = ipdpp.select_balanced(key, None, labels, int(subset["k"]), log_probabilities=subset["log_p"])
        np.testing.assert_array_equal(subset["indices"], again)


@pytest.mark.slow
def test_killed_and_resumed_on_the_same_number_is_bit_equal(two, killed, tmp_path, tiny):
    workdir = pathlib.Path(shutil.copytree(killed, tmp_path / "run"))
    ended = finish(start(2, tiny, workdir))
    assert [status for status, _ in ended] == [0, 0], ended
    assert "pretrain: resuming from step" in ended[0][1] and "resuming" not in ended[1][1]
    assert losses(workdir) == losses(two) and losses(workdir, "retrain") == losses(two, "retrain")
    assert result(workdir) == result(two)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_killed_and_resumed_on_another_number(two, killed, tmp_path, tiny, count):
    workdir = pathlib.Path(shutil.copytree(killed, tmp_path / "run"))
    for status, output in finish(start(count, (*tiny, "--stage=pretrain"), workdir)):
        assert status == 0, output
    np.testing.assert_allclose(losses(workdir), losses(two), rtol=ROUNDING)


@pytest.mark.slow
def test_four_processes_train_like_two_and_are_resumed_on_two(two, tmp_path, tiny):
    words = (*tiny, "--stage=pretrain")
    processes = start(4, words, tmp_path)
    until_step(processes, tmp_path, 10)
    for process in processes:
        process.kill()
    finish(processes)
    ended = finish(start(2, words, tmp_path))
    assert [status for status, _ in ended] == [0, 0] and "pretrain: resuming from step" in ended[0][1], ended
    np.testing.assert_allclose(losses(tmp_path), losses(two), rtol=ROUNDING)


def truncate(folder, pattern):
    files = [path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size > 1]
    assert files, sorted(folder.rglob("*"))
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def newest(workdir):
    steps = sorted(int(path.name) for path in (workdir / "checkpoints/pretrain").iterdir() if path.name.isdigit())
    return steps[-1], steps[-2]


@pytest.mark.slow
def test_a_truncated_checkpoint_is_reported_and_the_previous_one_is_used(two, killed, tmp_path, tiny):
    workdir = pathlib.Path(shutil.copytree(killed, tmp_path / "run"))
    last, before = newest(workdir)
    truncate(workdir / f"checkpoints/pretrain/{last}/variables", "**/d/*")
    ended = finish(start(2, (*tiny, "--stage=pretrain"), workdir), seconds=200)
    assert [status for status, _ in ended] == [0, 0], ended
    assert f"pretrain/{last} is broken" in ended[0][1] and f"resuming from step {before} of 20" in ended[0][1]
    assert losses(workdir) == losses(two)


@pytest.mark.slow
def test_a_truncated_part_of_a_split_checkpoint_is_reported(two, tmp_path, tiny):
    words = (*tiny, "--stage=pretrain", "--config.host.shard_params=True")
    ended = finish(start(2, words, tmp_path))
    assert [status for status, _ in ended] == [0, 0], ended
    assert "each of 2 devices holds" in ended[0][1]
    np.testing.assert_allclose(losses(tmp_path), losses(two), rtol=ROUNDING)

    whole = losses(tmp_path)
    last, before = newest(tmp_path)
    (tmp_path / "stages/pretrain.json").unlink()
    truncate(tmp_path / f"checkpoints/pretrain/{last}/variables", "ocdbt.process_1/d/*")
    ended = finish(start(2, words, tmp_path), seconds=200)
    assert [status for status, _ in ended] == [0, 0], ended
    assert f"pretrain/{last} is broken" in ended[0][1] and f"resuming from step {before} of 20" in ended[0][1]
    assert losses(tmp_path) == whole


@pytest.mark.slow
def test_a_signal_stops_both_processes_and_a_lost_process_ends_the_other(two, tmp_path, tiny):
    processes = start(2, tiny, tmp_path)
    until_step(processes, tmp_path, 2)
    processes[1].terminate()
    ended = finish(processes)
    assert [status for status, _ in ended] == [75, 75], ended
    lines = [[line for line in output.splitlines() if line.startswith("lt_jax: ")] for _, output in ended]
    assert lines[0] == lines[1] and "and saved; run the same command again" in lines[0][0]

    processes = start(2, tiny, tmp_path)
    until_step(processes, tmp_path, 12)
    processes[1].kill()
    ended = finish(processes, seconds=60)
    assert ended[0][0] == 1, ended
    assert ended[0][1].count(f"lt_jax: {distributed.LOST}") == 1, ended

    ended = finish(start(2, tiny, tmp_path))
    assert [status for status, _ in ended] == [0, 0], ended
    assert losses(tmp_path) == losses(two) and result(tmp_path) == result(two)


@pytest.mark.slow
def test_a_signal_stops_a_single_process_of_the_launcher(tmp_path, tiny):
    processes = start(1, tiny, tmp_path)
    until_step(processes, tmp_path, 2)
    processes[0].terminate()
    ((status, output),) = finish(processes)
    assert status == 75 and "and saved; run the same command again" in output, output


@pytest.mark.slow
def test_a_process_without_its_peers_ends_with_a_one_line_error(tmp_path, tiny):
    options = argparse.Namespace(processes=2, devices=1, port=None)
    settings = [local.environment(options, i, 0) for i in range(2)]
    words = local.command([*tiny, "--config.host.start_seconds=5", f"--workdir={tmp_path}"])
    for setting in settings:
        ((status, output),) = finish([local.start(setting, words)])
        lines = [line for line in output.splitlines() if line.startswith("lt_jax: ")]
        assert status == 1 and len(lines) == 1 and "process" in lines[0], output


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_stopped_process_ends_the_other(tmp_path, tiny, number):
    """A lost machine closes no connection; missing heartbeats reveal it."""
    processes = start(2, tiny, tmp_path)
    until_step(processes, tmp_path, 2)
    processes[number].send_signal(signal.SIGSTOP)
    status, output = finish([processes[1 - number]], seconds=60)[0]
    processes[number].kill()
    finish([processes[number]])
    assert status == 1 and output.count(f"lt_jax: {distributed.LOST}") == 1, output


BAD = {
    "no number": ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES: expected a number"),
    "number missing": ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID: expected a number"),
    "too large": ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID: expected less than"),
    "no address": ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS: expected host:port"),
}


@pytest.mark.parametrize(("environment", "message"), BAD.values(), ids=BAD)
def test_an_invalid_environment_is_a_one_line_error(environment, message, monkeypatch, run_main, tmp_path, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_main(f"--workdir={tmp_path}") == 2
    error_line = capsys.readouterr().err
    assert error_line.startswith(f"lt_jax: {message}") and len(error_line.splitlines()) == 1


def test_a_single_process_in_a_cluster_is_not_distributed(monkeypatch):
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not distributed._in_cluster()  # a batch script, or a shell in an allocation: no srun
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert distributed._in_cluster()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert not distributed._in_cluster()


def test_only_known_errors_mean_a_lost_peer(monkeypatch):
    monkeypatch.setattr(distributed, "several", lambda: True)
    assert distributed.is_lost_peer(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"))
    assert not distributed.is_lost_peer(ValueError("shapes (3,) and (4,) differ"))
    monkeypatch.setattr(distributed, "several", lambda: False)
    assert not distributed.is_lost_peer(ValueError("Gloo"))


def test_only_the_first_process_writes(monkeypatch, tmp_path):
    from lt_jax.core import files

    monkeypatch.setattr(distributed, "is_main", lambda: False)
    files.write_json(tmp_path / "x.json", {})
    assert not (tmp_path / "x.json").exists()
    files.write_bytes(tmp_path / "shard", b"x", by_all=True)
    assert (tmp_path / "shard").exists()


def test_a_batch_that_cannot_be_split_is_refused(monkeypatch):
    from lt_jax.train import sharding

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(errors.BadInput, match="a global batch of 64 cannot be split over 3 processes"):
        sharding.mesh(64)
    assert sharding.divisible(64) == 66


def test_local_dry_run_prints_each_process(capsys, monkeypatch):
    monkeypatch.setattr(local, "count_gpus", lambda: 0)
    assert local.main(["2", "--devices=3", "--port=1234", "--dry-run", "--", "--stage=pretrain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert line.startswith("env ") and f"JAX_PROCESS_ID={number} " in line and "JAX_NUM_PROCESSES=2" in line
        assert "JAX_COORDINATOR_ADDRESS=localhost:1234" in line and "device_count=3" in line
        assert line.endswith(f"{sys.executable} -m lt_jax.main --stage=pretrain")
    assert local.main(["2", "--gpus=8", "--port=1234", "--dry-run"]) == 0
    assert "JAX_LOCAL_DEVICE_IDS=4,5,6,7" in capsys.readouterr().out.splitlines()[1]


def test_local_ends_all_processes_when_one_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "GRACE", 0.2)
    monkeypatch.setattr(local, "ROOT", tmp_path)
    code = (
        f"import os, time; time.sleep(30 * int(os.environ['N'])); open('{tmp_path}/' + os.environ['N'], 'w'); exit(3)"
    )
    words = [sys.executable, "-c", code]
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert local.run([{"N": "1"}, {"N": "0"}], words) == 3
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
