"""SIGTERM: a training loop saves first, everything else stops at once; both end with status 75."""

import contextlib
import signal
import threading

from lt_jax import errors

_deferred = False
_requested = False


def install() -> None:
    """Called once by the program; a library user's own handlers are left alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_signal)


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
    return _requested


def _on_signal(number, frame):
    global _requested
    _requested = True
    if not _deferred:
        raise errors.Stopped("stopped by SIGTERM; run the same command again to resume")
