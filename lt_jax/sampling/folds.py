"""Folds for cross-validation."""

import numpy as np


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Stratified folds: the fold of each item, (n,) int, drawn at random.

    The items of a class are spread evenly over the folds, starting at a random one. The only item of a class is in no
    fold (-1), so that it is always trained on.

    Args:
      labels: (n,).
      count: number of folds, at least 2.
      seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    fold = np.full(len(labels), -1)
    for c in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == c))
        if len(positions) > 1:
            fold[positions] = (generator.integers(count) + np.arange(len(positions))) % count
    return fold
