"""Images in ArrayRecord shards, as `lt_jax.data.prepare` writes them: one index, a few large files."""

import dataclasses
import functools
import hashlib
import os
import tempfile
from typing import Any

import numpy as np
from etils import epath

from lt_jax import errors, files
from lt_jax.data import images

SPLITS = ("train", "test", "validation")


def prepared(config: Any) -> images.Raw:
    """What `python -m lt_jax.data.prepare` has left in config.dir, a folder or a bucket.

    Raises:
      BadInput: no index, or shards that are not all there.
    """
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
    missing = [shard["file"] for shard in entry["shards"] if not (folder / shard["file"]).exists()]
    if missing:
        raise errors.BadInput(f"prepared: {folder / missing[0]} is missing: run python -m lt_jax.data.prepare again")
    table = files.read_npz(folder / entry["table"])
    paths = tuple(_local(folder, shard["file"]) for shard in entry["shards"])
    positions = np.arange(len(table["labels"]))
    return Records(paths, positions, table["labels"], table["names"], table["digests"], upright=index["upright"])


def _local(folder: epath.Path, name: str) -> str:
    """ArrayRecord reads local files alone: a shard in a bucket is copied once."""
    if "://" not in os.fspath(folder):
        return os.fspath(folder / name)
    key = hashlib.sha256(os.fspath(folder).encode()).hexdigest()[:16]
    copy = epath.Path(tempfile.gettempdir()) / f"lt_jax-shards-{os.getuid()}" / key / name
    if not copy.exists():
        files.write_bytes(copy, (folder / name).read_bytes(), by_all=True)
    return os.fspath(copy)


@functools.lru_cache(maxsize=8)
def _open(paths: tuple[str, ...]) -> Any:
    import grain

    return grain.sources.ArrayRecordDataSource(list(paths))


@dataclasses.dataclass(frozen=True)
class Records(images.Encoded):
    """Items of one prepared split; the shards are opened by each process that reads them."""

    paths: tuple[str, ...]
    positions: np.ndarray
    labels: np.ndarray
    names: np.ndarray  # what each item was called where it came from
    digests: np.ndarray  # of its content, hexadecimal
    size: int = 224
    workers: int = 0
    upright: bool = False

    def content(self, i: int) -> bytes:
        try:
            return _open(self.paths)[int(self.positions[i])]
        except Exception as error:  # its reader raises what it likes
            raise errors.BadInput(f"{self.name(i)}: the shard cannot be read ({error})") from error

    def name(self, i: int) -> str:
        return f"record {self.positions[i]} ({self.names[i]})"

    def select(self, positions: np.ndarray) -> "Records":
        kept = {key: getattr(self, key)[positions] for key in ("positions", "labels", "names", "digests")}
        return dataclasses.replace(self, **kept)

    @property
    def digest(self) -> str:
        return images.list_digest(self.digests, self.labels)
