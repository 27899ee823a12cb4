"""The interface of a split of images: `len`, `labels`, `image(i) -> uint8 (h, w, 3)`, `name(i)`.

`Arrays` hold pixels in memory. `Files` (and `records.Records`) are decoded on demand by worker processes, so they
hold only paths and can be pickled.
"""

import abc
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from lt_jax.core import errors, log
from lt_jax.data import decode


class Images(Protocol):
    """One split. `labels` is (n,) int."""

    labels: np.ndarray

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray:
        """Pixels of item i, uint8 (h, w, c). Raises BadInput, naming the file, if it cannot be read."""
        ...

    def name(self, i: int) -> str:
        """Name of item i in messages."""
        ...

    def content(self, i: int) -> bytes:
        """Bytes of item i; equal only for equal images."""
        ...

    def select(self, positions: np.ndarray) -> Any:
        """The items at these positions, in this order."""
        ...


@dataclasses.dataclass(frozen=True)
class Raw:
    """A complete data set before any long-tail profile, with splits in the order of the original files."""

    name: str
    class_names: tuple[str, ...]
    train: Any  # Images
    test: Any  # Images, or None if the source has no test split
    validation: Any = None  # Images, if the source has a validation split


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images uint8 (n, h, w, c), or features float32 (n, d), in memory."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> np.ndarray:
        return self.images[i]

    def name(self, i: int) -> str:
        return f"image {i}"

    def content(self, i: int) -> bytes:
        return self.images[i].tobytes()

    def select(self, positions: np.ndarray) -> "Arrays":
        return Arrays(self.images[positions], self.labels[positions])


class Encoded(abc.ABC):
    """Base class of image files and records: encoded bytes that are decoded on demand."""

    labels: np.ndarray
    size: int = 224  # side of the square input of training and evaluation, in pixels
    workers: int = 0  # decoding processes; 0 = decode in this process
    upright: bool = False  # rotate by the EXIF tag; the published benchmarks do not

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def content(self, i: int) -> bytes:
        """The bytes of the file."""

    @abc.abstractmethod
    def name(self, i: int) -> str:
        """Name of item i in messages."""

    @abc.abstractmethod
    def stored_in(self) -> tuple[str, Sequence[str]]:
        """(folder, names of the files below it that store the items)."""

    @abc.abstractmethod
    def item_digests(self, file_digests: np.ndarray) -> np.ndarray:
        """Content digest of each item, (n, 32) uint8, from the digests of the files of `stored_in`.

        Raises:
          BadInput: a file differs from its record.
        """

    def image(self, i: int) -> np.ndarray:
        return decode.image(self.content(i), self.name(i), upright=self.upright)

    def views(self, i: int, boxes: Any) -> list[np.ndarray]:
        """One (size, size, 3) crop for each box of `boxes((h, w))`; the file is read and decoded once."""
        return decode.crops(self.content(i), self.name(i), boxes, self.size, upright=self.upright)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all images if they were in memory: (n, size, size, 3)."""
        return (len(self), self.size, self.size, 3)


@dataclasses.dataclass(frozen=True)
class Files(Encoded):
    """Image files under one folder."""

    root: str
    paths: np.ndarray  # (n,) str, relative to root
    labels: np.ndarray
    lines: np.ndarray | None = None  # (n,) line number of each image in its list
    listed_in: str = ""  # name of that list
    size: int = 224
    workers: int = 0
    upright: bool = False

    def path(self, i: int) -> str:
        return os.path.join(self.root, self.paths[i])

    def name(self, i: int) -> str:
        path = log.printable(self.path(i))
        return path if self.lines is None else f"{path} (line {self.lines[i]} of {log.printable(self.listed_in)})"

    def content(self, i: int) -> bytes:
        try:
            with open(self.path(i), "rb") as file:
                return file.read()
        except OSError as error:
            raise errors.BadInput(f"{self.name(i)}: {errors.reason(error)}") from error

    def select(self, positions: np.ndarray) -> "Files":
        lines = None if self.lines is None else self.lines[positions]
        return dataclasses.replace(self, paths=self.paths[positions], labels=self.labels[positions], lines=lines)

    def stored_in(self) -> tuple[str, Sequence[str]]:
        return self.root, self.paths.tolist()

    def item_digests(self, file_digests: np.ndarray) -> np.ndarray:
        return file_digests

    def missing(self) -> np.ndarray:
        """Mask of missing files, (n,) bool. Lists each folder once instead of checking each file."""
        folders = [os.path.dirname(path) for path in self.paths]  # as str: os.listdir of bytes would return bytes
        listings = {folder: _listing(os.path.join(self.root, folder)) for folder in set(folders)}
        names = (os.path.basename(path) for path in self.paths)
        return np.array([n not in listings[f] for n, f in zip(names, folders, strict=True)], bool)


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise errors.BadInput(f"{folder}: {errors.reason(error)}") from error


def files(root: Any, entries: Sequence[tuple[str, int, int]], listed_in: str = "", upright: bool = False) -> Files:
    """Files from (path, label, line) entries; line is 0 without a list."""
    paths, labels, lines = zip(*entries, strict=True) if entries else ((), (), ())
    numbers = np.array(lines, np.int64) if listed_in else None
    array = np.array(paths, object)
    return Files(os.fspath(root), array, np.array(labels, np.int64), numbers, listed_in, upright=upright)
