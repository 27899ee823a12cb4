"""Which images, in which order: `load` gives a long-tailed training split and a balanced test split.

Floor: above config, log, files; below encoder and losses. NumPy only.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from lt_jax import errors, log
from lt_jax.data import longtail, sources


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 (n, h, w, c) and labels int32 (n,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    counts: np.ndarray  # (C,) training images of each class
    groups: dict[str, np.ndarray]  # many, medium, few -> boolean mask over classes
    index_digest: str  # of the chosen positions in the original files

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def load(config: Any) -> Dataset:
    """Loads what `config.data` describes.

    Raises:
      BadInput: an unknown name, a missing or broken file, labels out of range.
    """
    if config.name not in sources.SOURCES:
        raise errors.BadInput(f"config.data.name: expected one of {', '.join(sources.SOURCES)}, found {config.name!r}")
    raw = sources.SOURCES[config.name](config)
    _check_labels(raw)
    num_classes = len(raw.class_names)
    wanted = longtail.counts(config.profile, config.largest, num_classes, config.imbalance_factor, raw.train_labels)
    indices = longtail.canonical_indices(raw.train_labels, wanted, seed=config.seed)
    counts = np.bincount(raw.train_labels[indices], minlength=num_classes)
    for c in np.flatnonzero(counts == 0):
        log.say(f"class {raw.class_names[c]!r} has no training image in this subset; going on without it")
    if len(indices) == 0:
        raise errors.BadInput("config.data: no training image is left; raise config.data.largest")
    train = Split(raw.train_images[indices], raw.train_labels[indices].astype(np.int32))
    test = Split(raw.test_images, raw.test_labels.astype(np.int32))
    groups = longtail.shot_groups(counts, many=config.many, few=config.few)
    return Dataset(raw.name, raw.class_names, train, test, counts, groups, index_digest(indices))


def index_digest(indices: np.ndarray) -> str:
    """sha256 over the chosen original positions, in order, as little-endian int64."""
    return hashlib.sha256(np.asarray(indices, "<i8").tobytes()).hexdigest()


def _check_labels(raw: sources.Raw) -> None:
    for split, labels in (("training", raw.train_labels), ("test", raw.test_labels)):
        bad = np.flatnonzero((labels < 0) | (labels >= len(raw.class_names)))
        if bad.size:
            raise errors.BadInput(
                f"{raw.name}: {split} image {bad[0]} has label {labels[bad[0]]}, expected 0..{len(raw.class_names) - 1}"
            )
