"""SIGTERM or Ctrl-C: training loops save first, everything else stops at once; both exit with status 75.

Several processes stop together: when one receives SIGTERM, JAX makes the same call of `requested` return True in all of
them. So all processes must call it at the same points of the program.
"""

import contextlib
import os
import signal
import threading
from typing import Any

from lt_jax.core import distributed, errors

_deferred = False
_requested = False
_asked = 0
_LINE = "stopped by a signal; run the same command again to resume"


def install() -> None:
    """Installs the signal handlers. Only the program calls it, so that handlers of library users are unchanged."""
    global _requested
    _requested = False
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_signal)
        signal.signal(signal.SIGINT, _on_signal)


@contextlib.contextmanager
def deferred():
    """Context in which a signal only makes `requested` return True."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


def requested() -> bool:
    """Whether to save and stop. All processes must call this equally often."""
    global _asked
    if not distributed.several():
        return _requested
    _asked += 1
    return distributed.agreed_to_stop(_asked)


def stop_if_requested() -> None:
    """Stops between two pieces of work if a stop was requested; inside `deferred` the training loop does this.

    A single process stops in the signal handler, unless the signal came at the end of a loop; several stop here.

    Raises:
      Stopped: a SIGTERM or Ctrl-C was received.
    """
    if not _deferred and requested():
        raise errors.Stopped(_LINE)


def _on_signal(number: int, frame: Any) -> Any:
    global _requested
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C stops at once
        if distributed.several():  # they agree on a step only after SIGTERM, which JAX then handles
            os.kill(os.getpid(), signal.SIGTERM)
            return
    _requested = True
    if not _deferred:
        raise errors.Stopped(_LINE)
