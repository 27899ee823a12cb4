"""Finds the images below a folder, with the same rules for training and `--stage=predict`.

Files and folders that operating systems and network drives create are ignored. All other files that are not readable
images are returned too, so that the caller can report them.
"""

import collections
import os
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from lt_jax.core import errors, log
from lt_jax.data import formats

File = tuple[str, bool]  # path; False for a pipe or a device
Skipped = tuple[str, str | None]  # path of a file that is not a readable image; its format if known
_SYSTEM = (
    "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini",
    "$recycle.bin", "system volume information", "lost+found",
)  # fmt: skip
_RUN = ("run.json", "lock.json")  # mark the work directory of a run, whose figures are not training images
_IS_A_RUN = "is the work directory of a run; left out"
_SHOWN = 3  # names of each kind in a message


def is_system(name: str) -> bool:
    """Whether a file or folder belongs to the system: its name is listed in `_SYSTEM` or starts with a dot."""
    return name.startswith(".") or name.lower() in _SYSTEM


def folders_in(folder: str, quiet: bool = False) -> list[str]:
    """Sorted names of the subfolders.

    Links to the folder itself or a parent and work directories of runs are left out, with a log line unless `quiet`.

    Raises:
      BadInput: the folder cannot be listed.
    """
    names = []
    here = os.path.realpath(folder)
    for entry in _scan(folder):
        if not _is_folder(entry):
            continue
        real = os.path.realpath(entry.path) if entry.is_symlink() else ""
        if real and (here == real or _is_above(real, here)):
            line = f"leads back to {log.printable(real)}; not followed"
        elif any(os.path.isfile(os.path.join(entry.path, name)) for name in _RUN):
            line = _IS_A_RUN
        else:
            names.append(entry.name)
            continue
        if not quiet:
            log.say(f"{log.printable(entry.path)} {line}")
    return names


def files_in(folder: str) -> list[File]:
    """The files directly in the folder, sorted."""
    return [(entry.path, _is_regular(entry)) for entry in _scan(folder) if not _is_folder(entry)]


def files_below(folder: str) -> Iterator[File]:
    """Yields all files at any depth; each folder is listed once, even if several links point to it.

    Raises:
      BadInput: a folder cannot be listed.
    """
    yield from (
        _in_bucket(epath.Path(folder)) if "://" in folder else _below(folder, os.path.realpath(folder), (), set())
    )


def images_and_skipped(files: Iterable[File]) -> tuple[list[str], list[Skipped]]:
    """(paths of image files, all other files), each in the order of `files`."""
    pictures: list[str] = []
    skipped: list[Skipped] = []
    for path, is_regular in files:
        is_image, form = _looked_at(path) if is_regular else (False, None)
        if is_image:
            pictures.append(path)
        else:
            skipped.append((path, form))
    return pictures, skipped


def described(skipped: list[Skipped], root: str) -> str:
    """Message about skipped files: counts by extension, some names relative to `root`, and the fix if there is one."""
    kinds = collections.defaultdict(list)
    for path, _ in skipped:
        kinds[os.path.splitext(path)[1].lower() or "without extension"].append(path)
    parts = [_counted(kind, kinds[kind], root) for kind in sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))]
    unreadable = sorted({form for _, form in skipped if form is not None})
    return "; ".join([", ".join(parts), *(f"{form} cannot be read, convert them to JPEG" for form in unreadable)])


def say_skipped(skipped: list[Skipped], root: str) -> None:
    """Logs one line about the skipped files, if there are any."""
    if skipped:
        count = f"{len(skipped)} file{'s' * (len(skipped) > 1)} skipped"
        log.say(f"folder {log.printable(root)}: {count}: {described(skipped, root)}")


def _counted(kind: str, paths: list[Any], root: str) -> str:
    names = [log.printable(os.path.relpath(path, root)) for path in paths[:_SHOWN]]
    return f"{len(paths)} {log.printable(kind)} ({', '.join(names + ['...'] * (len(paths) > _SHOWN))})"


def _looked_at(path: str) -> tuple[Any, ...]:
    """(whether Pillow can open the file, its format if checked). Only files with unknown extensions are opened."""
    name = path.lower()
    if name.endswith(formats.SUFFIXES):
        return True, None
    if name.endswith(formats.SIDE_FILES):
        return False, None
    form = formats.of(_first_bytes(path)) or formats.MODERN.get(os.path.splitext(name)[1])
    return form is not None and formats.is_readable(form), form


def _first_bytes(path: Any) -> Any:
    try:
        with epath.Path(path).open("rb") if "://" in path else open(path, "rb") as file:
            return file.read(formats.FIRST_BYTES)
    except OSError:
        return b""


def _scan(folder: str) -> list[Any]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not is_system(entry.name)), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.BadInput(f"{log.printable(folder)}: {errors.reason(error)}") from error


def _is_folder(entry: Any) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_above(folder: str, below: str) -> bool:
    return below != folder and below.startswith(folder.rstrip(os.sep) + os.sep)


def _is_regular(entry: Any) -> bool:
    """False for pipes and devices, where reading could block. A broken link counts as a file: reading it reports it."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def _below(folder: str, start: str, above: tuple[Any, ...], listed: set[Any]) -> Iterator[Any]:
    real = os.path.realpath(folder)
    if real in above or _is_above(real, start):
        log.say(f"{log.printable(folder)} leads back to {log.printable(real)}; not followed")
        return
    if real in listed:
        return
    listed.add(real)
    entries = _scan(folder)
    if real != start and any(entry.name in _RUN for entry in entries):
        log.say(f"{log.printable(folder)} {_IS_A_RUN}")
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _below(entry.path, start, (*above, real), listed)
        else:
            yield entry.path, _is_regular(entry)


def _in_bucket(folder: Any) -> Any:
    for path in sorted(folder.iterdir()):
        if is_system(path.name):
            continue
        if not path.name.lower().endswith(formats.SUFFIXES) and path.is_dir():
            yield from _in_bucket(path)
        else:
            yield os.fspath(path), True
