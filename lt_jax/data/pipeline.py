"""The order of the batches: a pure function of (seed, step), so that the data position is the step number.

The global batch of INDICES is fixed first; each host then takes its contiguous rows. A run on 1, 2 or 4 hosts, or one
that was killed, sees the same batches.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from lt_jax.data import stream


@dataclasses.dataclass(frozen=True)
class Order:
    """Which `batch_size` of `n` items make up the global batch of a step.

    An epoch is one permutation, cut into batches, so no batch holds an item twice. All batches have one size: what does
    not fill the last one is left out with `drop_last`, and otherwise filled up with items from earlier in the epoch.

    grain's shuffle computes each item by itself: 14 ms for a batch of 1024 of CIFAR-10-LT on a CPU core, where the
    permutation of a whole epoch takes .2 ms.
    """

    n: int
    batch_size: int
    seed: int
    drop_last: bool = False

    def __call__(self, step: int) -> np.ndarray:
        """The positions of the batch of `step`, (batch_size,) int32."""
        batches = self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)
        epoch, batch = divmod(step, max(1, batches))
        permutation = shuffled(self.n, self.seed, epoch)
        if self.n < self.batch_size:  # more than there are: then an item has to be there twice
            return np.resize(permutation, self.batch_size)
        start = min(batch * self.batch_size, self.n - self.batch_size)
        return permutation[start : start + self.batch_size]


@functools.lru_cache(maxsize=4)
def shuffled(n: int, seed: int, number: int) -> np.ndarray:
    """(n,) int32: the items of epoch `number` in their order."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 2, number]))
    return generator.permutation(n).astype(np.int32)


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
    """Batches of anchors with their partners: (B, 1 + m) positions, the anchor first. The last batch is dropped."""

    def __init__(self, labels: np.ndarray, batch_size: int, m: int, seed: int):
        self._labels, self._m, self._seed = labels, m, seed
        self._order = Order(len(labels), batch_size, seed, drop_last=True)

    def __call__(self, step: int) -> np.ndarray:
        anchors = self._order(step)
        return np.concatenate([anchors[:, None], partners(self._labels, anchors, self._m, self._seed, step)], axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassAware:
    """Batches in which every class is as likely as any other: a class uniformly, then an image of it uniformly."""

    labels: np.ndarray
    batch_size: int
    seed: int

    def __call__(self, step: int) -> np.ndarray:
        """-> (batch_size,) int32."""
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 1, step]))
        chosen = generator.choice(np.unique(self.labels), self.batch_size)
        return one_of_each(generator, chosen, self.labels).astype(np.int32)


def one_of_each(generator: np.random.Generator, classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Position of one item, uniform, of each of these classes (any shape); every one of them has an item."""
    by_class, start, count, _ = _class_table(labels)
    place = np.floor(generator.random(classes.shape) * count[classes]).astype(np.int64)
    return by_class[start[classes] + place]


class Subset:
    """An order over the items of a subset, as positions in the whole; one that fell short repeats its first items."""

    def __init__(self, indices: np.ndarray, order: Any):
        self.indices, self._order = np.asarray(indices, np.int32), order

    def __call__(self, step: int) -> np.ndarray:
        return self.indices[self._order(step) % len(self.indices)]


class Held:
    """Batches of a split that lies on the device whole: positions in it."""

    is_local = False

    def __init__(self, split: Any, order: Any):
        self.data = {"images": split.images, "labels": split.labels}
        self._order = order

    def __call__(self, step: int) -> np.ndarray:
        return self._order(step)

    def use(self, order: Any) -> None:
        """Goes on with another order."""
        self._order = order

    def close(self) -> None:
        """Nothing to end."""


class Streamed:
    """Batches of a split that is decoded as it is needed: {"images", "labels"} of this host's rows, cropped."""

    is_local = True
    data: dict[str, Any] = {}

    def __init__(self, split: Any, order: Any, row: dict[str, Any], host: int, hosts: int):
        self._split, self._row = split, row
        size = row["batch_size"]
        self._stream = stream.Stream(self._views(order), size, split.images.workers, host, hosts)

    def _views(self, order):
        return stream.Views(self._split.images, self._split.labels, order, **self._row)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        return self._stream(step)

    def use(self, order: Any) -> None:
        """Goes on with another order; what was read ahead is dropped."""
        self._stream.restart(self._views(order))

    def close(self) -> None:
        """Ends the workers."""
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
    """step -> what `step.Step` takes as its batch, from a split in memory or from files.

    Args:
      order: step -> positions of the global batch.
      seed: of the crops.
      smallest: share of the area that a crop keeps at least.
      own_key: each anchor has a second crop of its own (the two views of pretraining).
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

    Of images that are decoded for it, each host has its own rows; the mask is that of the global batch.
    """
    if not isinstance(images, np.ndarray):
        yield from stream.clean_batches(images, batch_size, images.workers, host, hosts)
        return
    for positions, mask in padded_batches(len(images), batch_size):
        yield images[positions], mask


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
