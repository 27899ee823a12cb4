"""Data sets that tensorflow-datasets prepared as ArrayRecord, read without TensorFlow.

tensorflow-datasets shuffles the images. The `id` of a CIFAR image holds its position in the official file, which
restores the official order and so the canonical subset.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lt_jax.core import errors
from lt_jax.data import images

NAMES = {
    "cifar10": "cifar10", "cifar100": "cifar100", "imagenet_lt": "imagenet_lt", "inat2018": "i_naturalist2018",
}  # fmt: skip
_SPLITS = {"imagenet_lt": ("train", "test", "validation"), "inat2018": ("train", "validation")}


def in_memory(name: str, class_names: tuple[str, ...], config: Any) -> images.Raw:
    """CIFAR in the official order, in memory.

    Raises:
      BadInput: config.dir holds no prepared data set.
    """
    return images.Raw(name, class_names, *(_in_order(open_source(name, split, config)) for split in ("train", "test")))


def _in_order(source: Any) -> Any:
    rows = [(_official_position(row["id"]), row["image"], int(row["label"])) for row in source]
    rows.sort(key=lambda row: row[0])
    return images.Arrays(np.stack([row[1] for row in rows]), np.array([row[2] for row in rows], np.int64))


def _official_position(name: Any) -> int:
    """Position in the official file, from the id: b"train_04030" -> 4030."""
    text = name.decode() if isinstance(name, bytes) else str(name)
    return int(text.rpartition("_")[2])


def encoded(name: str, config: Any) -> images.Raw:
    """ImageNet-LT or iNaturalist 2018, decoded on demand."""
    sources = [open_source(name, split, config, raw=True) for split in _SPLITS.get(name, ("train",))]
    names = tuple(sources[0].dataset_info.features["label"].names)
    splits = _SPLITS.get(name, ("train",))
    return images.Raw(name, names, *(_records(name, *pair) for pair in zip(splits, sources, strict=True)))


def _records(name: str, split: Any, source: Any) -> Any:
    labels = np.array([int(source[i]["label"]) for i in range(len(source))], np.int64)
    files = tuple(os.fspath(path) for path in source.dataset_info.splits[split].filepaths)
    return Examples(source, files, np.arange(len(labels)), labels, name)


@dataclasses.dataclass(frozen=True)
class Examples(images.Encoded):
    """Examples of a prepared data set."""

    source: Any
    files: tuple[str, ...]  # the files of the examples
    positions: np.ndarray
    labels: np.ndarray
    dataset_name: str
    size: int = 224
    workers: int = 0
    upright: bool = False

    def content(self, i: int) -> bytes:
        return bytes(self.source[int(self.positions[i])]["image"])

    def name(self, i: int) -> str:
        return f"example {self.positions[i]} of {self.dataset_name}"

    def select(self, positions: np.ndarray) -> "Examples":
        return dataclasses.replace(self, positions=self.positions[positions], labels=self.labels[positions])

    def stored_in(self) -> tuple[str, Sequence[str]]:
        return os.path.dirname(self.files[0]), [os.path.basename(file) for file in self.files]

    def item_digests(self, file_digests: np.ndarray) -> np.ndarray:
        whole = file_digests.tobytes()
        digests = (hashlib.sha256(whole + int(p).to_bytes(8, "little")).digest() for p in self.positions)
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def open_source(name: str, split: str, config: Any, raw: bool = False) -> Any:
    """`tfds.data_source` of one split; with `raw`, images stay encoded bytes."""
    if name not in NAMES:
        raise errors.BadInput(f"config.data.tfds: tensorflow-datasets has no {name}")
    import tensorflow_datasets as tfds

    skip = {"image": tfds.decode.SkipDecoding()} if raw else None
    try:
        return tfds.data_source(NAMES[name], split=split, data_dir=config.dir or None, decoders=skip, download=False)
    except Exception as error:  # the readers raise many types
        line = errors.first_line(error)
        raise errors.BadInput(
            f"{name}: no {split} split of {NAMES[name]} prepared as ArrayRecord "
            f"in {config.dir or 'the default folder'} ({line})"
        ) from error
