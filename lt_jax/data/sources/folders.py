"""Your own images, in one folder for each class.

DIR/cat/1.jpg DIR/dog/2.jpg                       a random test split (config.data.test_share)
DIR/train/cat/1.jpg DIR/test/cat/2.jpg            your own split; DIR/val (or validation) is optional

Split names, in any case: train, training; test, testing; val, valid, validation. `layout` distinguishes splits from
classes, `walk` finds the images.
"""

import os
import pathlib
from typing import Any

from lt_jax.core import errors, log
from lt_jax.data import images, walk
from lt_jax.data.sources import generated, layout


def folder(config: Any) -> images.Raw:
    """The data set below `config.dir`; classes are the sorted names of the folders.

    Raises:
      BadInput: there is no folder, no image or only one class; two classes differ only in case; a class is only in the
        test split or has no readable image; two folders are the same split.
    """
    classes = generated.classes_of(config)
    root = os.fspath(generated.tree("folder", classes) if classes else data_folder("folder", config.dir))
    splits = layout.split_folders(root, getattr(config, "splits", "auto"))
    skipped: list[walk.Skipped] = []
    train = _files_of_classes(splits["train"], skipped)
    _check_classes(splits["train"], train)
    parts = {"train": train}
    for split in ("test", "validation"):
        if splits[split] is not None:
            parts[split] = _files_of_classes(splits[split], skipped)
            _check_known(splits[split], parts[split], train)
    walk.say_skipped(skipped, root)
    read = {split: _as_images(root, files, list(train)) for split, files in parts.items()}
    names = tuple(log.printable(name) for name in train)
    return images.Raw("folder", names, read["train"], read.get("test"), read.get("validation"))


def data_folder(name: str, folder: str) -> pathlib.Path:
    """The folder named by config.data.dir or LT_JAX_DATA.

    Raises:
      BadInput: neither is set, or the folder does not exist.
    """
    chosen = folder or os.environ.get("LT_JAX_DATA", "")
    if not chosen:
        raise errors.BadInput(f"{name}: no data folder: give --config.data.dir=DIR or set LT_JAX_DATA")
    path = pathlib.Path(os.path.expanduser(chosen))
    if not path.is_dir():
        raise errors.BadInput(
            f"{name}: the data folder {log.printable(str(path))} is not there (config.data.dir or LT_JAX_DATA)"
        )
    return path


def _files_of_classes(folder: Any, skipped: Any) -> Any:
    """Class name -> sorted image files; other files are appended to `skipped`.

    A class folder with files but no readable image is an error, since the class would silently disappear.
    """
    classes = {}
    empty = []
    for name in walk.folders_in(folder):
        path = os.path.join(folder, name)
        pictures, not_images = walk.images_and_skipped(walk.files_below(path))
        if not_images and not pictures:
            raise errors.BadInput(
                f"{log.printable(path)}: no readable image in this class folder, but "
                f"{walk.described(not_images, path)}; if the folder is not a class, move it elsewhere or rename it to "
                "start with a dot"
            )
        skipped += not_images
        if pictures:
            classes[name] = sorted(pictures)
        else:
            empty.append(name)
    if classes:
        _say_left_out(folder, empty)
    return classes


def _say_left_out(folder: Any, empty: Any) -> Any:
    shown = log.printable(folder)
    if empty:
        verbs = ("holds", "is") if len(empty) == 1 else ("hold", "are")
        log.say(f"folder {shown}: {', '.join(map(log.printable, empty))} {verbs[0]} no files and {verbs[1]} no class")
    loose = [log.printable(os.path.basename(path)) for path in walk.images_and_skipped(walk.files_in(folder))[0]]
    if loose:
        count, verb = ("1 image lies", "is") if len(loose) == 1 else (f"{len(loose)} images lie", "are")
        names = ", ".join(loose[:3]) + ", ..." * (len(loose) > 3)
        log.say(f"folder {shown}: {count} in no class folder and {verb} left out: {names}")


def _check_classes(folder: Any, classes: Any) -> Any:
    shown = log.printable(folder)
    seen: dict[str, str] = {}
    for name in map(log.printable, classes):
        if name.casefold() in seen:
            other = seen[name.casefold()]
            raise errors.BadInput(
                f"{shown}: the classes {other!r} and {name!r} differ by case alone; rename or merge one"
            )
        seen[name.casefold()] = name
    if not classes:
        raise errors.BadInput(f"{shown} holds no images: expected one folder for each class, images in it")
    if len(classes) == 1:
        (name,) = map(log.printable, classes)
        hint = f"if the classes are inside it, give {os.path.join(shown, name)}"
        raise errors.BadInput(f"{shown}: {name!r} is the only folder with images, of one class; {hint}")


def _check_known(folder: Any, classes: Any, train: Any) -> Any:
    unknown = [log.printable(name) for name in classes if name not in train]
    if unknown:
        path = os.path.join(log.printable(folder), unknown[0])
        raise errors.BadInput(f"{path}: {unknown[0]!r} is no class of the training split")
    if not classes:
        raise errors.BadInput(
            f"{log.printable(folder)} holds no images: expected one folder for each class, images in it"
        )


def _as_images(root: Any, classes: Any, names: Any) -> Any:
    prefix = os.path.join(root, "")  # all paths start with root: removing it is ten times faster than os.path.relpath
    label_of = {name: label for label, name in enumerate(names)}
    entries = [(path.removeprefix(prefix), label_of[name], 0) for name, paths in classes.items() for path in paths]
    return images.files(root, entries, upright=True)
