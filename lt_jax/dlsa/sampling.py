"""Which items the batches of a classifier hold, epoch by epoch.

instance       a permutation of all items
class_aware    a class uniformly, then an item of it uniformly: both with replacement
class_cycles   the released form: classes in turn, each class's items in turn, each turn in a new random order
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lt_jax.sampling import orders

FORMS = ("instance", "class_aware", "class_cycles")


def epochs(rng: np.random.Generator, labels: np.ndarray, config: Any) -> Iterator[np.ndarray]:
    """Positions (steps, B) of one epoch after another, each of about as many items as there are.

    The last batch is filled up, so that all have one shape.

    Args:
      labels: (n,) of the items to draw from.
      config: sampling, epochs and batch_size, as in the `classifier` part of configs/dlsa_*.py.
    """
    size = min(config.batch_size, len(labels))
    shape = (math.ceil(len(labels) / size), size)
    present, index = np.unique(labels), orders.class_index(labels)
    cycles = ClassCycles(rng, labels) if config.sampling == "class_cycles" else None
    for _ in range(config.epochs):
        if cycles:
            yield cycles.take(math.prod(shape)).reshape(shape)
        elif config.sampling == "class_aware":
            yield orders.one_of_each(rng, present[rng.integers(0, len(present), shape)], index)
        else:
            yield np.resize(rng.permutation(len(labels)), shape)


class Cycle:
    """An endless stream of items in rounds: each round holds every item once, in a new random order."""

    def __init__(self, rng: np.random.Generator, items: np.ndarray):
        self._rng, self._items, self._queue = rng, items, items[:0]

    def take(self, count: int) -> np.ndarray:
        """The next `count` of them."""
        missing = -(-(count - len(self._queue)) // len(self._items))
        rounds = [self._rng.permutation(self._items) for _ in range(missing)]
        self._queue = np.concatenate([self._queue, *rounds])
        taken, self._queue = self._queue[:count], self._queue[count:]
        return taken


class ClassCycles:
    """Classes in a cycle, and within each class its items in a cycle: no item comes back before its class is through.

    The cycles go on from one epoch to the next.
    """

    def __init__(self, rng: np.random.Generator, labels: np.ndarray):
        present = np.unique(labels)
        self._classes = Cycle(rng, present)
        self._items = {c: Cycle(rng, np.flatnonzero(labels == c)) for c in present.tolist()}

    def take(self, count: int) -> np.ndarray:
        """Positions of the next `count` items."""
        drawn = self._classes.take(count)
        by_class = np.argsort(drawn, kind="stable")
        present, counts = np.unique(drawn, return_counts=True)
        positions = np.empty(count, np.int64)
        positions[by_class] = np.concatenate(
            [self._items[c].take(n) for c, n in zip(present.tolist(), counts.tolist(), strict=True)]
        )
        return positions
