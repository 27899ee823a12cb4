"""Reads and writes whole files, on a local disk or in a bucket.

A local file is written under a temporary name and then renamed, so that a killed run leaves either the old or the new
file. An object store commits whole objects; nothing here appends. With several processes only the first one writes;
call `distributed.wait` before the others read.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
from typing import Any

import numpy as np
from etils import epath

from lt_jax.core import distributed, errors, extras


@contextlib.contextmanager
def clear_errors(path):
    """Context manager: turns file system errors when writing `path` into BadInput or RunFailed with one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.RunFailed(f"no space left to write {path}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise errors.BadInput(f"cannot write {path}: {errors.reason(error)}") from error
        raise errors.RunFailed(f"cannot write {path}: {error}") from error


def write_bytes(path: epath.PathLike, content: bytes, by_all: bool = False) -> None:
    """Writes a file. Only the first process writes, unless `by_all`, for files that each machine needs."""
    if not (by_all or distributed.is_main()):
        return
    path = epath.Path(path)
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if "://" in os.fspath(path):
            path.write_bytes(content)
            return
        beside = path.with_name(path.name + f".tmp{os.getpid()}")
        beside.write_bytes(content)
        os.replace(beside, path)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a text file in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes strict JSON: NaN is an error, use None for missing numbers."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: epath.PathLike) -> Any:
    """The value in a JSON file; None if the file does not exist."""
    path = epath.Path(path)
    return json.loads(path.read_text()) if path.exists() else None


def json_digest(values: Any) -> str:
    """Digest of a JSON value, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def digest(path: epath.PathLike) -> str | None:
    """SHA-256 of the content of a file; None if it does not exist."""
    path = epath.Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def check_there(path: epath.PathLike) -> None:
    """Checks that a file of this run still exists; else later writes would recreate only part of a work directory.

    Raises:
      RunFailed: the file is gone.
    """
    if distributed.is_main() and not epath.Path(path).exists():
        raise errors.RunFailed(f"{path} is gone: the work directory was removed or moved, or its disk is not available")


def write_npy(path: epath.PathLike, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())


def write_npz(path: epath.PathLike, **arrays: Any) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
    with epath.Path(path).open("rb") as file, np.load(io.BytesIO(file.read())) as content:
        return dict(content)


def expand(path: epath.PathLike, key: str) -> epath.Path:
    """The path with a leading `~` or `~user` replaced by that home folder.

    Args:
      key: the flag or config key that holds the path, for the error.

    Raises:
      BadInput: the user does not exist, or the package for a bucket is missing.
    """
    extras.check_bucket(path, key)
    text = os.path.expanduser(os.fspath(path))
    if text.startswith("~"):
        raise errors.BadInput(f"{key}: there is no home folder {text.partition('/')[0]!r}, as in {os.fspath(path)!r}")
    return epath.Path(text)


def prepare_folder(path: epath.PathLike, key: str = "--workdir") -> epath.Path:
    """Creates the folder, checks that it is writable, and returns its path.

    Raises:
      BadInput: the folder is not writable, or `~` cannot be resolved.
    """
    path = expand(path, key)
    probe = path / ".writable"
    write_bytes(probe, b"")
    if distributed.is_main():
        probe.unlink(missing_ok=True)  # another run may have removed it, before one of the two gets the lock
    return path


def copy_folder(source: epath.PathLike, target: epath.PathLike) -> None:
    """Copies the files of a folder that `target` lacks. On one local disk they are linked, which takes no space.

    Our functions replace files and never change them, so a link is as good as a copy.
    """
    source, target = epath.Path(source), epath.Path(target)
    if not distributed.is_main():
        return
    with clear_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.is_dir() or file.suffix == ".partial" or (target / file.name).exists():
                continue
            try:
                os.link(file, target / file.name)
            except OSError:  # another disk, or a bucket
                partial = target / f"{file.name}.partial"  # a kill leaves no half of a file under its name
                file.copy(partial, overwrite=True)
                partial.replace(target / file.name)
