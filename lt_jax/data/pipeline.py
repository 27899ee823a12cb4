"""The order of the batches: a pure function of (seed, step), so that the data position is the step number.

The global batch of INDICES is fixed first; each host then takes its contiguous rows. A run on 1, 2 or 4 hosts, or one
that was killed, sees the same batches.
"""

import dataclasses

import grain
import numpy as np


@dataclasses.dataclass(frozen=True)
class Order:
    """Which `batch_size` of `n` items make up the global batch of a step: an endless stream of shuffled passes."""

    n: int
    batch_size: int
    seed: int

    def __post_init__(self):
        stream = grain.MapDataset.range(self.n).seed(self.seed).shuffle().repeat()
        object.__setattr__(self, "_batches", stream.batch(self.batch_size))

    def __call__(self, step: int) -> np.ndarray:
        """-> (batch_size,) int32."""
        return np.asarray(self._batches[step], np.int32)


def partners(labels: np.ndarray, anchors: np.ndarray, m: int, seed: int, step: int) -> np.ndarray:
    """m further images of each anchor's class, uniform with replacement, the anchor itself left out.

    A class of one image repeats itself (under a new augmentation).

    Args:
      labels: (n,) of the whole training set.
      anchors: (B,) positions in it.

    Returns:
      (B, m) int32 positions.
    """
    by_class, start, count, rank = _class_table(labels)
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
    size = count[labels[anchors]][:, None]
    away = 1 + np.floor(generator.random((len(anchors), m)) * (size - 1)).astype(np.int64)
    place = (rank[anchors][:, None] + np.where(size > 1, away, 0)) % size
    return by_class[start[labels[anchors]][:, None] + place].astype(np.int32)


class PartnerOrder:
    """Batches of anchors with their partners: (B, 1 + m) positions, the anchor first."""

    def __init__(self, labels: np.ndarray, batch_size: int, m: int, seed: int):
        self._labels, self._m, self._seed = labels, m, seed
        self._order = Order(len(labels), batch_size, seed)

    def __call__(self, step: int) -> np.ndarray:
        anchors = self._order(step)
        return np.concatenate([anchors[:, None], partners(self._labels, anchors, self._m, self._seed, step)], axis=1)


def padded_batches(n: int, batch_size: int):
    """Yields (positions (batch_size,), mask (batch_size,)) over 0..n-1 once; the last batch repeats item 0, masked."""
    for start in range(0, n, batch_size):
        positions = np.arange(start, start + batch_size)
        mask = positions < n
        yield np.where(mask, positions, 0).astype(np.int32), mask


_TABLES: dict[int, tuple[np.ndarray, tuple[np.ndarray, ...]]] = {}


def _class_table(labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Items sorted by class, first place and count of each class, place of each item within its class."""
    cached = _TABLES.get(id(labels))
    if cached is None or cached[0] is not labels:
        by_class = np.argsort(labels, kind="stable")
        count = np.bincount(labels)
        start = np.concatenate([[0], np.cumsum(count)[:-1]])
        rank = np.empty(len(labels), np.int64)
        rank[by_class] = np.arange(len(labels)) - start[labels[by_class]]
        _TABLES.clear()
        _TABLES[id(labels)] = cached = (labels, (by_class, start, count, rank))
    return cached[1]
