"""Draws partners, other images of the class of an anchor, for contrastive objectives."""

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
    """Order of anchors and partners: (B, 1 + m) positions, the anchor first; drops incomplete last batches."""

    def __init__(self, labels: np.ndarray, batch_size: int, m: int, seed: int):
        self._index = orders.class_index(labels)
        self._m = m
        self._seed = seed
        self._order = orders.Order(labels, batch_size, seed, drop_last=True)

    def __call__(self, step: int) -> np.ndarray:
        """The positions of the batch of `step`, (batch_size, 1 + m) int32."""
        anchors = self._order(step)
        return np.concatenate([anchors[:, None], draw(self._index, anchors, self._m, self._seed, step)], axis=1)
