"""Batches of images that grain's worker processes decode on demand, in a fixed order.

Image and crop of item k depend only on (seed, k) and are fixed before the host takes its rows. So the batches are the
same for any number of workers and hosts, and a run resumed at step s continues with batch s: the data position is the
step number.
"""

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from lt_jax.core import errors
from lt_jax.data import decode, identity

_AHEAD = 2  # batches that each worker prefetches
_CHECKED: dict[str, dict[int, str]] = {}


@dataclasses.dataclass(frozen=True)
class Views:
    """Row k of the stream: an anchor and its partners, each with its own random crop.

    With `own_key` a second crop of the anchor comes last.
    """

    images: Any  # images.Encoded
    labels: np.ndarray
    order: Callable[[int], np.ndarray]  # step -> (B,) or (B, 1 + m) positions of the GLOBAL batch
    batch_size: int
    seed: int
    smallest: float  # smallest share of the area that a crop keeps
    own_key: bool

    def __call__(self, k: int) -> dict[str, np.ndarray]:
        step, row = divmod(int(k), self.batch_size)
        positions = _global_batch(self.order, step)[row]
        anchor = int(np.ravel(positions)[0])
        row_positions = [int(p) for p in np.ravel(positions)]
        generator = np.random.Generator(np.random.Philox(key=[self.seed, k]))
        views: list[np.ndarray] = []
        for number, position in enumerate(row_positions):
            count = 2 if number == 0 and self.own_key else 1
            views.append(self.images.views(position, decode.random_boxes(generator, count, self.smallest)))
        crops = [crops_of_image[0] for crops_of_image in views] + ([views[0][1]] if self.own_key else [])
        pixels = np.stack(crops) if self.own_key or np.ndim(positions) else crops[0]
        return {"images": pixels, "labels": self.labels[anchor]}


@functools.lru_cache(maxsize=64)
def _global_batch(order: Any, step: int) -> Any:
    return order(step)


@dataclasses.dataclass(frozen=True)
class Clean:
    """Row k is the central crop of image k; rows from n on repeat image 0."""

    images: Any

    def __call__(self, k: int) -> dict[str, np.ndarray]:
        position = int(k) if k < len(self.images) else 0
        return {"images": self.images.views(position, decode.centre_box)[0]}


@dataclasses.dataclass(frozen=True)
class _Local:
    """Maps row j of this host to its global row: each host takes contiguous rows of every batch."""

    batch_size: int
    host: int
    hosts: int

    def __call__(self, j: int) -> int:
        size = self.batch_size // self.hosts
        return j // size * self.batch_size + self.host * size + j % size


class _ErrorAsValue:
    """A row function that returns (row, message) instead of raising: grain would lose the type of the exception."""

    def __init__(self, row):
        self._row = row

    def __call__(self, k):
        try:
            return self._row(k), ""
        except errors.BadInput as error:
            return None, str(error)


@dataclasses.dataclass(frozen=True)
class _Stack:
    def __call__(self, rows):
        message = next((error for _, error in rows if error), "")
        if message:
            return None, message
        return {key: np.stack([row[key] for row, _ in rows]) for key in rows[0][0]}, ""


class Stream:
    """step -> this host's rows of batch `step`. Prefetches the following steps; restarts if called out of order.

    Raises:
      BadInput: an image cannot be read.
      RunFailed: a worker process died.
    """

    def __init__(self, row: Callable[[int], Any], batch_size: int, workers: int, host: int = 0, hosts: int = 1):
        if batch_size % hosts:
            raise errors.BadInput(f"a global batch of {batch_size} cannot be split over {hosts} hosts")
        self._row = row
        self._batch_size = batch_size
        self._workers = workers
        self._host = host
        self._hosts = hosts
        self._iterator: Any = None
        self._next = -1

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        if self._iterator is None or step != self._next:
            self._start(step)
        try:
            batch, message = next(self._iterator)
        except Exception as error:  # grain raises many types for a dead worker
            self.close()
            line = errors.first_line(error)
            raise errors.RunFailed(f"a process that reads images has ended ({line}); run again to resume") from error
        if message:
            self.close()
            raise errors.BadInput(message)
        self._next = step + 1
        return batch

    def restart(self, row: Callable[[int], Any]) -> None:
        """Continues with another row function; prefetched batches are dropped."""
        self.close()
        self._row = row

    def close(self) -> None:
        """Stops the workers."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None

    def _start(self, step: int) -> Any:
        self.close()
        rows = self._batch_size // self._hosts
        end = 2**40  # rows of an endless stream
        dataset = grain.MapDataset.range(step * rows, end)
        dataset = dataset.map(_Local(self._batch_size, self._host, self._hosts)).map(_ErrorAsValue(self._row))
        dataset = dataset.batch(rows, batch_fn=_Stack())
        threads = 0 if self._workers else 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_AHEAD)
        loader = dataset.to_iter_dataset(options)
        if self._workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads absl flags, which we do not parse
            multi = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=_AHEAD)
            loader = loader.mp_prefetch(multi)
        self._iterator = iter(loader)


def clean_batches(
    images: Any, batch_size: int, workers: int, host: int = 0, hosts: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (this host's rows (batch_size / hosts, s, s, 3), mask (batch_size,)) over a split once, in order."""
    stream = Stream(Clean(images), batch_size, workers if len(images) > batch_size else 0, host, hosts)
    try:
        for step in range(-(-len(images) // batch_size)):
            mask = np.arange(step * batch_size, (step + 1) * batch_size) < len(images)
            yield stream(step)["images"], mask
    finally:
        stream.close()


def unreadable(images: Any) -> dict[int, str]:
    """Position -> reason, for every image that cannot be decoded.

    Decodes all images once; the result is cached in this process until a file changes.
    """
    key = identity.stat_digest(*images.stored_in())
    if key not in _CHECKED:
        parts = np.array_split(np.arange(len(images)), max(1, images.workers))
        if images.workers > 1 and len(images) > 1000:
            with multiprocessing.get_context("spawn").Pool(images.workers) as pool:
                reasons_by_part = pool.map(functools.partial(_check, images), parts)
        else:
            reasons_by_part = [_check(images, part) for part in parts]
        _CHECKED[key] = {position: reason for part in reasons_by_part for position, reason in part.items()}
    return _CHECKED[key]


def _check(images: Any, positions: Any) -> Any:
    reasons = {}
    for position in positions:
        try:
            images.image(int(position))
        except errors.BadInput as error:
            reasons[int(position)] = str(error)
    return reasons
