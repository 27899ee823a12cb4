"""Splits a data set into training, validation and test, and finds duplicates between splits."""

import hashlib
from typing import Any

import numpy as np


def stratified(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Holds out `share` of each class, rounded, at least one image but never the last one.

    Returns:
      (sorted positions to keep, sorted positions held out, number of classes with nothing held out).
    """
    generator = np.random.default_rng(seed)
    held = []
    without = 0
    for c in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == c))
        count = min(max(round(share * len(positions)), 1), len(positions) - 1)
        without += count == 0
        held.append(positions[:count])
    out = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), out), out, int(without)


def content_digests(images: Any) -> list[bytes]:
    """A digest of 16 bytes for each item; equal digests mean byte-identical images."""
    return [hashlib.blake2b(images.content(i), digest_size=16).digest() for i in range(len(images))]


def duplicates(first: list[bytes], second: list[bytes]) -> list[tuple[int, int]]:
    """(position in first, position in second) of each item of the second that the first contains too."""
    position_of = {digest: i for i, digest in reversed(list(enumerate(first)))}
    return [(position_of[digest], j) for j, digest in enumerate(second) if digest in position_of]
