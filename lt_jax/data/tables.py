"""Images named by a table, and features that were computed elsewhere."""

import csv
import pathlib
import zipfile
from typing import Any

import numpy as np

from lt_jax import errors
from lt_jax.data import folders, images

_SPLITS = {"train": "train", "training": "train", "test": "test", "val": "validation", "validation": "validation"}


def table(config: Any) -> images.Raw:
    """A CSV or Parquet file `config.list` with the columns path, label and, if you like, split (train, test, val).

    Paths are relative to config.dir (to the table's folder where that is empty). Classes are the lines of the file
    `config.classes`; without it the numbers 0..max, or else the names in the table, sorted.

    Raises:
      BadInput: a missing column, an unknown label or split, with the line that holds it.
    """
    file = pathlib.Path(config.list).expanduser()
    if not config.list or not file.is_file():
        raise errors.BadInput(f"table: config.data.list: expected a CSV or Parquet file, found {config.list!r}")
    root = pathlib.Path(config.dir).expanduser() if config.dir else file.parent
    rows = _rows(file)
    if not rows:
        raise errors.BadInput(f"{file} holds no images")
    names, numbers = _classes(config, [row["label"] for row in rows])
    entries: dict[str, list[tuple[str, int, int]]] = {}
    for line, row in enumerate(rows, start=2):  # line 1 is the header
        label, split = str(row["label"]), str(row.get("split") or "train").lower()
        if label not in numbers:
            raise errors.BadInput(f"line {line} of {file}: label {label!r} is not in the class list {config.classes}")
        if split not in _SPLITS:
            raise errors.BadInput(f"line {line} of {file}: split {split!r} is none of {', '.join(_SPLITS)}")
        entries.setdefault(_SPLITS[split], []).append((str(row["path"]), numbers[label], line))
    parts = {split: images.files(root, found, file.name, upright=True) for split, found in entries.items()}
    if "train" not in parts:
        raise errors.BadInput(f"{file} holds no training image")
    return images.Raw("table", names, parts["train"], parts.get("test"), parts.get("validation"))


def _rows(file):
    if file.suffix.lower() in (".parquet", ".pq"):
        import pyarrow
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise errors.BadInput(f"{file} is no Parquet file ({error})") from error
        columns = set(rows[0]) if rows else {"path", "label"}
    else:
        try:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                reader = csv.DictReader(lines)
                rows = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise errors.BadInput(f"{file} is no CSV file ({error})") from error
        columns = set(reader.fieldnames or ())
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise errors.BadInput(f"{file} has no column {missing[0]!r}: expected path, label and perhaps split")
    for line, row in enumerate(rows, start=2):
        if row["path"] in (None, "") or row["label"] in (None, ""):
            raise errors.BadInput(f"line {line} of {file}: path or label is missing")
    return rows


def _classes(config, labels):
    """(class names, what the table says -> number)."""
    if config.classes:
        file = pathlib.Path(config.classes).expanduser()
        try:
            names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
        except OSError as error:
            raise errors.BadInput(f"config.data.classes: {file}: {(error.strerror or '').lower()}") from error
        _refuse_same_by_case(names, file)
        by_name = {name: c for c, name in enumerate(names)}
        return tuple(names), by_name | {str(c): c for c in range(len(names)) if str(c) not in by_name}
    values = sorted({str(label) for label in labels})
    if all(value.isdigit() for value in values):
        top = max(int(value) for value in values)
        return tuple(str(c) for c in range(top + 1)), {value: int(value) for value in values}
    _refuse_same_by_case(values, config.list)
    return tuple(values), {name: c for c, name in enumerate(values)}


def _refuse_same_by_case(names, where):
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            other = seen[name.casefold()]
            how = "appears twice" if other == name else f"and {other!r} differ by case alone; rename or merge one"
            raise errors.BadInput(f"{where}: the class {name!r} {how}")
        seen[name.casefold()] = name


def features(config: Any) -> images.Raw:
    """Vectors instead of images: a .npz or .h5 file `config.list` (or train.npz and test.npz below config.dir).

    One file holds features (n, d) and labels (n,), and for a test split test_features and test_labels; or two files
    named train and test hold features and labels each.

    Raises:
      BadInput: a missing array, shapes that do not fit, a value that is not finite.
    """
    if config.list:
        arrays = _arrays(file := pathlib.Path(config.list).expanduser())
        if "test_features" in arrays:
            if "test_labels" not in arrays:
                raise errors.BadInput(f"{file} holds an array 'test_features', but no 'test_labels'")
            arrays["test"] = arrays["test_features"], arrays["test_labels"]
        arrays["train"] = arrays["features"], arrays["labels"]
    else:
        root = folders.data_folder("features", config.dir)
        found = {split: next(root.glob(f"{split}.*"), root / f"{split}.npz") for split in ("train", "test")}
        parts = {split: _arrays(file) for split, file in found.items()}
        arrays = {split: (part["features"], part["labels"]) for split, part in parts.items()}
    train = _vectors("training", *arrays["train"])
    test = _vectors("test", *arrays["test"]) if "test" in arrays else None
    if test is not None and test.images.shape[1] != train.images.shape[1]:
        raise errors.BadInput(
            f"features: training has {train.images.shape[1]} numbers a row, test {test.images.shape[1]}"
        )
    count = 1 + int(max(train.labels.max(), test.labels.max() if test is not None else 0))
    return images.Raw("features", tuple(str(c) for c in range(count)), train, test)


def _arrays(file):
    try:
        if file.suffix in (".h5", ".hdf5"):
            import h5py

            with h5py.File(file) as content:
                arrays = {name: np.asarray(content[name]) for name in content}
        else:
            with np.load(file) as content:
                arrays = dict(content)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise errors.BadInput(f"{file}: no readable .npz or .h5 file ({error})") from error
    missing = [name for name in ("features", "labels") if name not in arrays]
    if missing:
        raise errors.BadInput(f"{file} holds no array {missing[0]!r}, only {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays


def _vectors(split, vectors, labels):
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1] or not len(labels):
        raise errors.BadInput(f"{split} features: expected (n, d) and (n,), found {vectors.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        found = labels.min() if np.issubdtype(labels.dtype, np.number) else labels[0]
        raise errors.BadInput(f"{split} labels: expected whole numbers from 0 on, found {found} ({labels.dtype})")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise errors.BadInput(f"{split} features: row {row} holds a value that is not finite")
    return images.Arrays(np.asarray(vectors, np.float32), np.asarray(labels, np.int64))
