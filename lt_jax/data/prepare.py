"""Converts any source to ArrayRecord shards with an index: `python -m lt_jax.data.prepare`; see `USAGE`."""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from lt_jax.core import errors, files, log
from lt_jax.data import decode, identity, images, sources
from lt_jax.data.sources import records

# A constant, since python -OO removes docstrings.
USAGE = """\
Convert any source to ArrayRecord shards with an index: one folder with a few large files.

    python -m lt_jax.data.prepare --name=folder --dir=DIR --out=OUT [--list=PATH] [--workers=2] [--shard_size=1024]
    python -m lt_jax.main --config=configs/folder.py --config.data.name=prepared --config.data.dir=OUT

  --name        imagenet_lt, places_lt, inat2018, folder, table, parquet, cifar10, cifar100 or digits
  --dir         folder of the images; --list: the table, the Parquet file, or the folder of the official lists
  --out         a folder or a bucket path (gs://...)
  --size        length in pixels to which the shorter side is reduced; 0 (default) keeps the files unchanged
  --on_bad_image  error (default) or skip: unreadable images are left out and listed in index.json, but for test images

Every image is decoded once before it is written, and every shard is read back and compared. Run the same command again
to continue: damaged shards and shards of changed images are rewritten, shards of removed images are deleted.
`index.json` is written last and holds the class names and the shards with their digests; `SPLIT.npz` holds the labels,
names and digests of the images. Exit status: 0 done, 1 failed, 2 bad input.
"""
_SHARD = re.compile(rf"({'|'.join(records.SPLITS)})-\d{{5}}-of-\d{{5}}\.array_record")
CONFIG = {
    "tfds": False, "classes": "", "generated": 0, "seed": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file to write: some items of one split."""

    split: str
    file: str
    images: Any
    out: str
    size: int
    skip: bool


def main(argv: list[str]) -> int:
    """Runs the command line and returns its exit status; errors are printed as one line."""
    try:
        options = _parse(argv)
        if options is not None:
            run(options)
        return 0
    except tuple(errors.EXIT_STATUS) as error:
        print(f"lt_jax: {error}", file=sys.stderr)
        return errors.EXIT_STATUS[type(error)]


def _parse(argv: list[str]) -> Any:
    parser = argparse.ArgumentParser(
        prog="lt_jax.data.prepare", add_help=False, allow_abbrev=False, exit_on_error=False
    )
    for name, default in (("name", ""), ("dir", ""), ("list", ""), ("out", ""), ("on_bad_image", "error")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("workers", os.cpu_count() or 1), ("shard_size", 1024), ("size", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    if any(word in ("-h", "--help") for word in argv[1:]):
        print(USAGE)
        return None
    try:
        options, unknown_arguments = parser.parse_known_args(argv[1:])
    except argparse.ArgumentError as error:
        raise errors.BadInput(str(error)) from error
    if unknown_arguments:
        raise errors.BadInput(f"unexpected argument {unknown_arguments[0]!r}; flags look like --name=value")
    if options.name not in sources.SOURCES or options.name in ("features", "prepared"):
        known = ", ".join(name for name in sources.SOURCES if name not in ("features", "prepared"))
        raise errors.BadInput(f"--name: expected one of {known}, found {options.name!r}")
    if not options.out:
        raise errors.BadInput("--out: expected a folder or a bucket path, found nothing")
    if options.on_bad_image not in ("error", "skip"):
        raise errors.BadInput(f"--on_bad_image: expected error or skip, found {options.on_bad_image!r}")
    if options.shard_size < 1 or options.workers < 0 or options.size < 0:
        raise errors.BadInput("--shard_size: expected at least 1; --workers and --size: at least 0")
    return options


def run(options: Any) -> None:
    """Writes missing shards and the index.

    Raises:
      BadInput: the source cannot be read, an image is broken, or the folder cannot be written.
      RunFailed: a shard does not read back as written, or the disk is full.
    """
    config = argparse.Namespace(**CONFIG, dir=options.dir, list=options.list, name=options.name)
    raw = sources.SOURCES[options.name](config)
    out = files.prepare_folder(options.out, "--out")
    shards = [shard for split in records.SPLITS for shard in _shards(split, getattr(raw, split), out, options)]
    log.say(f"{raw.name}: {sum(len(s.images) for s in shards)} images in {len(shards)} shards to {out}")
    done = list(_all(shards, options.workers))
    written = sum(entry["written"] for entry in done)
    log.say(f"{written} shards written, {len(done) - written} were there; writing the index")
    _write_index(raw, shards, done, out)
    _remove_other_shards({shard.file for shard in shards}, out)


def _remove_other_shards(names: Any, out: Any) -> Any:
    """Removes shards of an earlier call that the index no longer lists."""
    for path in list(out.iterdir()):
        name = path.name.removesuffix(".json")
        if _SHARD.fullmatch(name) and name not in names:
            path.unlink()


def _shards(split: Any, part: Any, out: Any, options: Any) -> Any:
    if part is None:
        return
    count = max(1, -(-len(part) // options.shard_size))
    for i, positions in enumerate(np.array_split(np.arange(len(part)), count)):
        file = f"{split}-{i:05d}-of-{count:05d}.array_record"
        yield Shard(split, file, part.select(positions), os.fspath(out), options.size, options.on_bad_image == "skip")


def _all(shards: Any, workers: Any) -> Any:
    if workers < 2 or len(shards) < 2:
        yield from map(write_shard, shards)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(shards)), mp_context=context) as pool:
        try:
            yield from pool.map(write_shard, shards)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise errors.RunFailed("a process that writes shards was killed; run again to go on") from error


def write_shard(shard: Shard) -> dict[str, Any]:
    """Returns the index entry of a shard; writes the shard and its note unless both exist and are intact."""
    out = epath.Path(shard.out)
    note = out / f"{shard.file}.json"
    entry = _read_note(note)
    source, manifest = _source(shard, entry)
    if entry and entry["source"] == source and _is_whole(out / shard.file, entry["sha256"]):
        if entry["manifest"] != manifest:
            files.write_text(note, json.dumps({**entry, "manifest": manifest}))
        return {**entry, "written": False}
    contents, names, labels, skipped = _contents(shard)
    blob = _encode(contents)
    if _decode(blob) != contents:
        raise errors.RunFailed(f"{out / shard.file}: the shard does not read back as written")
    files.write_bytes(out / shard.file, blob)
    digest = hashlib.sha256(blob).hexdigest()
    if not _is_whole(out / shard.file, digest):
        raise errors.RunFailed(f"{out / shard.file}: the file on disk differs from what was written")
    entry = {
        "file": shard.file, "sha256": digest, "source": source, "manifest": manifest, "names": names,
        "labels": labels, "skipped": skipped,
        "digests": [hashlib.sha256(content).hexdigest() for content in contents],
    }  # fmt: skip
    files.write_text(note, json.dumps(entry))
    return {**entry, "written": True}


def _source(shard: Any, entry: Any) -> Any:
    """(digest of the source of the shard, manifest of its files as JSON).

    The digest covers images, labels, names, size and skip rule. Files unchanged since `entry` are not read.
    """
    digest = hashlib.sha256(f"{shard.size} {shard.skip} {shard.images.labels.tolist()}".encode())
    if isinstance(shard.images, images.Arrays):
        digest.update(np.ascontiguousarray(shard.images.images).data)
        return digest.hexdigest(), []
    before = identity.Manifest(*_columns(entry["manifest"])) if entry else None
    folder, names = shard.images.stored_in()
    manifest = identity.scan(folder, names, before, skip_missing=True)  # reading the images reports missing files
    digest.update("\0".join(manifest.names).encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(shard.images.item_digests(manifest.digests)).data)
    rows = zip(manifest.names, manifest.stats.tolist(), manifest.digests, strict=True)
    return digest.hexdigest(), [[name, stat, bytes(content).hex()] for name, stat, content in rows]


def _columns(rows: Any) -> Any:
    names, stats, digests = zip(*rows, strict=True) if rows else ((), (), ())
    contents = np.array([list(bytes.fromhex(digest)) for digest in digests], np.uint8).reshape(-1, 32)
    return names, np.array(stats, np.int64).reshape(-1, 3), contents


def _read_note(note: Any) -> Any:
    """The entry that an earlier call wrote; None if there is none, or it is incomplete or of another version."""
    try:
        entry = files.read_json(note)
    except json.JSONDecodeError:
        return None
    return entry if entry and "manifest" in entry else None


def _is_whole(path: Any, digest: Any) -> Any:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _contents(shard: Any) -> Any:
    """(encoded images, names, labels, reasons of skipped images); each image is decoded as a check."""
    contents: list[bytes] = []
    names: list[str] = []
    labels: list[int] = []
    skipped: list[str] = []
    for i in range(len(shard.images)):
        try:
            contents.append(_content(shard.images, i, shard.size))
        except errors.BadInput as error:
            if not shard.skip or shard.split == "test":
                raise
            skipped.append(str(error))
            continue
        names.append(shard.images.name(i))
        labels.append(int(shard.images.labels[i]))
    return contents, names, labels, skipped


def _content(part: Any, i: Any, size: Any) -> Any:
    """The unchanged file; PNG of an image in memory; upright JPEG of a reduced image."""
    pixels = part.image(i)
    if isinstance(part, images.Encoded) and not (size and min(pixels.shape[:2]) > size):
        return part.content(i)
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if size and min(pixels.shape[:2]) > size:
        scale = size / min(pixels.shape[:2])
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=90)
    else:
        picture.save(buffer, "PNG")
    decode.image(buffer.getvalue(), part.name(i))
    return buffer.getvalue()


def _encode(contents: Any) -> Any:
    """The bytes of an ArrayRecord file, written via a local file because the writer supports no others."""
    from array_record.python import array_record_module

    with tempfile.TemporaryDirectory() as folder, files.clear_errors(folder):
        path = os.path.join(folder, "shard")
        writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        for content in contents:
            writer.write(content)
        writer.close()
        with open(path, "rb") as file:
            return file.read()


def _decode(blob: Any) -> Any:
    from array_record.python import array_record_module

    with tempfile.TemporaryDirectory() as folder, files.clear_errors(folder):
        path = os.path.join(folder, "shard")
        with open(path, "wb") as file:
            file.write(blob)
        reader = array_record_module.ArrayRecordReader(path)
        contents = reader.read_all() if reader.num_records() else []
        reader.close()
        return contents


def _write_index(raw: Any, shards: Any, done: Any, out: Any) -> Any:
    splits = {}
    for split in records.SPLITS:
        entries = [entry for shard, entry in zip(shards, done, strict=True) if shard.split == split]
        if not entries:
            continue
        columns = {key: [x for entry in entries for x in entry[key]] for key in ("labels", "names", "digests")}
        files.write_npz(out / f"{split}.npz", labels=np.array(columns["labels"], np.int64),
                        names=np.array(columns["names"], str), digests=np.array(columns["digests"], str))  # fmt: skip
        shard_entries = [{"file": e["file"], "sha256": e["sha256"], "count": len(e["labels"])} for e in entries]
        skipped = [reason for entry in entries for reason in entry["skipped"]]
        splits[split] = {"table": f"{split}.npz", "shards": shard_entries, "skipped": skipped}
    upright = any(getattr(getattr(raw, split), "upright", False) for split in splits)
    index = {"status": "complete", "name": raw.name, "class_names": list(raw.class_names), "upright": upright}
    files.write_json(out / "index.json", {**index, "splits": splits})
    for reason in [reason for entry in splits.values() for reason in entry["skipped"]][:3]:
        log.say(f"skipped: {reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
