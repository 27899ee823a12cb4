"""Several processes as one run: start, synchronisation, the writing process, and lost processes.

JAX is imported only if a run has several processes, so that --help and errors in flags are fast.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from typing import Any

from lt_jax.core import errors

COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
LOST = "another process of this run has ended or cannot be reached; run the same command again to resume"
_SIGNS = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service", "Connection", "heartbeat")
_LINGER = 3.0  # seconds
_keep: list[Any] = []  # C code calls these, so they must not be garbage-collected


def start(options: Any) -> None:
    """Starts `jax.distributed`, before any other call of JAX; `options` is config.host.

    The environment identifies this process: our three variables, or those of Slurm, Open MPI, Cloud TPU and Kubernetes,
    which JAX reads itself.

    Raises:
      BadInput: a variable is missing or not a number.
      RunFailed: the other processes did not start in time.
    """
    variables_set = [name for name in (PROCESSES, PROCESS) if os.environ.get(name)]
    if options.distributed == "off" or (options.distributed == "auto" and not variables_set and not _in_cluster()):
        return
    arguments = _from_environment() if variables_set else {}
    import jax

    _say_before_abort()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            **arguments,
            heartbeat_timeout_seconds=options.heartbeat_seconds,
            initialization_timeout=options.start_seconds,
            shutdown_timeout_seconds=60,
        )
    except ValueError as error:
        raise errors.BadInput(f"config.host.distributed={options.distributed}: {errors.first_line(error)}") from error
    except RuntimeError as error:
        raise errors.RunFailed(
            f"the processes of this run did not find each other: {errors.first_line(error)}"
        ) from error


def _in_cluster() -> bool:
    """Whether the environment describes one of several processes."""
    slurm = all(name in os.environ for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"))
    tasks = os.environ.get("SLURM_NTASKS", "1") if slurm else os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    return tasks not in ("", "1") or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _from_environment() -> Any:
    count = _number(PROCESSES, 1, 2**20)
    number = _number(PROCESS, 0, 2**20)
    if number >= count:
        raise errors.BadInput(f"{PROCESS}: expected less than {PROCESSES}={count}, found {number}")
    address = os.environ.get(COORDINATOR, "")
    if not address.rpartition(":")[2].isdigit() or ":" not in address:
        raise errors.BadInput(f"{COORDINATOR}: expected host:port, found {address!r}")
    arguments = {"coordinator_address": address, "num_processes": count, "process_id": number}
    return {**arguments, "cluster_detection_method": "deactivate"}


def _number(name: str, least: Any, most: Any) -> Any:
    text = os.environ.get(name, "")
    if not text.isdecimal() or not least <= int(text) <= most:
        raise errors.BadInput(f"{name}: expected a number from {least}, found {text!r}")
    return int(text)


def _say_before_abort() -> Any:
    """Prints our message and sets our exit status when JAX aborts the process after losing a peer."""

    def on_abort(number):
        os.write(2, f"lt_jax: {LOST}\n".encode())
        os._exit(1)

    _keep.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _keep[-1])


def several() -> bool:
    """Whether this run was started for several processes (possibly only one). Does not initialise JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return not several() or sys.modules["jax"].process_index() == 0


def wait(name: str) -> None:
    """Waits for all processes; files that process 0 wrote before are then visible to all."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def agree(value: int) -> int:
    """The value of process 0, a bool or an integer, in all processes."""
    if not several():
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(int(value)))


def agree_bytes(value: bytes) -> bytes:
    """The bytes of process 0, in all processes; all must pass the same length."""
    if not several():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(value, np.uint8))))


def all_say(value: bool) -> bool:
    """Whether the value is true in every process."""
    if not several():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.int32(value))))


def agreed_to_stop(call: int) -> bool:
    """Whether a process received SIGTERM; True in all processes at the same `call`, counted from 1 in each."""
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(call)


def is_lost_peer(error: BaseException) -> bool:
    """Whether this is the error of a collective operation after another process has ended."""
    return several() and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def joined(options: Any):
    """Context in which this process is part of the multi-process run, if any; `options` is config.host.

    If one of several processes fails, it exits here: an orderly shutdown would wait for processes that wait for it.
    The process with the coordinator exits last, since the other processes end with it before printing their errors.
    """
    start(options)
    try:
        yield
    except errors.Stopped:  # raised in all processes, which then shut down normally
        raise
    except Exception as error:
        if not several():
            raise
        status = errors.EXIT_STATUS.get(type(error), 1)
        if type(error) in errors.EXIT_STATUS or is_lost_peer(error):
            line = error if type(error) in errors.EXIT_STATUS else f"{LOST} ({errors.first_line(error)})"
            print(f"lt_jax: {line}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        time.sleep(_LINGER if is_main() else 0.0)
        sys.stdout.flush()
        os._exit(status)
