"""Images in ArrayRecord shards with an index, written by `lt_jax.data.prepare`."""

import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from lt_jax.core import errors, extras, files
from lt_jax.data import images

SPLITS = ("train", "test", "validation")
_AGAIN = "run python -m lt_jax.data.prepare again"


def prepared(config: Any) -> images.Raw:
    """The data set that `python -m lt_jax.data.prepare` wrote to config.dir, a folder or a bucket.

    Raises:
      BadInput: the index or a shard is missing.
    """
    extras.check_bucket(config.dir, "config.data.dir")
    folder = epath.Path(config.dir or ".").expanduser()
    index = files.read_json(folder / "index.json")
    if index is None:
        raise errors.BadInput(f"prepared: no index.json in {folder}: run python -m lt_jax.data.prepare first")
    if index["status"] != "complete":
        raise errors.BadInput(f"prepared: {folder} is not complete: run python -m lt_jax.data.prepare again")
    parts = {split: _split(folder, split, index) for split in SPLITS if split in index["splits"]}
    names = tuple(index["class_names"])
    return images.Raw(index["name"], names, parts["train"], parts.get("test"), parts.get("validation"))


def _split(folder: Any, split: Any, index: Any) -> Any:
    entry = index["splits"][split]
    is_bucket = "://" in os.fspath(folder)
    local_folder = _copied(folder, entry["shards"]) if is_bucket else os.fspath(folder)
    shards = tuple(_copy_name(shard) if is_bucket else shard["file"] for shard in entry["shards"])
    missing = [name for name in shards if not os.path.exists(os.path.join(local_folder, name))]
    if missing:
        raise errors.BadInput(f"prepared: {folder / missing[0]} is missing: {_AGAIN}")
    table = files.read_npz(folder / entry["table"])
    positions = np.arange(len(table["labels"]))
    return Records(
        local_folder,
        shards,
        tuple(shard["sha256"] for shard in entry["shards"]),
        positions,
        table["labels"],
        table["names"],
        table["digests"],
        upright=index["upright"],
    )


def _copied(folder: Any, shards: Any) -> Any:
    """Copies shards to a local folder and returns it: ArrayRecord reads only local files.

    A copy is named by its content digest, so that an outdated copy is never used; only shards without a copy are
    read from the bucket.
    """
    key = hashlib.sha256(os.fspath(folder).encode()).hexdigest()[:16]
    copies = epath.Path(tempfile.gettempdir()) / f"lt_jax-shards-{os.getuid()}" / key
    for shard in shards:
        if (copies / _copy_name(shard)).exists():
            continue
        content = _read_shard(folder / shard["file"])
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            raise errors.BadInput(_not_indexed(folder / shard["file"]))
        files.write_bytes(copies / _copy_name(shard), content, by_all=True)
    return os.fspath(copies)


def _read_shard(path: Any) -> Any:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise errors.BadInput(f"prepared: {path} is missing: {_AGAIN}") from error


def _copy_name(shard: Any) -> Any:
    return f"{shard['sha256'][:32]}.array_record"


def _not_indexed(path: Any) -> Any:
    return f"prepared: {path} does not hold the images that index.json lists: {_AGAIN}"


@functools.lru_cache(maxsize=8)
def _open(folder: str, shards: tuple[str, ...], shard_digests: tuple[str, ...]) -> Any:
    import grain

    return grain.sources.ArrayRecordDataSource([os.path.join(folder, shard) for shard in shards])


@dataclasses.dataclass(frozen=True)
class Records(images.Encoded):
    """Items of one prepared split; each process opens the shards itself."""

    folder: str
    shards: tuple[str, ...]  # names of the files in `folder`
    shard_digests: tuple[str, ...]  # SHA-256 of each, from the index
    positions: np.ndarray
    labels: np.ndarray
    names: np.ndarray  # name of each item in its source
    digests: np.ndarray  # SHA-256 of each item, hexadecimal
    size: int = 224
    workers: int = 0
    upright: bool = False

    def content(self, i: int) -> bytes:
        try:
            return _open(self.folder, self.shards, self.shard_digests)[int(self.positions[i])]
        except Exception as error:  # the reader raises many types
            raise errors.BadInput(f"{self.name(i)}: the shard cannot be read ({error})") from error

    def name(self, i: int) -> str:
        return f"record {self.positions[i]} ({self.names[i]})"

    def select(self, positions: np.ndarray) -> "Records":
        columns = {key: getattr(self, key)[positions] for key in ("positions", "labels", "names", "digests")}
        return dataclasses.replace(self, **columns)

    def stored_in(self) -> tuple[str, Sequence[str]]:
        return self.folder, self.shards

    def item_digests(self, file_digests: np.ndarray) -> np.ndarray:
        for shard, recorded, digest in zip(self.shards, self.shard_digests, file_digests, strict=True):
            if bytes(digest).hex() != recorded:
                raise errors.BadInput(_not_indexed(os.path.join(self.folder, shard)))
        return np.array([list(bytes.fromhex(digest)) for digest in self.digests], np.uint8).reshape(-1, 32)
