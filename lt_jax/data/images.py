"""Images behind one small interface: `len`, `labels`, `image(i) -> uint8 (h, w, 3)`, `name(i)`.

`Arrays` lie in memory and live on the device; `Files` (and `records.Records`) are decoded when they are asked for, by
worker processes, so they hold nothing but paths and can be pickled.
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
        """uint8 (h, w, c). Raises BadInput, naming the file, where it cannot be read."""
        ...

    def name(self, i: int) -> str:
        """What a message calls item i."""
        ...

    def content(self, i: int) -> bytes:
        """What two items share only if they are the same image."""
        ...

    def select(self, positions: np.ndarray) -> Any:
        """The items at these positions, in this order."""
        ...


@dataclasses.dataclass(frozen=True)
class Raw:
    """All of a data set, before any long-tail profile: splits in the order of the original files."""

    name: str
    class_names: tuple[str, ...]
    train: Any  # Images
    test: Any  # Images, or None where the source has no test split
    validation: Any = None  # Images, where the source has its own


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
    """What image files and records share: they are bytes until somebody asks for a crop."""

    labels: np.ndarray
    size: int = 224  # side of the square that training and evaluation see, in pixels
    workers: int = 0  # processes that decode; 0 = none but this one
    upright: bool = False  # turn as the EXIF tag says; the published benchmarks do not

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def content(self, i: int) -> bytes:
        """The bytes of the file."""

    @abc.abstractmethod
    def name(self, i: int) -> str:
        """What a message calls item i."""

    @abc.abstractmethod
    def stored_in(self) -> tuple[str, Sequence[str]]:
        """(folder, names of the files below it that hold the items)."""

    @abc.abstractmethod
    def item_digests(self, file_digests: np.ndarray) -> np.ndarray:
        """Content digest of each item, (n, 32) uint8, from those of the files of `stored_in`.

        Raises:
          BadInput: a file that is not what it is recorded to be.
        """

    def image(self, i: int) -> np.ndarray:
        return decode.image(self.content(i), self.name(i), upright=self.upright)

    def views(self, i: int, boxes: Any) -> list[np.ndarray]:
        """One (size, size, 3) crop for each box that `boxes((h, w))` gives: the file is read and decoded once."""
        return decode.crops(self.content(i), self.name(i), boxes, self.size, upright=self.upright)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As if all were in memory: (n, size, size, 3)."""
        return (len(self), self.size, self.size, 3)


@dataclasses.dataclass(frozen=True)
class Files(Encoded):
    """Image files under one folder."""

    root: str
    paths: np.ndarray  # (n,) str, relative to root
    labels: np.ndarray
    lines: np.ndarray | None = None  # (n,) line of each in its list
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
            raise errors.BadInput(f"{self.name(i)}: {(error.strerror or str(error)).lower()}") from error

    def select(self, positions: np.ndarray) -> "Files":
        lines = None if self.lines is None else self.lines[positions]
        return dataclasses.replace(self, paths=self.paths[positions], labels=self.labels[positions], lines=lines)

    def stored_in(self) -> tuple[str, Sequence[str]]:
        return self.root, self.paths.tolist()

    def item_digests(self, file_digests: np.ndarray) -> np.ndarray:
        return file_digests

    def missing(self) -> np.ndarray:
        """(n,) bool. One listing a folder, not one question a file."""
        folders = [os.path.dirname(path) for path in self.paths]  # NumPy's strings would be listed as bytes
        there = {folder: _listing(os.path.join(self.root, folder)) for folder in set(folders)}
        names = (os.path.basename(path) for path in self.paths)
        return np.array([n not in there[f] for n, f in zip(names, folders, strict=True)], bool)


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise errors.BadInput(f"{folder}: {(error.strerror or str(error)).lower()}") from error


def files(root: Any, entries: Sequence[tuple[str, int, int]], listed_in: str = "", upright: bool = False) -> Files:
    """Files from (path, label, line) entries; line 0 = no list."""
    paths, labels, lines = zip(*entries, strict=True) if entries else ((), (), ())
    numbers = np.array(lines, np.int64) if listed_in else None
    array = np.array(paths, object)
    return Files(os.fspath(root), array, np.array(labels, np.int64), numbers, listed_in, upright=upright)
