"""A running process owns its work directory; the lock of a process that has ended has no effect."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from lt_jax.core import errors, lock

ROOT = pathlib.Path(__file__).resolve().parents[1]


def holder(workdir):
    """Starts a process that owns the directory until it is killed."""
    code = (
        "import sys, time; from etils import epath; from lt_jax.core import lock\n"
        f"with lock.owned(epath.Path({os.fspath(workdir)!r})):\n print('owned', flush=True); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "owned\n"
    return process


@pytest.fixture
def living(tmp_path):
    process = holder(tmp_path)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_and_changes_nothing(living, tmp_path, run_main, tiny, capsys):
    assert run_main(*tiny, "--config.seed=5", f"--workdir={tmp_path}") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"is in use by process {living.pid} on" in line and "choose another --workdir" in line
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


def test_the_lock_of_a_killed_run_is_taken_over(living, tmp_path):
    living.send_signal(signal.SIGKILL)  # the process stays a zombie until the fixture waits for it
    time.sleep(0.2)
    with lock.owned(epath.Path(tmp_path)):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


def test_a_copy_of_a_locked_directory_is_not_locked(living, tmp_path):
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    with lock.owned(epath.Path(copy)):
        assert json.loads((copy / "lock.json").read_text())["process"] == os.getpid()


def test_only_one_of_many_simultaneous_runs_gets_the_lock(tmp_path):
    outcomes, together, all_refused = [], threading.Barrier(8), threading.Event()

    def start():
        together.wait()
        try:
            with lock.owned(epath.Path(tmp_path)):
                all_refused.wait(30)
                outcomes.append("owned")
        except errors.BadInput:
            outcomes.append("refused")
            if len(outcomes) == 7:
                all_refused.set()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["owned"] + ["refused"] * 7


def elsewhere(workdir, **change):
    """Writes the lock of a run on another machine and returns its content."""
    owner = {**lock._this_process(epath.Path(workdir)), "machine": "elsewhere", "host": "node7", **change}
    (workdir / "lock.json").write_text(json.dumps(owner))
    return owner


def test_the_lock_of_a_silent_run_on_another_machine_is_taken_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "_WATCH_S", 0.3)
    monkeypatch.setattr(lock, "_LOOK_S", 0.05)
    elsewhere(tmp_path)
    with lock.owned(epath.Path(tmp_path)):
        pass
    assert "on node7" in capsys.readouterr().err


def test_a_run_on_another_machine_keeps_its_lock_while_it_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WATCH_S", 5.0)
    monkeypatch.setattr(lock, "_LOOK_S", 0.05)
    owner = elsewhere(tmp_path)
    beat = threading.Timer(0.2, lambda: (tmp_path / "lock.json").write_text(json.dumps({**owner, "beat": 2})))
    beat.start()
    with pytest.raises(errors.BadInput, match="in use by process .* on node7"), lock.owned(epath.Path(tmp_path)):
        pass
    beat.join()


def test_a_lock_that_is_half_written_names_the_owner_that_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WATCH_S", 5.0)
    monkeypatch.setattr(lock, "_LOOK_S", 0.05)
    elsewhere(tmp_path)
    beat = threading.Timer(0.2, lambda: (tmp_path / "lock.json").write_text('{"machine": "else'))
    beat.start()
    with pytest.raises(errors.BadInput, match="in use by process .* on node7"), lock.owned(epath.Path(tmp_path)):
        pass
    beat.join()


def test_a_run_whose_lock_was_taken_over_ends(tmp_path, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(lock, "_BEAT_S", 0.05)
    monkeypatch.setattr(lock, "_end", lambda line: ended.set() if "taken over by process" in line else None)
    with lock.owned(epath.Path(tmp_path)):
        elsewhere(tmp_path, token="another")
        assert ended.wait(5.0)


def test_a_removed_work_directory_is_not_created_again(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_S", 0.05)
    (tmp_path / "run").mkdir()
    with lock.owned(epath.Path(tmp_path / "run")):
        shutil.rmtree(tmp_path / "run")
        time.sleep(0.3)
        assert not (tmp_path / "run").exists()


def test_damaged_lock_files_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WATCH_S", 0.2)
    monkeypatch.setattr(lock, "_LOOK_S", 0.05)
    for content in ("", "{", "[]", '{"token": 1}'):
        (tmp_path / "lock.json").write_text(content)
        with lock.owned(epath.Path(tmp_path)):
            assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
