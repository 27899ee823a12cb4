"""Data sets: `load` returns a long-tailed training split and a test split. No JAX."""

import dataclasses
import functools
import hashlib
import os
from typing import Any, cast

import numpy as np

from lt_jax.core import errors, log
from lt_jax.data import decode, identity, longtail, sources, splits, stream
from lt_jax.data import images as images_lib
from lt_jax.sampling import folds

IMAGE_SIZE = 224  # pixels, where neither the config nor the weights of the encoder say
MOST_HELD = 2 << 30  # bytes; the largest split that may be held in memory


@dataclasses.dataclass(frozen=True)
class Split:
    """Labels int32 (n,), and images: uint8 (n, h, w, c) in memory, or an `images.Encoded` that is read on demand."""

    images: Any
    labels: np.ndarray
    upright: bool = False  # photos are rotated by their EXIF tag
    stored: Any = None  # the `images.Encoded` that pixels in memory were decoded from

    @property
    def in_memory(self) -> bool:
        return isinstance(self.images, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Dataset:
    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    counts: np.ndarray  # (C,) training images of each class
    groups: dict[str, np.ndarray]  # many, medium, few -> boolean mask over classes
    index_digest: str  # SHA-256 of the chosen positions in the original files, counted without skipped images
    validation: Split | None = None
    skipped: tuple[str, ...] = ()  # unreadable images that were left out, with the reason

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the classes, labels and image contents of all splits. Reads every file."""
        return identity.whole(identity.of_dataset(self)[0])

    @property
    def evaluated(self) -> dict[str, Split]:
        """The splits that classifiers are measured on: "test", and "validation" if there is one."""
        return {"test": self.test} | ({"validation": self.validation} if self.validation is not None else {})

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(h, w, c) of the network input."""
        return self.train.images.shape[1:]


def load(config: Any) -> Dataset:
    """Loads the data set that `config.data` describes.

    Raises:
      BadInput: an unknown name, a missing or broken file, labels out of range, fewer than two classes.
    """
    if config.name not in sources.SOURCES:
        raise errors.BadInput(f"config.data.name: expected one of {', '.join(sources.SOURCES)}, found {config.name!r}")
    raw = sources.SOURCES[config.name](config)
    _check_labels(raw)
    raw = _sized(raw, config)
    raw, skipped = _readable(raw, config)
    raw, positions = _with_test_split(raw, config)
    num_classes = len(raw.class_names)
    labels = raw.train.labels
    if not len(labels):
        raise errors.BadInput(f"{raw.name}: there is no readable training image")
    target_counts = longtail.counts(
        config.profile, config.largest, num_classes, config.imbalance_factor, labels, config.counts
    )
    indices = longtail.canonical_indices(labels, target_counts, seed=config.seed)
    indices, validation = _validation(raw, indices, config)
    counts = np.bincount(labels[indices], minlength=num_classes)
    for c in np.flatnonzero(counts == 0):
        log.say(f"class {raw.class_names[c]!r} has no training image in this subset")
    if len(indices) == 0:
        raise errors.BadInput("config.data: no training image is left; raise config.data.largest")
    groups = longtail.shot_groups(counts, many=config.many, few=config.few)
    return Dataset(
        raw.name,
        raw.class_names,
        _split(raw.train.select(indices), config),
        _split(raw.test, config),
        counts,
        groups,
        index_digest(positions[indices]),
        validation,
        skipped,
    )


def index_digest(indices: np.ndarray) -> str:
    """SHA-256 of the chosen original positions, in order, as little-endian int64."""
    return hashlib.sha256(np.asarray(indices, "<i8").tobytes()).hexdigest()


def _split(images: Any, config: Any) -> Split:
    labels = images.labels.astype(np.int32)
    if isinstance(images, images_lib.Arrays):
        return Split(images.images, labels)
    if config.hold:
        return Split(_held(images), labels, images.upright, stored=images)
    return Split(images, labels, images.upright)


def _held(images: Any) -> Any:
    """All images decoded once, (n, size, size, 3): the largest central square of each, resized."""
    _, *shape = images.shape
    if np.prod(images.shape) > MOST_HELD:
        raise errors.BadInput(
            f"config.data.hold: {len(images)} images of {images.size} pixels take more than {MOST_HELD >> 30} GiB; "
            "set it to False to decode them when they are needed"
        )
    held = np.empty(images.shape, np.uint8)
    for i, pixels in enumerate(held):
        pixels[:] = decode.sized(images.image(i), shape[:2], centre=False)
    return held


def _parts(raw: images_lib.Raw) -> dict[str, Any]:
    return {name: part for name in ("train", "test", "validation") if (part := getattr(raw, name)) is not None}


def _check_labels(raw: images_lib.Raw) -> None:
    if len(raw.class_names) < 2:
        raise errors.BadInput(f"{raw.name}: expected at least two classes, found {len(raw.class_names)}")
    for name, part in _parts(raw).items():
        bad = np.flatnonzero((part.labels < 0) | (part.labels >= len(raw.class_names)))
        if bad.size:
            split = "training" if name == "train" else name
            raise errors.BadInput(
                f"{raw.name}: {split} {part.name(bad[0])} has label {part.labels[bad[0]]}, "
                f"expected 0..{len(raw.class_names) - 1}"
            )


def _cores() -> int:
    """The processor cores that this process may use: under Slurm its share of the node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sized(raw: images_lib.Raw, config: Any) -> images_lib.Raw:
    workers = config.workers if config.workers >= 0 else _cores()
    changed: dict[str, Any] = {
        name: dataclasses.replace(cast(Any, part), size=config.image_size or IMAGE_SIZE, workers=workers)
        for name, part in _parts(raw).items()
        if isinstance(part, images_lib.Encoded)
    }
    return dataclasses.replace(raw, **changed)


def _readable(raw: images_lib.Raw, config: Any) -> tuple[Any, ...]:
    """(raw, reasons): checks that every file exists; with on_bad_image="skip" drops unreadable training images.

    Test images are never dropped, since results on different test images cannot be compared.
    """
    skip = config.on_bad_image == "skip"
    skipped: list[str] = []
    readable_parts: dict[str, Any] = {}
    for name, part in _parts(raw).items():
        if not isinstance(part, images_lib.Encoded):
            continue
        may_skip = skip and (name == "train" or raw.test is None)
        missing = part.missing() if isinstance(part, images_lib.Files) else np.zeros(len(part), bool)
        if missing.any() and not may_skip:
            more = f" (and {missing.sum() - 1} more)" if missing.sum() > 1 else ""
            raise errors.BadInput(f"{part.name(int(missing.argmax()))}: no such file or directory{more}")
        if may_skip:
            reasons = stream.unreadable(part)
            skipped += reasons.values()
            readable_parts[name] = cast(Any, part).select(np.setdiff1d(np.arange(len(part)), list(reasons)))
    for reason in skipped[:3]:
        log.say(f"skipped: {reason}")
    if skipped:
        log.say(f"{len(skipped)} images are skipped in all; run.json lists them")
    return dataclasses.replace(raw, **readable_parts), tuple(skipped)


def _with_test_split(raw: images_lib.Raw, config: Any) -> tuple[Any, ...]:
    """(raw with a test split, position of each training image in the original files)."""
    if raw.test is not None:
        return raw, np.arange(len(raw.train))
    train_positions, test_positions, without = splits.stratified(raw.train.labels, config.test_share, config.seed)
    if len(test_positions) == 0:
        raise errors.BadInput(f"{raw.name}: no test split, and no class has a second image to hold out for one")
    log.say(
        f"{raw.name} has no test split: {len(test_positions)} images are held out for it"
        + (f"; {without} classes have one image each, which stays in training" if without else "")
    )
    return dataclasses.replace(
        raw, train=raw.train.select(train_positions), test=raw.train.select(test_positions)
    ), train_positions


def _validation(raw: images_lib.Raw, indices: np.ndarray, config: Any) -> tuple[Any, ...]:
    """(training positions, validation split): a fold, the official split, unused images, or a share of those chosen.

    The split is None where none is asked for, or where no image is left for it.
    """
    if config.folds:
        fold = folds.stratified(raw.train.labels[indices], config.folds, config.seed)
        held_out = fold == config.fold
        if not held_out.any():
            raise errors.BadInput(
                f"config.data.fold: fold {config.fold} of {config.folds} has no image; use fewer folds"
            )
        return indices[~held_out], _split(raw.train.select(indices[held_out]), config)
    if raw.validation is not None and len(raw.validation):
        return indices, _split(raw.validation, config)
    if config.validation_unused:
        return indices, _split(raw.train.select(_unused(raw, indices, config)), config)
    if config.validation <= 0:
        return indices, None
    train_positions, validation_positions, without = splits.stratified(
        raw.train.labels[indices], config.validation, config.seed
    )
    if without:
        log.say(f"{without} classes have one image each, which stays in training: validation is without them")
    if not len(validation_positions):
        log.say("no class has a second image: there is no validation split")
        return indices, None
    return indices[train_positions], _split(raw.train.select(indices[validation_positions]), config)


def _unused(raw: images_lib.Raw, indices: np.ndarray, config: Any) -> np.ndarray:
    """Positions of equally many images of each class, of those that the long-tailed subset leaves."""
    unused = np.setdiff1d(np.arange(len(raw.train.labels)), indices)
    available = np.bincount(raw.train.labels[unused], minlength=len(raw.class_names))
    fewest = int(available.argmin())
    if available[fewest] < config.validation_unused:
        raise errors.BadInput(
            f"config.data.validation_unused: expected at most {available[fewest]}, found {config.validation_unused}: "
            f"the subset leaves no more of class {raw.class_names[fewest]!r}; lower config.data.largest"
        )
    counts = np.full(len(raw.class_names), config.validation_unused)
    return unused[longtail.canonical_indices(raw.train.labels[unused], counts, seed=config.seed)]
