"""Images in ArrayRecord shards, as `lt_jax.data.prepare` writes them: one index, a few large files."""

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
    """What `python -m lt_jax.data.prepare` has left in config.dir, a folder or a bucket.

    Raises:
      BadInput: no index, or shards that are not all there.
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


def _split(folder, split, index):
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


def _copied(folder, shards):
    """The local folder of copies of these shards: ArrayRecord reads local files alone.

    A copy is named by its content, so that one of other images is never used, and the bucket is only read for a shard
    that has no copy yet.
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


def _read_shard(path):
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise errors.BadInput(f"prepared: {path} is missing: {_AGAIN}") from error


def _copy_name(shard):
    return f"{shard['sha256'][:32]}.array_record"


def _not_indexed(path):
    return f"prepared: {path} does not hold the images that index.json lists: {_AGAIN}"


@functools.lru_cache(maxsize=8)
def _open(folder: str, shards: tuple[str, ...], shard_digests: tuple[str, ...]) -> Any:
    import grain

    return grain.sources.ArrayRecordDataSource([os.path.join(folder, shard) for shard in shards])


@dataclasses.dataclass(frozen=True)
class Records(images.Encoded):
    """Items of one prepared split; the shards are opened by each process that reads them."""

    folder: str
    shards: tuple[str, ...]  # names of the files in it
    shard_digests: tuple[str, ...]  # SHA-256 of each, as the index has it
    positions: np.ndarray
    labels: np.ndarray
    names: np.ndarray  # what each item was called where it came from
    digests: np.ndarray  # of its content, hexadecimal
    size: int = 224
    workers: int = 0
    upright: bool = False

    def content(self, i: int) -> bytes:
        try:
            return _open(self.folder, self.shards, self.shard_digests)[int(self.positions[i])]
        except Exception as error:  # its reader raises what it likes
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
