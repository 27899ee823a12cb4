"""Batches in a given order: of a split held on the device, or of one that is decoded on demand."""

from typing import Any

import numpy as np

from lt_jax.data import stream


class Held:
    """Batches of a split held on the device: positions in it."""

    is_local = False

    def __init__(self, split: Any, order: Any):
        self.data = {"images": split.images, "labels": split.labels}
        self._order = order

    def __call__(self, step: int) -> np.ndarray:
        return self._order(step)

    def use(self, order: Any) -> None:
        """Continues with another order."""
        self._order = order

    def close(self) -> None:
        """Does nothing: there are no workers."""


class Streamed:
    """Batches of a split that is decoded on demand: {"images", "labels"} of this host's rows, cropped."""

    is_local = True
    data: dict[str, Any] = {}

    def __init__(self, split: Any, order: Any, row: dict[str, Any], host: int, hosts: int):
        self._split = split
        self._row = row
        size = row["batch_size"]
        self._stream = stream.Stream(self._views(order), size, split.images.workers, host, hosts)

    def _views(self, order: Any) -> Any:
        return stream.Views(self._split.images, self._split.labels, order, **self._row)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        return self._stream(step)

    def use(self, order: Any) -> None:
        """Continues with another order; prefetched batches are dropped."""
        self._stream.restart(self._views(order))

    def close(self) -> None:
        """Stops the workers."""
        self._stream.close()


def feed(
    split: Any,
    order: Any,
    batch_size: int,
    seed: int,
    smallest: float,
    own_key: bool = False,
    host: int = 0,
    hosts: int = 1,
) -> Held | Streamed:
    """Feed of a split in memory or in files: step -> batch for `lt_jax.train.steps.Step`.

    Args:
      order: step -> positions of the global batch.
      seed: seed of the random crops.
      smallest: smallest share of the area that a crop keeps.
      own_key: add a second crop of each anchor (the two views of pretraining).
    """
    if split.in_memory:
        return Held(split, order)
    row = {"batch_size": batch_size, "seed": seed, "smallest": smallest, "own_key": own_key}
    return Streamed(split, order, row, host, hosts)


def padded_batches(n: int, batch_size: int):
    """Yields (positions (batch_size,), mask (batch_size,)) over 0..n-1 once; the last batch repeats item 0, masked."""
    for start in range(0, n, batch_size):
        positions = np.arange(start, start + batch_size)
        mask = positions < n
        yield np.where(mask, positions, 0).astype(np.int32), mask


def clean_batches(images: Any, batch_size: int, host: int = 0, hosts: int = 1):
    """Yields (images (batch_size, h, w, c), mask (batch_size,)) over a split once, in order, without augmentation.

    For images decoded on demand, each host yields its own rows; the mask covers the global batch.
    """
    if not isinstance(images, np.ndarray):
        yield from stream.clean_batches(images, batch_size, images.workers, host, hosts)
        return
    for positions, mask in padded_batches(len(images), batch_size):
        yield images[positions], mask
