"""Traces some steps of a training with the profiler of JAX."""

import jax
from etils import epath

from lt_jax.core import log


class Profiler:
    """Traces the steps FIRST to END - 1 of the text "FIRST:END" into `folder`; none of "".

    The folder then holds a trace for xprof, TensorBoard or Perfetto.
    """

    def __init__(self, text: str, folder: epath.Path):
        first, _, end = text.partition(":")
        self._steps = range(int(first), int(end)) if text else range(0)
        self._folder = folder
        self._is_tracing = False

    def before(self, step: int, state: object) -> None:
        """Starts or stops the trace; `state` is waited for, so that the trace holds whole steps."""
        if (step in self._steps) == self._is_tracing:
            return
        jax.block_until_ready(state)
        if self._is_tracing:
            self.close()
        else:
            jax.profiler.start_trace(str(self._folder))
            self._is_tracing = True

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._is_tracing:
            jax.profiler.stop_trace()
            self._is_tracing = False
            log.say(f"the profile is in {self._folder}")
