"""Parquet files that hold the bytes of the images, as Hugging Face data sets have them."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lt_jax.core import errors, extras, log
from lt_jax.data import images
from lt_jax.data.sources import folders, layout
from lt_jax.data.sources import labels as labels_lib

_LABELS = ("label", "labels", "fine_label")  # columns that hold the class, the first that is there
_OPEN_GROUPS = 4  # row groups whose images a process keeps


def parquet(config: Any) -> images.Raw:
    """The data set in the Parquet file `config.list`, or in all of them below `config.dir`.

    An image is a struct of `bytes` and `path`, or binary. The class is in the column label, labels or fine_label; its
    names are those that Hugging Face writes into the schema, else as in a table. The split of a file is the beginning
    of its name, as in `train-00000-of-00002.parquet`, or its folder; without either, all are training images. Without
    a test split the validation split is it.

    Rows are read group by group. Where a random order is slow, `python -m lt_jax.data.prepare` writes shards.

    Raises:
      BadInput: no file, no column of images or classes, an image without bytes, or a label that is missing.
    """
    pq = extras.load("pyarrow.parquet", "tables", "config.data.name=parquet")
    root, names = _files(config)
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(_split_of(name), []).append(name)
    if "train" not in by_split:
        raise errors.BadInput(f"parquet: {log.printable(root)} has no file of a training split, only {names[0]!r}")
    tables = {split: [_Table.of(pq, root, name) for name in files] for split, files in by_split.items()}
    texts = [(row, label) for files in tables.values() for table in files for row, label in enumerate(table.labels)]
    class_names = tables["train"][0].class_names
    if class_names is None:
        class_names, numbers = labels_lib.without_class_file(texts, log.printable(root))
    else:
        numbers = [_number(label, len(class_names), root) for _, label in texts]
    remaining = iter(numbers)
    parts = {split: _records(root, files, remaining) for split, files in tables.items()}
    if "test" not in parts and "validation" in parts:
        log.say(f"parquet {log.printable(root)}: no test split, so the validation split is it")
        parts["test"] = parts.pop("validation")
    return images.Raw("parquet", tuple(class_names), parts["train"], parts.get("test"), parts.get("validation"))


def _files(config: Any) -> tuple[str, list[str]]:
    """(folder, names of the Parquet files below it)."""
    if config.list:
        file = pathlib.Path(os.path.expanduser(config.list))
        if not file.is_file():
            raise errors.BadInput(f"parquet: config.data.list: expected a Parquet file, found {config.list!r}")
        return os.fspath(file.parent), [file.name]
    root = folders.data_folder("parquet", config.dir)
    names = sorted(os.fspath(path.relative_to(root)) for path in root.rglob("*.parquet"))
    if not names:
        raise errors.BadInput(f"parquet: {log.printable(os.fspath(root))} holds no .parquet file")
    return os.fspath(root), names


def _split_of(name: str) -> str:
    path = pathlib.PurePath(name)
    for word in (path.stem.partition("-")[0], path.parent.name):
        if word.lower() in layout.SPLIT_OF:
            return layout.SPLIT_OF[word.lower()]
    return "train"


@dataclasses.dataclass(frozen=True)
class _Table:
    """What is read of a file at the start: everything but its images."""

    name: str
    column: str  # of the images
    groups: tuple[int, ...]  # rows of each group
    labels: list[str]
    class_names: tuple[str, ...] | None

    @classmethod
    def of(cls, pq: Any, root: str, name: str) -> "_Table":
        path = os.path.join(root, name)
        shown = log.printable(path)
        try:
            file = pq.ParquetFile(path)
            schema, about = file.schema_arrow, file.metadata
            column = _image_column(schema, shown)
            label = next((x for x in _LABELS if x in schema.names), None)
            if label is None:
                raise errors.BadInput(f"{shown} has no column {_LABELS[0]!r}, only {', '.join(schema.names)}")
            values = file.read(columns=[label]).column(0).to_pylist()
        except errors.BadInput:  # a ValueError too
            raise
        except (OSError, ValueError) as error:  # of which the errors of pyarrow are
            raise errors.BadInput(f"{shown} is no Parquet file ({error})") from error
        if None in values:
            raise errors.BadInput(f"{shown}: row {values.index(None)} has no label")
        groups = tuple(about.row_group(i).num_rows for i in range(about.num_row_groups))
        return cls(name, column, groups, [str(value) for value in values], _class_names(schema, label))


def _image_column(schema: Any, shown: str) -> str:
    pyarrow = extras.load("pyarrow", "tables", "config.data.name=parquet")
    for field in schema:
        is_struct = pyarrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if is_struct or pyarrow.types.is_binary(field.type) or pyarrow.types.is_large_binary(field.type):
            return field.name
    raise errors.BadInput(f"{shown} has no column of images (a struct of bytes and path, or binary)")


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names that Hugging Face writes beside the schema; None where there are none."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if names else None


def _number(label: str, count: int, root: str) -> int:
    if not label.isdecimal() or int(label) >= count:
        raise errors.BadInput(f"{log.printable(root)}: label {label!r}: expected a whole number below {count}")
    return int(label)


def _records(root: str, tables: list[_Table], numbers: Any) -> "Rows":
    rows = [np.arange(len(table.labels)) for table in tables]
    file = np.repeat(np.arange(len(tables)), [len(x) for x in rows])
    labels = np.array([next(numbers) for _ in range(len(file))], np.int64)
    names, groups = tuple(table.name for table in tables), tuple(table.groups for table in tables)
    return Rows(root, names, tables[0].column, groups, file, np.concatenate(rows), labels, upright=True)


@functools.lru_cache(maxsize=_OPEN_GROUPS)
def _images_of(path: str, column: str, group: int) -> list[Any]:
    pq = extras.load("pyarrow.parquet", "tables", "config.data.name=parquet")
    return pq.ParquetFile(path).read_row_group(group, columns=[column]).column(0).to_pylist()


@dataclasses.dataclass(frozen=True)
class Rows(images.Encoded):
    """Rows of Parquet files; each process reads the groups that it needs."""

    root: str
    files: tuple[str, ...]
    column: str  # of the images
    groups: tuple[tuple[int, ...], ...]  # rows of each group of each file
    file: np.ndarray  # (n,) which file
    rows: np.ndarray  # (n,) row in it
    labels: np.ndarray
    size: int = 224
    workers: int = 0
    upright: bool = False

    def content(self, i: int) -> bytes:
        number, row = int(self.file[i]), int(self.rows[i])
        ends = np.cumsum(self.groups[number])
        group = int(np.searchsorted(ends, row, side="right"))
        first = int(ends[group]) - self.groups[number][group]
        try:
            value = _images_of(os.path.join(self.root, self.files[number]), self.column, group)[row - first]
        except (OSError, ValueError) as error:
            raise errors.BadInput(f"{self.name(i)}: cannot be read ({error})") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            path = f", only the path {value['path']!r}" if isinstance(value, dict) and value.get("path") else ""
            raise errors.BadInput(f"{self.name(i)}: holds no bytes of an image{path}")
        return content

    def name(self, i: int) -> str:
        return f"row {self.rows[i]} of {log.printable(os.path.join(self.root, self.files[int(self.file[i])]))}"

    def select(self, positions: np.ndarray) -> "Rows":
        return dataclasses.replace(self, **{key: getattr(self, key)[positions] for key in ("file", "rows", "labels")})

    def stored_in(self) -> tuple[str, Sequence[str]]:
        return self.root, [self.files[number] for number in np.unique(self.file)]

    def item_digests(self, file_digests: np.ndarray) -> np.ndarray:
        """Of the file and the row: equal images in two rows have two digests."""
        used = np.searchsorted(np.unique(self.file), self.file)
        pairs = zip(used, self.rows, strict=True)
        digests = [hashlib.sha256(bytes(file_digests[file]) + int(row).to_bytes(8, "little")) for file, row in pairs]
        return np.array([list(digest.digest()) for digest in digests], np.uint8).reshape(-1, 32)
