"""Decides from their content which folders are splits and which are classes."""

import os
from typing import Any

from lt_jax.core import errors, log
from lt_jax.data import walk

NAMES = {"train": ("train", "training"), "test": ("test", "testing"), "validation": ("val", "valid", "validation")}
SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}  # in lower case
MODES = ("auto", "folders", "none")
_TITLES = {"train": "training", "test": "test", "validation": "validation"}


def split_folders(root: str, mode: str) -> dict[str, str | None]:
    """Paths of the folders of "train", "test" and "validation", None if missing; logs the decision.

    A split folder has the name of a split, in any case, and holds class folders. A folder of such a name that holds
    images is a class. So is a training folder beside other folders with images, unless a test or validation folder
    shares a class with it. Without a test folder the validation folder is the test split.

    Args:
      mode: "auto" as above; "folders": a training folder is required; "none": every folder is a class.

    Raises:
      BadInput: the mode is unknown, two folders are the same split, or a required training folder is missing.
    """
    if mode not in MODES:
        raise errors.BadInput(f"config.data.splits: expected one of {', '.join(MODES)}, found {mode!r}")
    names = walk.folders_in(root, quiet=True) if mode != "none" else []
    named = [name for name in names if name.lower() in SPLIT_OF]
    if not named and mode != "folders":
        return {"train": root, "test": None, "validation": None}
    holding = {split: [n for n in named if SPLIT_OF[n.lower()] == split and _classes(root, n)] for split in NAMES}
    beside = [name for name in names if name not in named and _has_image(root, name)]
    if mode == "folders" and not holding["train"]:
        raise errors.BadInput(
            f"config.data.splits=folders: expected {log.printable(os.path.join(root, 'train'))}/CLASS/ with images in "
            f"it, found {', '.join(map(log.printable, names)) or 'no folders'}"
        )
    _refuse_two(root, holding)
    if not holding["train"] or (mode == "auto" and beside and not _share_a_class(root, holding)):
        log.say(f"folder {log.printable(root)}: {_read_as_classes(named)}")
        return {"train": root, "test": None, "validation": None}
    return _as_splits(root, holding, named, beside)


def _refuse_two(root: Any, holding: Any) -> Any:
    for split, folder_names in holding.items():
        if len(folder_names) > 1:
            first, second = (log.printable(name) for name in folder_names[:2])
            raise errors.BadInput(
                f"{log.printable(root)}: {first!r} and {second!r} are both the {_TITLES[split]} split; merge or rename "
                "one, or set config.data.splits=none if they are classes"
            )


def _as_splits(root: Any, holding: Any, named: Any, beside: Any) -> Any:
    chosen = {split: names[0] if names else None for split, names in holding.items()}
    titles = dict(_TITLES)
    if chosen["test"] is None and chosen["validation"] is not None:  # a `val` folder alone is used for testing
        chosen["test"], chosen["validation"] = chosen["validation"], None
        titles["test"] = "test: there is no test folder"
    used = [f"{log.printable(name)} ({titles[split]})" for split, name in chosen.items() if name is not None]
    line = f"folder {log.printable(root)}: splits {_listed(used)}"
    without = [name for name in named if name not in chosen.values()]
    if without:
        line += f"; {_left_out(without)}: {'it holds' if len(without) == 1 else 'they hold'} no class folders"
    if beside:
        line += f"; {_left_out(beside)}"
    log.say(line)
    return {split: name and os.path.join(root, name) for split, name in chosen.items()}


def _classes(root: Any, name: str) -> Any:
    """The class folders in a possible split folder: subfolders with any files, readable or not."""
    folder = os.path.join(root, name)
    return [
        inner
        for inner in walk.folders_in(folder, quiet=True)
        if next(walk.files_below(os.path.join(folder, inner)), None)
    ]


def _has_image(root: Any, name: str) -> Any:
    return any(walk.images_and_skipped([file])[0] for file in walk.files_below(os.path.join(root, name)))


def _share_a_class(root: Any, holding: Any) -> Any:
    classes = {name for folder in holding["train"] for name in _classes(root, folder)}
    return any(classes & set(_classes(root, folder)) for split in ("test", "validation") for folder in holding[split])


def _read_as_classes(named: Any) -> Any:
    verb = "is read as a class, not as a split" if len(named) == 1 else "are read as classes, not as splits"
    return f"{_listed(map(log.printable, named))} {verb}; config.data.splits=folders reads folders of splits"


def _left_out(names: Any) -> Any:
    return f"{', '.join(map(log.printable, names))} {'is' if len(names) == 1 else 'are'} left out"


def _listed(items: Any) -> Any:
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
