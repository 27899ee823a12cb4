"""One's own images: one folder for each class.

DIR/cat/1.jpg DIR/dog/2.jpg                       a test split is drawn (config.data.test_share)
DIR/train/cat/1.jpg DIR/test/cat/2.jpg            the split is yours; DIR/val (or validation) may be there too
"""

import os
import pathlib
from typing import Any

from lt_jax import errors, log
from lt_jax.data import generated, images

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_SPLITS = {"train": ("train", "training"), "test": ("test",), "validation": ("val", "valid", "validation")}


def folder(config: Any) -> images.Raw:
    """Classes are the folders' names, sorted.

    Raises:
      BadInput: no folder, no image, one class alone, two that differ by case alone, one that only the test split has.
    """
    given = config.generated
    root = generated.tree("folder", given) if given else data_folder("folder", config.dir)
    splits = {split: _first(root, names) for split, names in _SPLITS.items()}
    if splits["train"] is None:
        splits = {"train": root, "test": None, "validation": None}
    elif splits["test"] is None:  # a person's `val` is what they test on
        splits["test"], splits["validation"] = splits["validation"], None
    class_names = _class_names(splits["train"])
    found = {split: place and _read(root, place, class_names) for split, place in splits.items()}
    return images.Raw("folder", class_names, found["train"], found["test"], found["validation"])


def data_folder(name: str, given: str) -> pathlib.Path:
    """The folder that config.data.dir or LT_JAX_DATA names.

    Raises:
      BadInput: neither, or it is not there.
    """
    given = given or os.environ.get("LT_JAX_DATA", "")
    if not given:
        raise errors.BadInput(f"{name}: no data folder: give --config.data.dir=DIR or set LT_JAX_DATA")
    path = pathlib.Path(given).expanduser()
    if not path.is_dir():
        raise errors.BadInput(f"{name}: the data folder {path} is not there (config.data.dir or LT_JAX_DATA)")
    return path


def _first(root, names):
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_names(place):
    names = sorted(entry.name for entry in _scan(place) if entry.is_dir() and not entry.name.startswith("."))
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            raise errors.BadInput(
                f"{place}: the classes {seen[name.casefold()]!r} and {name!r} differ by case alone; rename or merge one"
            )
        seen[name.casefold()] = name
    names = [name for name in names if next(_walk(place / name), None)]
    if not names:
        raise errors.BadInput(f"{place} holds no images: expected one folder for each class, images in it")
    if len(names) == 1:
        hint = f"if the classes are inside of it, give {place / names[0]}"
        raise errors.BadInput(f"{place}: {names[0]!r} is the only folder with images, of one class; {hint}")
    return tuple(names)


def _read(root, place, class_names):
    unknown = sorted(e.name for e in _scan(place) if e.is_dir() and e.name[0] != "." and e.name not in class_names)
    unknown = [name for name in unknown if next(_walk(place / name), None)]
    if unknown:
        raise errors.BadInput(f"{place / unknown[0]}: {unknown[0]!r} is no class of the training split")
    entries = [
        (os.path.relpath(path, root), label, 0)
        for label, name in enumerate(class_names)
        for path in sorted(_walk(place / name))
    ]
    if not entries:
        raise errors.BadInput(f"{place} holds no images: expected one folder for each class, images in it")
    return images.files(root, entries, upright=True)


def _scan(place):
    try:
        return list(os.scandir(place))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.BadInput(f"{place}: {(error.strerror or str(error)).lower()}") from error


def _walk(place, above=()):
    """Image files below a folder. A link that leads back to a folder above itself is named and left alone."""
    real = os.path.realpath(place)
    if real in above:
        log.say(f"{place} leads back to {real}; not followed")
        return
    for entry in sorted(_scan(place), key=lambda e: e.name):
        if entry.name.startswith("."):
            continue
        if _is_dir(entry):
            yield from _walk(entry.path, (*above, real))
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path


def _is_dir(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
