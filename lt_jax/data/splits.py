"""Which image belongs to which split: test is never training, validation comes out of training, nothing is twice."""

import hashlib
from typing import Any

import numpy as np


def stratified(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Holds out `share` of each class, rounded, and always leaves one image of a class in training.

    Returns:
      (positions kept, positions held out, classes of which nothing could be held out); both sorted.
    """
    generator = np.random.default_rng(seed)
    held, without = [], 0
    for c in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == c))
        count = min(max(round(share * len(positions)), 1), len(positions) - 1)
        without += count == 0
        held.append(positions[:count])
    out = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), out), out, int(without)


def content_digests(images: Any) -> list[bytes]:
    """One digest of 16 bytes an item; equal digests mean the same image, byte for byte."""
    return [hashlib.blake2b(images.content(i), digest_size=16).digest() for i in range(len(images))]


def duplicates(first: list[bytes], second: list[bytes]) -> list[tuple[int, int]]:
    """(place in the first, place in the second) of the items of the second that the first holds too."""
    places = {digest: i for i, digest in reversed(list(enumerate(first)))}
    return [(places[digest], j) for j, digest in enumerate(second) if digest in places]
