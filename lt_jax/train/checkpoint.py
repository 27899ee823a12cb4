"""Checkpoints. A save is one unit of three items:

variables   parameters and batch statistics: all that using the network needs, on any number of devices
optimizer   step, optimizer state, first bad step, the memory of an objective, and where `variables` are a moving
            average the values being trained
progress    what belongs to that step: round of the subset, seconds

This is the only module that imports orbax.
"""

import contextlib
import gc
import hashlib
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath

from lt_jax.core import distributed, errors, files, log
from lt_jax.train import state

_PAUSE_S = 1.0  # after a try to read that failed


class _Manager(ocp.CheckpointManager):
    """JAX agrees on a step to stop at by counting who has asked how often: only `interrupt` may ask, not orbax too."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Saver:
    """Saves and restores one stage's state under `folder`."""

    def __init__(self, folder: epath.Path, keep: int):
        self._folder = folder
        if distributed.is_main():
            _clean(folder)
        distributed.wait(f"{folder} is clean")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = _Manager(_absolute(folder), options=options)
        self._quiet = contextlib.ExitStack()

    def restore(self, like: state.TrainState) -> tuple[state.TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, with its progress; None where there is none.

        One that some process cannot read is named, removed and passed over, by all of them.

        Args:
          like: a state of the same structure, of arrays or of their shapes; arrays come back in its places.
        """
        restored, step, failed = _newest(epath.Path(self._manager.directory), self._manager.all_steps(), like)
        instead = "starting over" if restored is None else f"using step {step}"
        for broken, reason in failed:
            log.say(f"checkpoint {self._folder / str(broken)} is broken ({reason}); {instead}")
            self._manager.delete(broken)
        return restored

    def save(self, current: state.TrainState, progress: dict[str, Any]) -> None:
        """Starts a save in the background; a step that is saved already is left alone.

        Raises:
          RunFailed: an earlier step was not finite, the disk refuses, or the folder is gone.
        """
        if _is_local(self._folder):  # a bucket has no folders
            files.check_there(self._folder)
        step = int(current.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(current.averaged()),
            optimizer=ocp.args.StandardSave(_optimizer(current)),
            progress=ocp.args.JsonSave(progress),
        )
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._refused(f"step {step}", error) from error

    def wait(self) -> None:
        """Until every save is committed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._refused("the last step", error) from error

    def __enter__(self) -> "Saver":
        self._quiet.enter_context(_without_echo())
        return self

    def __exit__(self, *exception: object) -> None:
        """Lets a save that is under way finish, also when the run has failed; without a peer it never would."""
        if not any(isinstance(x, BaseException) and distributed.is_lost_peer(x) for x in exception):
            self._manager.close()
        if exception[0] is None:
            self._quiet.close()
        else:  # the process ends, and what is left of a failed save would speak until then
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited")

    def _refused(self, step: str, error: Exception) -> errors.RunFailed:
        full = "No space left" in str(error)
        reason = "no space left on the disk" if full else errors.first_line(error)
        return errors.RunFailed(f"could not save {step} under {self._folder}: {reason}; earlier checkpoints are kept")


def load(workdir: epath.Path, stage: str) -> dict[str, Any]:
    """The variables of the network that a finished stage has trained, as NumPy arrays. Only looks: nothing is removed.

    Raises:
      BadInput: the stage is not finished, or its newest checkpoint cannot be read.
    """
    about = files.read_json(workdir / "stages" / f"{stage}.json")
    folder = workdir / "checkpoints" / stage
    if about is None or about["status"] != "complete" or not folder.exists():
        raise errors.BadInput(f"no finished {stage} in {workdir}: run --stage={stage} first")
    newest = _newest_folder(workdir, stage)
    if (newest / "state").exists():
        raise errors.BadInput(f"{workdir} was made by lt_jax 0.1, whose checkpoints this version does not read")
    variables, reason = _twice(lambda: _read_variables(_absolute(newest)))
    if variables is None:
        log.say(f"checkpoint {newest} cannot be read ({reason})")
        raise errors.BadInput(
            f"the last checkpoint of {stage} in {workdir} cannot be read; if it is broken, delete "
            f"stages/{stage}.json there and run --stage={stage}: it goes on from the checkpoint before"
        )
    return state.of_network(variables)


def write(workdir: epath.Path, stage: str, variables: dict[str, Any]) -> None:
    """Saves variables that were not trained here, in the form that a finished training leaves.

    Raises:
      RunFailed: the disk refuses.
    """
    current = state.create(jax.tree.map(jnp.asarray, variables), optax.identity(), trainable=())
    with Saver(workdir / "checkpoints" / stage, keep=1) as saver:
        saver.save(current, {})
        saver.wait()


def exists(workdir: epath.Path, stage: str) -> bool:
    """Whether the stage has saved anything."""
    return bool(_steps(workdir / "checkpoints" / stage))


def copy(source: epath.Path, stage: str, workdir: epath.Path, name: str) -> str:
    """Copies the newest checkpoint of a stage of another work directory to `checkpoints/NAME`.

    Returns:
      Its content digest.

    Raises:
      BadInput: there is none.
      RunFailed: the disk refuses.
    """
    newest = _newest_folder(source, stage)
    folder = workdir / "checkpoints" / name
    if folder.exists():  # of a copy that was interrupted
        folder.rmtree()
    target = folder / newest.name
    for path in _files_below(newest):
        files.write_bytes(target / os.path.relpath(path, newest), path.read_bytes())
    return content_digest(workdir, name)


def content_digest(workdir: epath.Path, stage: str) -> str:
    """SHA-256 of the names and contents of the files of the newest checkpoint.

    Raises:
      BadInput: there is none.
    """
    newest = _newest_folder(workdir, stage)
    digest = hashlib.sha256()
    for path in _files_below(newest):
        digest.update(os.path.relpath(path, newest).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _newest_folder(workdir: epath.Path, stage: str) -> epath.Path:
    folder = workdir / "checkpoints" / stage
    steps = _steps(folder)
    if not steps:
        raise errors.BadInput(f"no checkpoint of {stage} in {workdir}")
    return folder / str(max(steps))


def _steps(folder: epath.Path) -> list[Any]:
    return ocp.utils.checkpoint_steps(folder) if folder.exists() else []


def _files_below(folder: epath.Path) -> Iterator[Any]:
    """All files, at any depth, by name."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def _newest(folder: epath.Path, steps: list[Any], like: state.TrainState) -> tuple[Any, ...]:
    """((state, progress) or None, its step, [(step, reason) of newer ones that some process could not read])."""
    restored, failed, left = None, [], sorted(steps)
    while (step := distributed.agree(left.pop() if left else -1)) >= 0:
        at_step = folder / str(step)
        restored, reason = _twice(lambda at_step=at_step: _read(at_step, like))
        if distributed.all_say(restored is not None):
            break
        failed.append((step, "another process cannot read it" if restored is not None else reason))
        restored = None
    return restored, step, failed


def _twice(read: Callable[..., Any]) -> tuple[Any, ...]:
    """(what `read` returns or None, why not). It tries twice: a store may fail for a moment, and what one process
    cannot read is removed."""
    for _ in range(2):
        with _without_echo():
            try:
                return jax.block_until_ready(read()), ""
            except Exception as error:
                reason = errors.first_line(error)
            time.sleep(_PAUSE_S)
            gc.collect()  # asyncio speaks of a failed read when it is freed
    return None, reason


def _read(folder: Any, like: Any) -> Any:
    """(state, progress). Each process reads for itself: the manager's own restore ends at a barrier, and a process that
    fails before it leaves the others there, or meets them with another step."""
    variables = _restore(folder / "variables", like.averaged())
    optimizer = _restore(folder / "optimizer", _optimizer(like))
    progress = ocp.JsonCheckpointHandler().restore(folder / "progress")
    params = variables["params"]
    trained = {"params": state.part_like(params, like.params), "batch_stats": variables["batch_stats"]}
    frozen = state.part_like(params, like.frozen)
    if like.average is None:
        return like.replace(**trained, frozen=frozen, **optimizer), dict(progress)
    return like.replace(**{**optimizer, "average": trained, "frozen": frozen}), dict(progress)


def _read_variables(folder: epath.Path) -> dict[str, Any]:
    metadata = ocp.StandardCheckpointHandler().metadata(folder / "variables")
    like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), metadata.tree)
    return ocp.StandardCheckpointHandler().restore(folder / "variables", args=ocp.args.StandardRestore(like))


def _restore(folder: Any, like: Any) -> Any:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    return ocp.StandardCheckpointHandler().restore(folder, args=ocp.args.StandardRestore(abstract))


def _optimizer(current: state.TrainState) -> dict[str, Any]:
    names: tuple[str, ...] = ("step", "opt_state", "bad_step")
    if current.memory is not None:
        names += ("memory",)
    if current.average is not None:  # then the item `variables` has the average
        names += ("params", "batch_stats")
    return {name: getattr(current, name) for name in names}


@contextlib.contextmanager
def _without_echo() -> Iterator[None]:
    """Where one array cannot be read or written, all others fail too, in threads: each would print a traceback."""
    hook, logger = sys.unraisablehook, logging.getLogger("asyncio")
    level = logger.level

    def all_but_closed_loops(about):
        message = str(about.exc_value)
        if message != "Event loop is closed" and "was never awaited" not in message:
            hook(about)

    sys.unraisablehook = all_but_closed_loops
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)


def _clean(folder: epath.Path) -> None:
    """Removes what a killed save left behind; orbax passes it over but never deletes it."""
    if not folder.exists():
        return
    for leftover in folder.glob("*.orbax-checkpoint-tmp*"):
        log.say(f"removing the half-written checkpoint {leftover}")
        shutil.rmtree(leftover) if _is_local(folder) else leftover.rmtree()


def _absolute(folder: epath.Path) -> epath.Path:
    """As orbax wants it."""
    return epath.Path(os.path.abspath(folder)) if _is_local(folder) else folder


def _is_local(folder: epath.Path) -> bool:
    return "://" not in os.fspath(folder)
