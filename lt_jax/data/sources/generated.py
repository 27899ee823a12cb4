"""Generates a small JPEG tree with the files, lists and names of a large benchmark, for smoke runs."""

import json
import os
import pathlib
import shutil
import tempfile
import zlib
from typing import Any

import numpy as np
from PIL import Image

from lt_jax.data import longtail

_LARGEST = 24  # training images of the largest class
_HELD_OUT = 3  # images of each class in val and in test


def classes_of(config: Any) -> int:
    """The classes of the tree that stands in for real images; 0 where `config.dir` names those."""
    return 0 if config.dir else config.generated


def tree(name: str, num_classes: int) -> pathlib.Path:
    """The folder of the tree, generated if it does not exist yet."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"lt_jax-generated-{os.getuid()}" / f"{name}-{num_classes}"
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        beside = pathlib.Path(tempfile.mkdtemp(dir=folder.parent))
        _LAYOUTS[name](beside, num_classes)
        try:
            beside.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(beside)
    return folder


def _imagenet_lt(root: Any, num_classes: Any) -> Any:
    paths = {
        "train": lambda c, i: f"train/n{c:08d}/n{c:08d}_{i}.JPEG",
        "val": lambda c, i: f"train/n{c:08d}/n{c:08d}_{1000 + i}.JPEG",
        "test": lambda c, i: f"val/n{c:08d}/ILSVRC2012_val_{c * 50 + i:08d}.JPEG",
    }
    _write_lists(root, "ImageNet_LT_{}.txt", paths, num_classes)


def _places_lt(root: Any, num_classes: Any) -> Any:
    paths = {
        "train": lambda c, i: f"train/scene{c}/{i:08d}.jpg",
        "val": lambda c, i: f"train/scene{c}/{1000 + i:08d}.jpg",
        "test": lambda c, i: f"val/scene{c}/Places365_val_{c * 50 + i:08d}.jpg",
    }
    _write_lists(root, "Places_LT_{}.txt", paths, num_classes)


def _write_lists(root: Any, pattern: Any, paths: Any, num_classes: Any) -> Any:
    for split, entries in _written(root, paths, num_classes).items():
        lines = "".join(f"{path} {label}\n" for path, label in entries)
        (root / pattern.format(split)).write_text(lines)


def _inat2018(root: Any, num_classes: Any) -> Any:
    paths = {
        "train": lambda c, i: f"train_val2018/Aves/{c}/{i:032x}.jpg",
        "val": lambda c, i: f"train_val2018/Aves/{c}/{4096 + i:032x}.jpg",
    }
    categories = [{"id": c, "name": str(c), "supercategory": "Aves"} for c in range(num_classes)]
    for split, entries in _written(root, paths, num_classes).items():
        content = {
            "images": [{"id": i, "file_name": path} for i, (path, _) in enumerate(entries)],
            "annotations": [{"id": i, "image_id": i, "category_id": c} for i, (_, c) in enumerate(entries)],
            "categories": categories,
        }
        (root / f"{split}2018.json").write_text(json.dumps(content))


def _folder(root: Any, num_classes: Any) -> Any:
    paths = {
        "train": lambda c, i: f"train/class{c}/{i}.jpg",
        "test": lambda c, i: f"test/class{c}/{i}.jpg",
    }
    _written(root, paths, num_classes)


def _written(root: Any, paths: Any, num_classes: Any) -> Any:
    """Writes the images of every split and returns split -> (path, label) of each image."""
    counts = longtail.exponential_counts(_LARGEST, num_classes, _LARGEST / 2)
    entries = {
        split: [
            (path(c, i), c) for c in range(num_classes) for i in range(counts[c] if split == "train" else _HELD_OUT)
        ]
        for split, path in paths.items()
    }
    for path, label in (entry for split_entries in entries.values() for entry in split_entries):
        _write(root / path, label)
    return entries


def _write(file: Any, label: Any) -> Any:
    """Writes an image whose colour and stripes depend on the class, with noise that depends on the file."""
    generator = np.random.default_rng(zlib.crc32(file.name.encode()) + label)
    h, w = generator.integers(48, 96, 2)
    pixels = generator.integers(0, 90, (h, w, 3))
    pixels[..., label % 3] += 120
    pixels[:: 2 + label] += 40
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)


_LAYOUTS = {"imagenet_lt": _imagenet_lt, "places_lt": _places_lt, "inat2018": _inat2018, "folder": _folder}
