"""Whole files, read and written in one go, on a local disk or in a bucket.

A local file is written beside its place and then moved there, so that a killed run leaves the old one or the new
one, never half of either. An object store commits an object as a whole by itself; nothing here appends.
Of several processes the first one writes; `distributed.wait` comes before the others read it.
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
    """Turns what the file system says about writing `path` into one line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.RunFailed(f"no space left to write {path}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise errors.BadInput(f"cannot write {path}: {error.strerror.lower()}") from error
        raise errors.RunFailed(f"cannot write {path}: {error}") from error


def write_bytes(path: epath.PathLike, content: bytes, by_all: bool = False) -> None:
    """Of several processes only the first one writes, unless it is a file that each machine has of its own."""
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
    write_bytes(path, text.encode())


def write_json(path: epath.PathLike, value: Any) -> None:
    """Strict JSON: NaN is an error here and null where a number is missing."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: epath.PathLike) -> Any:
    """None where there is no such file."""
    path = epath.Path(path)
    return json.loads(path.read_text()) if path.exists() else None


def json_digest(values: Any) -> str:
    """A short name of any JSON value; equal values, and only those, have equal names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def digest(path: epath.PathLike) -> str | None:
    """SHA-256 of the content, None where there is no such file."""
    path = epath.Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def check_there(path: epath.PathLike) -> None:
    """Of something that this run has made: what is written later would make its folders anew, and lack the rest.

    Raises:
      RunFailed: it is gone.
    """
    if distributed.is_main() and not epath.Path(path).exists():
        raise errors.RunFailed(f"{path} is gone: the work directory was removed or moved, or its disk is away")


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
    """The path with `~` or `~user` at its start replaced by that home folder.

    Args:
      key: the flag or config key that holds the path, for the error.

    Raises:
      BadInput: there is no such user, or the package for a bucket is missing.
    """
    extras.check_bucket(path, key)
    text = os.path.expanduser(os.fspath(path))
    if text.startswith("~"):
        raise errors.BadInput(f"{key}: there is no home folder {text.partition('/')[0]!r}, as in {os.fspath(path)!r}")
    return epath.Path(text)


def prepare_folder(path: epath.PathLike, key: str = "--workdir") -> epath.Path:
    """Makes the folder and proves that it can be written to.

    Raises:
      BadInput: it cannot, or `~` in it has no meaning.
    """
    path = expand(path, key)
    probe = path / ".writable"
    write_bytes(probe, b"")
    if distributed.is_main():
        probe.unlink()
    return path
