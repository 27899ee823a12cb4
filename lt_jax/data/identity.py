"""Content digests of a data set, so that a changed image, label or shard is noticed.

Pixels in memory are hashed. Files are first compared by size and times with an earlier `Manifest`; only those that
differ are read again. A run stores its manifest as `data.npz`.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lt_jax.core import errors, log

SPLITS = ("train", "test", "validation")
_BYTES = 32  # of a SHA-256
_THREADS = 8  # threads that read files; hashing releases the interpreter lock
_GROUP = 64  # files per task: submitting a task takes longer than reading one file
_MANY = 5000  # from this number of files on, a line explains the slow start


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Names of files, their size and times in nanoseconds (n, 3), and SHA-256 of their content (n, 32) uint8."""

    names: tuple[str, ...] = ()
    stats: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3), np.int64))
    digests: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, _BYTES), np.uint8))

    def arrays(self) -> dict[str, np.ndarray]:
        """The manifest as arrays for a .npz file; `from_arrays` reads them."""
        names = "\0".join(self.names).encode(errors="surrogateescape")
        return {"names": np.frombuffer(names, np.uint8), "stats": self.stats, "digests": self.digests}

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> "Manifest":
        """The manifest from the arrays that `arrays` returned."""
        text = arrays["names"].tobytes().decode(errors="surrogateescape")
        names = tuple(text.split("\0")) if len(arrays["stats"]) else ()
        return Manifest(names, arrays["stats"], arrays["digests"])

    def __add__(self, other: "Manifest") -> "Manifest":
        """The union of both; a file in both is listed once."""
        known = set(self.names)
        new = [i for i, name in enumerate(other.names) if name not in known]
        return Manifest(
            (*self.names, *(other.names[i] for i in new)),
            np.concatenate([self.stats, other.stats[new]]),
            np.concatenate([self.digests, other.digests[new]]),
        )


def of_dataset(dataset: Any, before: Manifest | None = None) -> tuple[dict[str, str | None], Manifest]:
    """Content digest of every split, and the manifest of their files.

    A digest covers class names, labels and images in order, but not the folder or the times of files.

    Args:
      dataset: a `data.Dataset`.
      before: an earlier manifest of the same files.

    Returns:
      ({"train", "test", "validation"} -> hexadecimal SHA-256, None where there is no such split; the manifest).

    Raises:
      BadInput: a file cannot be read, or a shard differs from its index.
    """
    names = json.dumps(dataset.class_names)
    manifest = Manifest()
    digests: dict[str, str | None] = {}
    for split in SPLITS:
        part = getattr(dataset, split)
        if part is None:
            digests[split] = None
            continue
        digest = hashlib.sha256(f"{names}\n".encode())
        digest.update(np.asarray(part.labels, "<i8").tobytes())
        stored = part.stored if part.stored is not None else part.images
        if isinstance(stored, np.ndarray):
            digest.update(str((stored.shape, stored.dtype.str)).encode())
            digest.update(np.ascontiguousarray(stored).data)
        else:
            folder, file_names = stored.stored_in()
            files = scan(folder, file_names, before)
            digest.update(np.ascontiguousarray(stored.item_digests(files.digests)).data)
            manifest += files
        digests[split] = digest.hexdigest()
    return digests, manifest


def whole(digests: dict[str, str | None]) -> str:
    """One digest of all splits, from the digests that `of_dataset` returns."""
    return hashlib.sha256(json.dumps([digests[split] for split in SPLITS]).encode()).hexdigest()


def scan(
    folder: str, names: Sequence[str], before: Manifest | None = None, skip_missing: bool = False
) -> Manifest:  # fmt: skip
    """The manifest of files below a folder, in this order; reads only files that are new or changed since `before`.

    Args:
      skip_missing: a file that cannot be read has a digest of zeros.

    Raises:
      BadInput: a file is missing or cannot be read, unless `skip_missing`.
    """
    before = before or Manifest()
    stats = _stats(folder, names)
    row_of = {name: row for row, name in enumerate(before.names)}
    rows = np.array([row_of.get(name, -1) for name in names], np.int64)
    is_known = rows >= 0
    is_known[is_known] = (before.stats[rows[is_known]] == stats[is_known]).all(axis=1)
    digests = np.zeros((len(names), _BYTES), np.uint8)
    digests[is_known] = before.digests[rows[is_known]]
    unknown = np.flatnonzero(~is_known)
    if len(unknown) >= _MANY:
        log.say(f"reading {len(unknown)} files once to record their content digests")
    paths = [os.path.join(folder, names[i]) for i in unknown.tolist()]
    for i, content in zip(unknown, _contents(paths), strict=True):
        if isinstance(content, errors.BadInput) and not skip_missing:
            raise content
        digests[i] = 0 if isinstance(content, errors.BadInput) else np.frombuffer(content, np.uint8)
    return Manifest(tuple(names), stats, digests)


def stat_digest(folder: str, names: Sequence[str]) -> str:
    """A digest of names, sizes and times, equal for unchanged files. Reads no file content."""
    digest = hashlib.sha256("\0".join([folder, *names]).encode(errors="surrogateescape"))
    digest.update(_stats(folder, names))
    return digest.hexdigest()


def difference(before: Manifest, after: Manifest) -> str:
    """Description of the differences between manifests: "1 added (cat/4.jpg), 2 changed (cat/1.jpg, ...)".

    Empty if they are equal.
    """
    if before.names == after.names and np.array_equal(before.digests, after.digests):
        return ""
    old, new = (dict(zip(m.names, map(bytes, m.digests), strict=True)) for m in (before, after))
    groups = {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
    }
    words = [f"{len(names)} {what} ({_listed(names)})" for what, names in groups.items() if names]
    return ", ".join(words)


def _listed(names: Any) -> Any:
    return names[0] + (", ..." if len(names) > 1 else "")


def _stats(folder: Any, names: Any) -> Any:
    """Size and times of each file, (n, 3) int64; -1 for a missing file."""
    rows = []
    for name in names:
        try:
            info = os.stat(os.path.join(folder, name))
        except OSError:  # the error is reported when the file is read
            rows.append((-1, -1, -1))
        else:
            rows.append((info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    return np.array(rows, np.int64).reshape(-1, 3)


def _contents(paths: Any) -> Any:
    """Yields the digest of each file, or its error. Threads hide the latency of network disks."""
    groups = [paths[i : i + _GROUP] for i in range(0, len(paths), _GROUP)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for digests in pool.map(lambda group: [_sha256(path) for path in group], groups):
            yield from digests


def _sha256(path: Any) -> Any:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.digest()
    except OSError as error:
        return errors.BadInput(f"{path}: {errors.reason(error)}")
