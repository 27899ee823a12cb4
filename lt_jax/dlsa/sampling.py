"""Draws the batches of a classifier, epoch by epoch.

instance       a permutation of all items
class_aware    a class uniformly, then one of its items uniformly, both with replacement
class_cycles   the released form: cycles through the classes and through the items of each, reshuffled every cycle
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lt_jax.sampling import orders

FORMS = ("instance", "class_aware", "class_cycles")


def epochs(rng: np.random.Generator, labels: np.ndarray, config: Any) -> Iterator[np.ndarray]:
    """Yields the positions (steps, B) of each epoch, about as many as there are items.

    The last batch is filled up, so that all batches have the same shape.

    Args:
      labels: (n,) of the items to draw from.
      config: sampling, epochs and batch_size, as in the `classifier` block of configs/dlsa_*.py.
    """
    size = min(config.batch_size, len(labels))
    shape = (math.ceil(len(labels) / size), size)
    present = np.unique(labels)
    index = orders.class_index(labels)
    cycles = ClassCycles(rng, labels) if config.sampling == "class_cycles" else None
    for _ in range(config.epochs):
        if cycles:
            yield cycles.take(math.prod(shape)).reshape(shape)
        elif config.sampling == "class_aware":
            yield orders.one_of_each(rng, present[rng.integers(0, len(present), shape)], index)
        else:
            yield np.resize(rng.permutation(len(labels)), shape)


class Cycle:
    """Endless stream of items in rounds: each round contains every item once, in a new random order."""

    def __init__(self, rng: np.random.Generator, items: np.ndarray):
        self._rng = rng
        self._items = items
        self._queue = items[:0]

    def take(self, count: int) -> np.ndarray:
        """The next `count` items."""
        missing = -(-(count - len(self._queue)) // len(self._items))
        rounds = [self._rng.permutation(self._items) for _ in range(missing)]
        self._queue = np.concatenate([self._queue, *rounds])
        taken = self._queue[:count]
        self._queue = self._queue[count:]
        return taken


class ClassCycles:
    """Cycles through the classes, and through the items of each class: no item repeats before its class is used up.

    The cycles continue from one epoch to the next.
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
