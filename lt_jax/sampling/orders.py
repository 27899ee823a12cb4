"""Orders of a training set: functions from step to the positions of the global batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

# (labels (n,), epoch, seed) -> positions (n,) int32 of the images of that epoch, in order.
EpochOrder = Callable[[np.ndarray, int, int], np.ndarray]


def instance(labels: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Instance-balanced order.

    A permutation of the training set: every image once.

    grain's shuffle computes each item separately: 14 ms for a batch of 1024 of CIFAR-10-LT on a CPU core, against
    .2 ms for the permutation of a whole epoch.
    """
    return shuffled(len(labels), seed, epoch)


def class_balanced(labels: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Class-balanced order.

    Draws a class uniformly, then one of its images uniformly.

    Source: class-balanced sampling in Kang et al., "Decoupling Representation and Classifier for Long-Tailed
    Recognition" (ICLR 2020).
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, epoch]))
    drawn = generator.choice(np.unique(labels), len(labels))
    return one_of_each(generator, drawn, class_index(labels)).astype(np.int32)


def square_root(labels: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Square-root order.

    Draws a class with probability proportional to the square root of its size, then one of its images uniformly.

    Source: square-root sampling in Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition"
    (ICLR 2020), from Mahajan et al., "Exploring the Limits of Weakly Supervised Pretraining" (ECCV 2018).
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 3, epoch]))
    return _drawn(generator, labels, np.sqrt(np.bincount(labels)))


def progressive(labels: np.ndarray, epoch: int, seed: int, *, epochs: float = 200.0) -> np.ndarray:
    """Progressively balanced order.

    Draws a class with probability (1 - t) n_c / n + t / C, t = epoch / epochs, then one of its images uniformly: in
    proportion to the classes first, equally often at the end. Empty classes do not count in C.

    Source: progressively-balanced sampling in Kang et al., "Decoupling Representation and Classifier for Long-Tailed
    Recognition" (ICLR 2020), Eq. 2.

    Args:
      labels: (n,).
      epoch: from 0.
      seed: of the random numbers.
      epochs: of the whole training; a stage passes its own.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 4, epoch]))
    counts = np.bincount(labels)
    t = min(epoch / epochs, 1.0)
    present = counts > 0
    return _drawn(generator, labels, (1.0 - t) * counts / len(labels) + t * present / present.sum())


def _drawn(generator: np.random.Generator, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As many items as there are labels: a class in proportion to its weight, then an item of it."""
    drawn = generator.choice(len(weights), len(labels), p=weights / weights.sum())
    return one_of_each(generator, drawn, class_index(labels)).astype(np.int32)


class Order:
    """Batches of an order: step -> positions of `batch_size` of `n` images, (batch_size,) int32.

    An epoch is cut into batches of equal size: an incomplete last batch is dropped with `drop_last`, else filled up
    with earlier images of the epoch.

    Args:
      labels: (n,) of the training set.
      batch_size: of the global batch.
      seed: of the random numbers.
      drop_last: drop an incomplete last batch.
      epoch_order: an entry of `lt_jax.methods.ORDERS`.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        epoch_order: EpochOrder = instance,
    ):
        self._labels = labels
        self._batch_size = batch_size
        self._seed = seed
        self._epoch_order = epoch_order
        n = len(labels)
        self._batches = max(1, n // batch_size if drop_last else -(-n // batch_size))
        self._newest: tuple[int, np.ndarray] = (-1, np.empty(0, np.int32))

    def __call__(self, step: int) -> np.ndarray:
        epoch, batch = divmod(step, self._batches)
        positions = self._positions(epoch)
        n = len(positions)
        if n < self._batch_size:  # fewer images than a batch, so images must repeat
            return np.resize(positions, self._batch_size)
        start = min(batch * self._batch_size, n - self._batch_size)
        return positions[start : start + self._batch_size]

    def _positions(self, epoch: int) -> np.ndarray:
        """Positions of an epoch; the newest ones are kept. Threads may ask at once: then both draw the same."""
        number, positions = self._newest
        if number != epoch:
            positions = self._epoch_order(self._labels, epoch, self._seed)
            self._newest = (epoch, positions)
        return positions


@functools.lru_cache(maxsize=4)
def shuffled(n: int, seed: int, number: int) -> np.ndarray:
    """Permutation of the items of epoch `number`, (n,) int32."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 2, number]))
    return generator.permutation(n).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassIndex:
    """Positions of the items of each class.

    Attributes:
      labels: (n,) class of each item.
      by_class: (n,) positions of the items, sorted by class.
      start: (C,) start of each class in `by_class`; count: (C,) number of its items.
      rank: (n,) index of each item within its class.
    """

    labels: np.ndarray
    by_class: np.ndarray
    start: np.ndarray
    count: np.ndarray
    rank: np.ndarray


def class_index(labels: np.ndarray) -> ClassIndex:
    """ClassIndex of labels (n,), by one sort."""
    by_class = np.argsort(labels, kind="stable")
    count = np.bincount(labels)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - start[labels[by_class]]
    return ClassIndex(labels, by_class, start, count, rank)


def one_of_each(generator: np.random.Generator, classes: np.ndarray, index: ClassIndex) -> np.ndarray:
    """Position of a uniformly drawn item of each class in `classes` (any shape), none of which is empty."""
    within = np.floor(generator.random(classes.shape) * index.count[classes]).astype(np.int64)
    return index.by_class[index.start[classes] + within]


class Subset:
    """Order over the items of a subset, as positions in the full set; a short subset repeats its first items."""

    def __init__(self, indices: np.ndarray, order: Any):
        self.indices = np.asarray(indices, np.int32)
        self._order = order

    def __call__(self, step: int) -> np.ndarray:
        return self.indices[self._order(step) % len(self.indices)]
