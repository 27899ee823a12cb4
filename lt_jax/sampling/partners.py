"""Draws partners, other images of the class of an anchor, for contrastive objectives."""

from collections.abc import Callable

import numpy as np

from lt_jax.sampling import orders


def draw(index: orders.ClassIndex, anchors: np.ndarray, m: int, seed: int, step: int) -> np.ndarray:
    """Draws m other images of each anchor's class, uniformly with replacement.

    In a class of one image the anchor itself is repeated (with a new augmentation).

    Args:
      index: ClassIndex of the whole training set.
      anchors: (B,) positions in the training set.

    Returns:
      (B, m) int32 positions.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
    classes = index.labels[anchors]
    size = index.count[classes][:, None]
    away = 1 + np.floor(generator.random((len(anchors), m)) * (size - 1)).astype(np.int64)
    within = (index.rank[anchors][:, None] + np.where(size > 1, away, 0)) % size
    return index.by_class[index.start[classes][:, None] + within].astype(np.int32)


class PartnerOrder:
    """Order of anchors and partners: (B, columns + m) positions, the anchor first.

    Args:
      labels: (n,) of the training set.
      batch_size: B, of the global batch.
      m: partners of each anchor.
      seed: of the random numbers.
      order: of the anchors; None is one epoch after the other, without incomplete last batches.
      columns: columns of the anchor.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        m: int,
        seed: int,
        order: Callable[[int], np.ndarray] | None = None,
        columns: int = 1,
    ):
        self._index = orders.class_index(labels)
        self._m = m
        self._seed = seed
        self._order = orders.Order(labels, batch_size, seed, drop_last=True) if order is None else order
        self._columns = columns

    def __call__(self, step: int) -> np.ndarray:
        """The positions of the batch of `step`, (batch_size, columns + m) int32."""
        anchors = self._order(step)
        drawn = draw(self._index, anchors, self._m, self._seed, step)
        return np.concatenate([np.repeat(anchors[:, None], self._columns, axis=1), drawn], axis=1)
