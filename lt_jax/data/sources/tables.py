"""Images listed in a table, and precomputed features."""

import csv
import io
import math
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from lt_jax.core import errors, extras, log
from lt_jax.data import images
from lt_jax.data.sources import folders, layout, textfiles
from lt_jax.data.sources import labels as labels_lib

_COLUMNS = ("path", "label", "split")
_DELIMITERS = ",;\t"

Row = tuple[int, str, str, str]  # line, path with surrounding blanks, label, split


def table(config: Any) -> images.Raw:
    """The images in the CSV or Parquet file `config.list` with columns path, label and optionally split.

    Splits are train, test and val. CSV values are separated by commas, semicolons or tabs, in UTF-8, UTF-16 or Latin-1.
    Blanks around values and the case of header and splits are ignored. Paths are absolute or relative to config.dir
    (default: the folder of the table); `\\` is read as `/` if no file has the literal name.

    Classes are the lines of the file `config.classes`; labels are either all class names or all positions from 0.
    Without that file they are the numbers 0..max if all labels are whole numbers, else the sorted names.

    Raises:
      BadInput: a column is missing, or a label or split is unknown; the message names the line.
    """
    file = pathlib.Path(os.path.expanduser(config.list))
    if not config.list or not file.is_file():
        raise errors.BadInput(f"table: config.data.list: expected a CSV or Parquet file, found {config.list!r}")
    root, shown = os.path.expanduser(config.dir) if config.dir else str(file.parent), log.printable(str(file))
    is_parquet = file.suffix.lower() in (".parquet", ".pq")
    rows, encoding = (_parquet(file, shown), "utf-8") if is_parquet else _csv(file, shown)
    if not rows:
        raise errors.BadInput(f"{shown} holds no images")
    column = [(line, label) for line, _, label, _ in rows]
    if config.classes:
        names, numbers = labels_lib.with_class_file(column, os.path.expanduser(config.classes), shown)
    else:
        names, numbers = labels_lib.without_class_file(column, shown)
    parts = _parts(root, rows, numbers, encoding, file)
    if "train" not in parts:
        raise errors.BadInput(f"{shown} holds no training image")
    return images.Raw("table", names, parts["train"], parts.get("test"), parts.get("validation"))


def _parts(root: Any, rows: Any, numbers: Any, encoding: Any, file: Any) -> Any:
    listings: dict[str, frozenset[str]] = {}
    entries: dict[str, list[tuple[str, int, int]]] = {}
    for (line, path, _, split), number in zip(rows, numbers, strict=True):
        name = split.lower() or "train"
        if name not in layout.SPLIT_OF:
            known = ", ".join(layout.SPLIT_OF)
            raise errors.BadInput(f"line {line} of {log.printable(str(file))}: split {split!r} is none of {known}")
        entries.setdefault(layout.SPLIT_OF[name], []).append((_resolved(root, path, encoding, listings), number, line))
    return {split: images.files(root, listed, file.name, upright=True) for split, listed in entries.items()}


def _resolved(root: Any, path: Any, encoding: Any, listings: Any) -> Any:
    """The path, if there is such a file; else with `/` for `\\`, or with the original bytes of the table."""
    variants = [path.strip(), path]
    if encoding in ("cp1252", "latin-1"):
        variants.append(os.fsdecode(path.strip().encode(encoding)))
    variants += [variant.replace("\\", "/") for variant in variants if "\\" in variant]
    return next((variant for variant in variants if _is_there(os.path.join(root, variant), listings)), path.strip())


def _is_there(path: Any, listings: Any) -> Any:
    """Whether the file exists; lists each folder once, since checking every file is slow on network drives."""
    folder, name = os.path.split(path)
    if folder not in listings:
        try:
            listings[folder] = frozenset(os.listdir(folder))
        except OSError:
            listings[folder] = frozenset()
    return name in listings[folder]


def _csv(file: Any, shown: Any) -> Any:
    """(rows, encoding) of a CSV file."""
    text, encoding = textfiles.read(file)
    header = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(header), strict=True)
    columns: dict[str, int] = {}
    rows: list[Row] = []
    width = 0
    last = 0
    try:
        for fields in reader:
            line, last = last + 1, reader.line_num
            values = [field.strip() for field in fields]
            if not any(values):
                continue
            if not columns:
                columns, width = _columns(values, shown), len(values)
                continue
            if any(values[width:]):
                raise errors.BadInput(
                    f"line {line} of {shown}: {len(values)} fields where the header has {width}; "
                    "put quotes around values that hold the delimiter"
                )
            values += [""] * (width - len(values))
            path, label, split = (values[columns[c]] if c in columns else "" for c in _COLUMNS)
            rows.append(_row(line, shown, path and fields[columns["path"]], label, split))
    except csv.Error as error:
        raise errors.BadInput(f"{shown} is no CSV file ({error}, in what begins at line {last + 1})") from error
    if not columns:
        _columns([], shown)
    return rows, encoding


def _delimiter(header: Any) -> Any:
    """The delimiter with which the header line has the most known columns."""

    def matches(delimiter):
        fields = [field.strip().strip('"').strip().lower() for field in header.split(delimiter)]
        return len({"path", "label", "split"} & set(fields)), len(fields)

    return max(_DELIMITERS, key=matches)


def _columns(names: Any, shown: Any) -> Any:
    """Position of each known column in a header."""
    lowered = [name.strip().lower() for name in names]
    for column in _COLUMNS:
        if lowered.count(column) > 1:
            raise errors.BadInput(f"{shown} has the column {column!r} twice")
    missing = [column for column in ("path", "label") if column not in lowered]
    if missing:
        raise errors.BadInput(f"{shown} has no column {missing[0]!r}: expected path, label and perhaps split")
    return {column: lowered.index(column) for column in _COLUMNS if column in lowered}


def _row(line: Any, shown: Any, path: Any, label: Any, split: Any) -> Any:
    for value, column in ((path, "path"), (label, "label")):
        if not value.strip():
            raise errors.BadInput(f"line {line} of {shown}: {column} is missing")
    return line, path, label, split


def _parquet(file: Any, shown: Any) -> Any:
    pyarrow = extras.load("pyarrow", "tables", "config.data.list: reading Parquet")
    parquet = extras.load("pyarrow.parquet", "tables", "config.data.list: reading Parquet")
    try:
        content = parquet.read_table(file)
        values = [column.to_pylist() for column in content.columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise errors.BadInput(f"{shown} is no Parquet file ({error})") from error
    columns = _columns(content.column_names, shown)
    no_split = [""] * content.num_rows
    paths, labels, splits = (values[columns[c]] if c in columns else no_split for c in _COLUMNS)
    rows = []
    for line, (path, label, split) in enumerate(zip(paths, labels, splits, strict=True), start=2):
        texts = (_text(path), _label_text(label, line, shown).strip(), _text(split).strip())
        rows.append(_row(line, shown, *texts))  # line 1 is the header, as in a CSV file
    return rows


def _text(value: Any) -> Any:
    """A Parquet value as text, as in a CSV file; empty if missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


def _label_text(value: Any, line: Any, shown: Any) -> Any:
    where = f"line {line} of {shown}: label {value}"
    if isinstance(value, bool):
        raise errors.BadInput(f"{where} is a truth value; expected a class name or a whole number from 0")
    if isinstance(value, float) and not math.isnan(value):
        if not value.is_integer():
            raise errors.BadInput(f"{where} is no whole number")
        value = int(value)
    if isinstance(value, int) and value < 0:
        raise errors.BadInput(f"{where} is below 0; expected a class name or a whole number from 0")
    return _text(value)


def features(config: Any) -> images.Raw:
    """Feature vectors from a .npz or .h5 file `config.list`, or from train.npz and test.npz below config.dir.

    A single file holds features (n, d) and labels (n,), and optionally test_features and test_labels. Two files named
    train and test each hold features and labels.

    Raises:
      BadInput: an array is missing, shapes do not match, or a value is not finite.
    """
    if config.list:
        arrays = _arrays(file := pathlib.Path(os.path.expanduser(config.list)))
        if "test_features" in arrays:
            if "test_labels" not in arrays:
                raise errors.BadInput(f"{file} holds an array 'test_features', but no 'test_labels'")
            arrays["test"] = arrays["test_features"], arrays["test_labels"]
        arrays["train"] = arrays["features"], arrays["labels"]
    else:
        root = folders.data_folder("features", config.dir)
        named = {split: next(root.glob(f"{split}.*"), root / f"{split}.npz") for split in ("train", "test")}
        parts = {split: _arrays(file) for split, file in named.items()}
        arrays = {split: (part["features"], part["labels"]) for split, part in parts.items()}
    train = _vectors("training", *arrays["train"])
    test = _vectors("test", *arrays["test"]) if "test" in arrays else None
    if test is not None and test.images.shape[1] != train.images.shape[1]:
        raise errors.BadInput(
            f"features: training has {train.images.shape[1]} numbers a row, test {test.images.shape[1]}"
        )
    source = log.printable(os.path.expanduser(config.list) if config.list else str(root))
    used = np.unique(np.concatenate([train.labels] + ([test.labels] if test is not None else [])))
    labels_lib.say_gaps(f"features {source}", used.tolist(), "in your file", "")
    count = 1 + int(used[-1])
    return images.Raw("features", tuple(str(c) for c in range(count)), train, test)


def _arrays(file: Any) -> dict[str, Any]:
    if file.suffix not in (".npz", ".h5", ".hdf5"):
        raise errors.BadInput(f"config.data: expected a file of features in .npz, .h5 or .hdf5, found {file}")
    is_hdf5 = file.suffix != ".npz"
    h5py = extras.load("h5py", "h5", f"config.data: reading {file}") if is_hdf5 else None
    try:
        if h5py:
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


def _vectors(split: str, vectors: np.ndarray, labels: np.ndarray) -> images.Arrays:
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1] or not len(labels):
        raise errors.BadInput(f"{split} features: expected (n, d) and (n,), found {vectors.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        value = labels.min() if np.issubdtype(labels.dtype, np.number) else labels[0]
        raise errors.BadInput(f"{split} labels: expected whole numbers from 0 on, found {value} ({labels.dtype})")
    if vectors.dtype.kind not in "fiub":
        raise errors.BadInput(f"{split} features: expected numbers, found {vectors.dtype}")
    with np.errstate(over="ignore"):
        numbers = np.asarray(vectors, np.float32)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])
        raise errors.BadInput(f"{split} features: row {row} holds a value that is not finite in float32")
    return images.Arrays(numbers, np.asarray(labels, np.int64))
