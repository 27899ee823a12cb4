"""The three large benchmarks, read from their official lists of images.

The lists are from OLTR (Liu et al., CVPR 2019) for ImageNet-LT and Places-LT; for iNaturalist 2018 they are the json
files of the competition or the text lists that later papers made of them.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

from lt_jax.core import errors, log
from lt_jax.data import images
from lt_jax.data.sources import folders, generated, textfiles, tfds

# git blob ids of published lists: a file with another id lists other images.
PUBLISHED = {
    "ImageNet_LT_train.txt": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
    "iNaturalist18_train.txt": "4accdb7584d2f0a5106c40a33ed6afa392189bcc",
}
CLASSES = {"imagenet_lt": 1000, "places_lt": 365, "inat2018": 8142}


def imagenet_lt(config: Any) -> images.Raw:
    """ImageNet_LT_{train,val,test}.txt; images below DIR/train and DIR/val. Validation is the official val."""
    return _listed("imagenet_lt", "ImageNet_LT_{}.txt", ("train", "test", "val"), config)


def places_lt(config: Any) -> images.Raw:
    """Places_LT_{train,val,test}.txt; images below DIR/train and DIR/val (the folder data_256 of Places365)."""
    return _listed("places_lt", "Places_LT_{}.txt", ("train", "test", "val"), config)


def inat2018(config: Any) -> images.Raw:
    """train2018.json and val2018.json, or iNaturalist18_{train,val}.txt; images below DIR/train_val2018.

    The official val is the test split, as in other papers.
    """
    root, where = _folders("inat2018", config)
    if config.tfds or not (where / "train2018.json").is_file():
        return _listed("inat2018", "iNaturalist18_{}.txt", ("train", "val"), config)
    train, names = read_json(where / "train2018.json")
    test, _ = read_json(where / "val2018.json")
    parts = [images.files(root, entries, f"{split}2018.json") for split, entries in (("train", train), ("val", test))]
    return images.Raw("inat2018", names, *parts)


def _listed(name: str, pattern: Any, splits: Any, config: Any) -> Any:
    if config.tfds:
        return tfds.encoded(name, config)
    root, where = _folders(name, config)
    lists = [where / pattern.format(split) for split in splits]
    entries_by_file = [read_list(file, CLASSES[name]) for file in lists]
    for file in lists:
        if not generated.classes_of(config) and file.name in PUBLISHED and blob_id(file) != PUBLISHED[file.name]:
            log.say(f"{file} is not the published list (git blob {PUBLISHED[file.name]}): it lists other images")
    parts = [images.files(root, entries, file.name) for entries, file in zip(entries_by_file, lists, strict=True)]
    return images.Raw(name, class_names([entry for entries in entries_by_file for entry in entries]), *parts)


def _folders(name: str, config: Any) -> Any:
    """(image root, folder of the lists)."""
    classes = generated.classes_of(config)
    root = generated.tree(name, classes) if classes else folders.data_folder(name, config.dir)
    where = pathlib.Path(config.list).expanduser() if config.list else root
    if not where.is_dir():
        raise errors.BadInput(f"{name}: config.data.list: expected the folder of the lists, found {where}")
    return root, where


def read_list(file: Any, num_classes: int) -> list[tuple[str, int, int]]:
    """(path, label, line number) of each line `path label`.

    Raises:
      BadInput: the file is missing, a line has another form, or a label is not below num_classes.
    """
    entries = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        path, label = (["", *line.strip().rsplit(maxsplit=1)])[-2:]
        if not path or not (label.isascii() and label.isdigit()):
            raise errors.BadInput(f"line {number} of {file}: expected `path label`, found {line!r}")
        if int(label) >= num_classes:
            raise errors.BadInput(f"line {number} of {file}: label {label} is not in 0..{num_classes - 1}")
        entries.append((path, int(label), number))
    if not entries:
        raise errors.BadInput(f"{file} holds no images")
    return entries


def read_json(file: Any) -> tuple[list[tuple[str, int, int]], tuple[str, ...]]:
    """((path, label, number) of each image, class names) of a json file in COCO format; numbers count from 1."""
    try:
        content = json.loads(_text(file))
        label_of = {annotation["image_id"]: annotation["category_id"] for annotation in content["annotations"]}
        pairs = [(image["file_name"], label_of[image["id"]]) for image in content["images"]]
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise errors.BadInput(f"{file}: not the json of iNaturalist ({type(error).__name__}: {error})") from error
    if not categories:
        raise errors.BadInput(f"{file}: it names no categories")
    for number, (_, label) in enumerate(pairs, start=1):
        if label not in categories:
            raise errors.BadInput(f"image {number} of {file}: label {label} is not among the categories")
    names = tuple(categories.get(c, str(c)) for c in range(max(categories) + 1))
    return [(path, label, number) for number, (path, label) in enumerate(pairs, start=1)], names


def class_names(entries: list[tuple[str, int, int]]) -> tuple[str, ...]:
    """Name of each class: the folder of its images, or the class number if they are in several folders."""
    folders_of: dict[int, set[str]] = {}
    for path, label, _ in entries:
        folders_of.setdefault(label, set()).add(os.path.dirname(path).partition("/")[2])
    names_of = (folders_of.get(c, set()) - {""} for c in range(max(folders_of) + 1))
    return tuple(log.printable(names.pop()) if len(names) == 1 else str(c) for c, names in enumerate(names_of))


def blob_id(file: Any) -> str:
    """The git blob id of a file."""
    content = pathlib.Path(file).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _lines(file: Any) -> Any:
    """Lines of a list of paths; bytes that are not UTF-8 are kept."""
    _check_there(file)
    return textfiles.lines_of_names(file)


def _text(file: Any) -> Any:
    _check_there(file)
    return textfiles.read(file)[0]


def _check_there(file: Any) -> Any:
    if not pathlib.Path(file).exists():
        hint = "put the official list there, or name its folder in config.data.list"
        raise errors.BadInput(f"{file} is missing: {hint}")
