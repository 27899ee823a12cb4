"""SIGTERM, or Ctrl-C once: a training loop saves first, everything else stops at once; both end with status 75.

Several processes stop together: JAX tells all of them of a SIGTERM that one had, and which of the questions below is
the first that all can answer with yes. So they all ask at the same places of the program.
"""

import contextlib
import signal
import threading

from lt_jax.core import distributed, errors

_deferred = False
_requested = False
_asked = 0
_LINE = "stopped by a signal; run the same command again to resume"


def install() -> None:
    """Called once by the program; a library user's own handlers are left alone."""
    global _requested
    _requested = False
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_signal)
        signal.signal(signal.SIGINT, _on_signal)


@contextlib.contextmanager
def deferred():
    """Inside, a signal only sets `requested`."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


def requested() -> bool:
    """Whether to save and stop. All processes ask equally often."""
    global _asked
    if not distributed.several():
        return _requested
    _asked += 1
    return distributed.agreed_to_stop(_asked)


def stop_if_requested() -> None:
    """Between two pieces of work that need no save. Inside `deferred` the loop asks by itself.

    One process stops at the signal itself, unless it came in the last moments of a loop; several stop here.

    Raises:
      Stopped: there was a SIGTERM.
    """
    if not _deferred and requested():
        raise errors.Stopped(_LINE)


def _on_signal(number, frame):
    global _requested
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one ends at once
        if distributed.several():  # which agree on a step at SIGTERM alone
            raise KeyboardInterrupt
    _requested = True
    if not _deferred:
        raise errors.Stopped(_LINE)
