"""The compiled programs of a training: one step, or several steps in a row."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lt_jax.train import sharding, state, steps

_MOST_STEPS = 200  # in one program by default: a stop is only noticed between two programs


class Executor:
    """Runs steps of a training on a mesh.

    The state keeps the sharding that it has at first, and its buffers are reused.

    Args:
      step: the training step.
      feed: step number -> batch; a `lt_jax.data.batches.Held` or `Streamed`.
      mesh: of the devices.
      current: the state before the first step.
    """

    def __init__(self, step: steps.Step, feed: Any, mesh: jax.sharding.Mesh, current: state.TrainState):
        options: dict[str, Any] = {
            "donate_argnums": 0,
            "out_shardings": (jax.tree.map(lambda x: x.sharding, current), None),
        }
        self._feed = feed
        self._mesh = mesh
        self._one = jax.jit(step, **options)
        self._several = jax.jit(_scan(step), **options)

    def __call__(
        self, current: state.TrainState, data: dict[str, Any], first: int, count: int
    ) -> tuple[state.TrainState, steps.Metrics]:
        """The state after the steps first to first + count - 1, and their metrics: (), or (count,) of several steps.

        Returns before the devices are done, so that the host prepares the next batch meanwhile.
        """
        batch = self._batch(first, count)
        run = self._one if count == 1 else self._several
        with jax.transfer_guard("disallow"):  # nothing goes to or from the host within a step
            return run(current, data, batch)

    def _batch(self, first: int, count: int) -> Any:
        if count == 1:
            return sharding.put_batch(self._feed(first), self._mesh, self._feed.is_local)
        batches = np.stack([self._feed(number) for number in range(first, first + count)])
        return sharding.put_batch(batches, self._mesh, axis=1)


def _scan(step: steps.Step) -> Callable[..., Any]:
    """`step` once for each batch of `batches`, whose first axis is that of the steps."""

    def run(current: state.TrainState, data: dict[str, Any], batches: Any) -> Any:
        return jax.lax.scan(lambda state, batch: step(state, data, batch), current, batches)

    return run


def steps_together(setting: int, feed: Any, is_profiled: bool) -> int:
    """The most steps of one program.

    Args:
      setting: `config.host.steps_per_execution`; 0 is 1 on a CPU, where the gradient of a convolution is slow inside a
        loop of XLA, and 200 on other devices.
      feed: batches that are decoded on the host go to the device one by one.
      is_profiled: a profile wants single steps.
    """
    if feed.is_local or is_profiled:
        return 1
    return setting or (1 if jax.default_backend() == "cpu" else _MOST_STEPS)
