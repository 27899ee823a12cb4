"""The runs of a comparison: one after the other in this process, or several at a time in processes of their own."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

import jax

from lt_jax.core import errors, garbage, interrupt, log

# A second run uses a core better than a second thread of a small network does.
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


class Task(NamedTuple):
    """A run of the command line.

    Attributes:
      folder: its work directory.
      config: what it runs.
      before: the folder of the run that it starts from, "" for none.
      prepare: called before it starts, when the run before has ended.
    """

    folder: str
    config: Any
    before: str = ""
    prepare: Callable[[], None] = lambda: None


def run_all(tasks: list[Task], count: int) -> dict[str, str]:
    """Runs the tasks, `count` at a time; returns folder -> reason of those that failed. The others go on.

    A task comes after the one that it starts from. With a count above 1 so many processes of one thread share the
    runs, which print to `log.txt` in their folders; the last bits of their numbers may differ.

    Raises:
      BadInput: a run refuses its config or data, or there are several at a time on an accelerator.
      Stopped: SIGTERM or Ctrl-C; all runs have saved.
    """
    if count == 1:
        return _in_turn(tasks)
    if jax.default_backend() != "cpu":
        raise errors.BadInput(f"--jobs: expected 1 on an accelerator, which one run fills, found {count}")
    return _beside(tasks, count)


def _in_turn(tasks: list[Task]) -> dict[str, str]:
    failed: dict[str, str] = {}
    began = time.monotonic()
    for number, task in enumerate(tasks):
        _say_progress(number, len(tasks), began)
        if task.before in failed:
            failed[task.folder] = failed[task.before]
            continue
        task.prepare()
        try:
            _run(task.config, task.folder)
        except errors.BadInput:
            raise
        except Exception as error:
            if not isinstance(error, errors.RunFailed):
                traceback.print_exc()
            failed[task.folder] = _why(error)
            log.say(f"{task.folder} failed: {failed[task.folder]}")
    return failed


def _why(error: Exception) -> str:
    """Why a run failed, in one line."""
    if isinstance(error, errors.RunFailed):
        return str(error)
    return f"{type(error).__name__}: {errors.first_line(error)}"


def _say_progress(number: int, total: int, began: float) -> None:
    left = f", about {(time.monotonic() - began) / number * (total - number) / 60:.0f} minutes left" if number else ""
    log.say(f"run {number + 1} of {total}{left}")


def _run(config: Any, folder: str) -> None:
    from lt_jax import main as command_line  # here, so that a process starts its watch before it waits for JAX

    command_line.run(config, types.SimpleNamespace(workdir=folder, stage="all"))


class _Worker(NamedTuple):
    """A process that runs tasks, one after the other, so that it starts Python and traces shared programs once."""

    process: Any
    pipe: connection.Connection  # (config, folder) to it; (exit status, reason) from it


def _beside(tasks: list[Task], count: int) -> dict[str, str]:
    failed: dict[str, str] = {}
    finished: set[str] = {""}
    waiting, running, idle = list(tasks), dict[Any, tuple[_Worker, Task]](), list[_Worker]()
    began = time.monotonic()
    with _environment("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}"):
        try:
            while waiting or running:
                for task in list(waiting):
                    if task.before in failed:
                        failed[task.folder] = failed[task.before]
                        waiting.remove(task)
                    elif task.before in finished and len(running) < count:
                        _say_progress(len(tasks) - len(waiting), len(tasks), began)
                        task.prepare()
                        worker = idle.pop() if idle else _started()
                        worker.pipe.send((task.config, task.folder))
                        running[worker.pipe] = worker, task
                        waiting.remove(task)
                for pipe in connection.wait(list(running)) if running else ():  # it would wait for nothing forever
                    worker, task = running.pop(pipe)
                    idle += _settled(worker, task, finished, failed)
        finally:
            for worker, _ in running.values():
                worker.process.terminate()  # it saves
            for worker in (*idle, *(worker for worker, _ in running.values())):
                worker.pipe.close()  # ends an idle one
                worker.process.join()
    return failed


def _started() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,))
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _settled(worker: _Worker, task: Task, finished: set[str], failed: dict[str, str]) -> list[_Worker]:
    """Notes how a run has ended; returns the worker if it can run another task."""
    try:
        status, reason = worker.pipe.recv()
    except EOFError:
        worker.process.join()
        status, reason = 1, f"its process has ended with status {worker.process.exitcode}"
    for kind in (errors.BadInput, errors.Stopped):
        if status == errors.EXIT_STATUS[kind]:
            raise kind(reason)
    if status == 0:
        finished.add(task.folder)
    else:
        log.say(f"{task.folder} failed: {reason}")
        failed[task.folder] = reason
    return [worker] if worker.process.is_alive() else []


def _work(pipe: connection.Connection) -> None:
    """The body of a process: runs what comes through the pipe, until it is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    interrupt.install()
    garbage.collect_rarely()
    while True:
        try:
            config, folder = pipe.recv()
        except (EOFError, errors.Stopped):
            return
        with _output_to(folder):
            outcome = _outcome(config, folder)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it after a stop
            pipe.send(outcome)


def _outcome(config: Any, folder: str) -> tuple[int, str]:
    """(exit status, why it failed) of a run."""
    try:
        _run(config, folder)
    except tuple(errors.EXIT_STATUS) as error:
        print(f"lt_jax: {error}", file=sys.stderr)
        return errors.EXIT_STATUS[type(error)], str(error)
    except Exception as error:
        traceback.print_exc()
        return 1, _why(error)
    return 0, ""


def _end_with_parent() -> None:
    """Ends this process when the one that has started it is gone, as after SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _output_to(folder: str) -> Iterator[None]:
    """Appends what is printed to `log.txt` in a local folder."""
    if "://" in folder:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    with (
        open(os.path.join(folder, "log.txt"), "a") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        yield


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
