"""What a run is computed from beside its settings: the content of images and weights, and a pretraining that it copies.

Everything is identified by content. Paths and times of files make no difference.
"""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np
from etils import epath

from lt_jax.core import distributed, errors, files, log
from lt_jax.data import identity
from lt_jax.models.weights import known
from lt_jax.run import config as config_lib
from lt_jax.run import dependencies
from lt_jax.stages.experiment import Experiment
from lt_jax.train import checkpoint

# The splits that a stage computes anything from.
_SPLITS_OF = {
    "pretrain": ("train",),
    "baseline": ("train",),
    "heads": ("train", "validation"),
    "retrain": ("train",),
    "probe": ("train", "test", "validation"),
    "features": ("train", "test", "validation"),
    "dlsa": ("train", "test", "validation"),
    "separability": ("train", "test"),
    "evaluate": ("train", "test", "validation"),
}
_NAMES = {"train": "training", "test": "test", "validation": "validation"}
_TRUNK = ("encoder.", "data.", "dtype", "pretrain.projector", "content.train")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Content digests of the splits and of the weights file, None where there is none; and what `run.json` says."""

    digests: dict[str, str | None]
    changes: str = ""  # in the files of the data set since the run last looked, in words
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    manifest: Any = None

    def of_stage(self, stage: str) -> dict[str, str | None]:
        """Key -> digest of what the stage depends on; keys are those that its settings would have.

        The report depends on the digest of result.json alone, so that it can be written where the data are missing.
        """
        if stage == "report":
            return {}
        content = {f"content.{split}": self.digests[split] for split in _SPLITS_OF.get(stage, ())}
        return {**content, **({"encoder.weights": self.digests["weights"]} if self.digests["weights"] else {})}


def read(experiment: Experiment) -> Inputs:
    """Compares the files of the data set with the manifest of the run; only what differs is read.

    Process 0 reads files; the others take its digests.

    Raises:
      BadInput: data or weights that cannot be read.
    """
    config, workdir, dataset = experiment.config, experiment.workdir, experiment.dataset
    names = ("train", "test", "validation", "weights")
    digests, changes, manifest = dict.fromkeys(names), "", None
    if distributed.is_main():
        before = _manifest(workdir)
        splits, manifest = identity.of_dataset(dataset, before)
        digests = {**splits, "weights": weights_digest(config)}
        changes = identity.difference(before, manifest) if before is not None else ""
    agreed = distributed.agree_bytes(b"".join(bytes.fromhex(digests[name] or "00" * 32) for name in names))
    parts = (agreed[i : i + 32] for i in range(0, len(agreed), 32))
    digests = {name: part.hex() if any(part) else None for name, part in zip(names, parts, strict=True)}
    return Inputs(digests, changes, _record(config, dataset, digests), manifest)


def _manifest(workdir: epath.Path) -> identity.Manifest | None:
    file = workdir / "data.npz"
    return identity.Manifest.from_arrays(files.read_npz(file)) if file.exists() else None


def _record(config: Any, dataset: Any, digests: dict[str, Any]) -> dict[str, Any]:
    return {
        "from": _origin(config),
        "digest": identity.whole(digests),
        "weights": digests["weights"],
        "splits": {split: digests[split] for split in _NAMES},
        "index_digest": dataset.index_digest,
        "counts": dataset.counts.tolist(),
        "skipped": {"count": len(dataset.skipped), "images": list(dataset.skipped)},
    }


def _origin(config: Any) -> list[Any]:
    """Where the data lie: paths that were given, resolved."""
    paths = [config.data.dir or os.environ.get("LT_JAX_DATA", ""), config.data.list]
    return [_absolute(epath.Path(os.path.expanduser(path))) if path else "" for path in paths]


def refuse_other_data(workdir: epath.Path, current: Inputs) -> None:
    """Raises BadInput where the run was pointed at another data set: most likely by mistake."""
    before = (files.read_json(workdir / "run.json") or {}).get("data", {})
    if not before.get("splits") or before["splits"] == current.record["splits"]:
        return
    if before["from"] != current.record["from"]:
        raise errors.BadInput(
            f"{workdir} holds a run on other data, those of {' '.join(filter(None, before['from'])) or 'its config'}; "
            "choose another --workdir, or delete the folder"
        )


def weights_digest(config: Any) -> str | None:
    """SHA-256 of the file or package that config.encoder.weights names, None where it names none.

    Raises:
      BadInput: there is no such file.
    """
    name = config_lib.get(config, "encoder.weights")
    if not name:
        return None
    path = known.file_of(name)
    if not path.is_file():
        raise errors.BadInput(f"config.encoder.weights: no file {path}")
    with open(os.fspath(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(workdir: epath.Path, inputs: Inputs) -> None:
    """Records the inputs: `data.npz` for the next start, and their digests in `run.json`."""
    if inputs.manifest is not None:
        before = _manifest(workdir)
        if before is None or not _equal(before, inputs.manifest):
            files.write_npz(workdir / "data.npz", **inputs.manifest.arrays())
    run = files.read_json(workdir / "run.json") or {}
    files.write_json(workdir / "run.json", {**run, "data": inputs.record})


def _equal(first: identity.Manifest, second: identity.Manifest) -> bool:
    same = (np.array_equal(getattr(first, name), getattr(second, name)) for name in ("stats", "digests"))
    return first.names == second.names and all(same)


def describe(before: dict[str, Any], after: dict[str, Any], changes: str = "") -> str:
    """What differs between two sets of dependencies, for a message: "retrain.k (was 10, now 5) (and 1 more)".

    Args:
      changes: in the files of the data set, in words.
    """
    keys = [key for key in sorted(set(before) | set(after)) if before.get(key) != after.get(key)]
    if not keys:
        return "config"
    key = keys[0]
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return _change_of(key, before.get(key), after.get(key), changes) + more


def _change_of(key: str, before: Any, after: Any, changes: str) -> str:
    if key.startswith("content."):
        words = f"content of the {_NAMES[key.removeprefix('content.')]} images"
        if before is None and after is not None:
            return f"{words} (not recorded before)"
        return f"{words} ({changes or 'other images or labels'})"
    if key == "encoder.weights":
        return "content of the file in encoder.weights"
    return f"{key} (was {before!r}, now {after!r})"


def adopt_pretraining(config: Any, workdir: epath.Path, current: Inputs | None) -> None:
    """Copies the finished pretraining of config.init_from, once: what becomes of that folder later has no effect.

    Raises:
      BadInput: no finished pretraining there, one of another encoder or of other images, or the work directory holds
        the copy of another one already.
    """
    if not config.init_from:
        return
    source = files.expand(config.init_from, "config.init_from")
    ours = files.read_json(workdir / "stages" / "init_from.json")
    if ours is not None:
        _check_same_source(ours, source, workdir)
    elif distributed.is_main():
        theirs = _finished_pretraining(source)
        _check_trunk(config, theirs, source, current)
        content = checkpoint.copy(source, "pretrain", workdir, "init_from")
        about = {"copied_from": _absolute(source), "content": content}
        files.write_json(workdir / "stages" / "init_from.json", {**theirs, **about})
        log.say(f"copied the pretraining of {source}")
    distributed.wait("the pretraining is copied")
    _check_trunk(config, files.read_json(workdir / "stages" / "init_from.json"), source, current)


def _finished_pretraining(source: epath.Path) -> dict[str, Any]:
    file = source / "stages" / "pretrain.json"
    entry = files.read_json(file)
    if entry is None or entry["status"] != "complete":
        raise errors.BadInput(f"config.init_from: no finished pretraining in {source} (looked for {file})")
    return entry


def _check_same_source(ours: dict[str, Any], source: epath.Path, workdir: epath.Path) -> None:
    """The copy is of this folder, or of one with the same content."""
    if ours["copied_from"] == _absolute(source):
        return
    if checkpoint.exists(source, "pretrain") and checkpoint.content_digest(source, "pretrain") == ours["content"]:
        return
    raise errors.BadInput(
        f"config.init_from: {workdir} holds the pretraining of {ours['copied_from']}; "
        "choose another --workdir, or leave config.init_from as it was"
    )


def _check_trunk(config: Any, entry: dict[str, Any], source: epath.Path, current: Inputs | None) -> None:
    ours = dependencies.of_stage(config, "pretrain") | (current.of_stage("pretrain") if current else {})
    for key in sorted(set(entry["depends"]) & set(ours)):  # a key that one of two versions lacks cannot have been set
        if key.startswith(_TRUNK) and entry["depends"][key] != ours[key]:
            if key == "content.train":
                raise errors.BadInput(f"config.init_from: the pretraining of {source} has seen other training images")
            raise errors.BadInput(
                f"config.{key}: the pretraining in {source} has {entry['depends'][key]!r}, this config {ours[key]!r}"
            )


def _absolute(path: epath.Path) -> str:
    return os.fspath(path) if "://" in os.fspath(path) else os.path.realpath(path)
