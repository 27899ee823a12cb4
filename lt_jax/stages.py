"""Which stages run, which are done already, and what a changed config means for a used work directory."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Callable
from typing import Any

from etils import epath

from lt_jax import config as config_lib
from lt_jax import distributed, errors, files, interrupt, log

# What a stage leaves, beside its stages/NAME.json; removed before it is run anew.
_LEAVES = {
    "pretrain": ("checkpoints/pretrain",),
    "probe": ("checkpoints/probe", "probe.json"),
    "baseline": ("checkpoints/baseline",),
    "retrain": ("checkpoints/retrain", "subsets"),
    "features": ("features",),
    "dlsa": ("dlsa", "dlsa.json"),
    "separability": ("separability.json",),
    "evaluate": ("result.json", "predictions.npz", "thumbnails.npz", "inclusion.npz", "features/shown.npz"),
    "report": ("report.html",),  # figures/ has the contact sheet too, and a new figure replaces the old one
}


def run(config: Any, workdir: epath.Path, stage: str, functions: dict[str, Callable[[Any, epath.Path], dict]]) -> None:
    """Runs one stage, or with `all` the config's own list; what is complete already is left alone.

    Raises:
      BadInput: an unknown stage, or a changed pretraining over a finished one.
    """
    if stage != "all" and stage not in functions:
        raise errors.BadInput(f"--stage: expected one of all, {', '.join(functions)}, found {stage!r}")
    if stage != "all" and stage not in _LEAVES:  # one that only looks leaves nothing behind that could be stale
        functions[stage](config, workdir)
        return
    wanted = [stage] if stage != "all" else [s for s in config.stages if not (s == "pretrain" and config.init_from)]
    _check_init_from(config)
    _refuse_changed_pretraining(config, workdir)
    _refuse_other_data(config, workdir)
    files.write_json(workdir / "config.json", config_lib.resolved(config))
    for name in wanted:
        _run_one(config, workdir, name, functions[name])


def _run_one(config, workdir, name, function):
    file = workdir / "stages" / f"{name}.json"
    depends = _depends(config, name)
    before = files.read_json(file)
    digest = config_lib.digest(depends)
    distributed.wait(f"{name}: all have read what was there")
    interrupt.stop_if_requested()
    if before and before["digest"] != digest:
        changed = _difference(before["depends"], depends)
        log.say(f"{name}: {changed} changed, so it is run anew")
        if distributed.is_main():
            _remove(workdir, name)
    elif before and before["status"] == "complete":
        log.say(f"{name}: complete")
        return
    if name != "report":
        _note_data(config, workdir)
    entry = {"status": "running", "digest": digest, "depends": depends}
    files.write_json(file, entry)
    distributed.wait(f"{name} begins")
    found = function(config, workdir) if name != "report" or distributed.is_main() else {}
    files.check_there(file)
    files.write_json(file, {**entry, **found, "status": "complete"})
    distributed.wait(f"{name} is complete")


def _depends(config, name):
    depends = config_lib.dependencies(config, name)
    if config.init_from and "pretrain" in config_lib.DEPENDS[name]:
        depends["init_from"] = _init_digest(config)
    return depends


def _refuse_changed_pretraining(config, workdir):
    before = files.read_json(workdir / "stages" / "pretrain.json")
    if before is None or config.init_from:
        return
    depends = _depends(config, "pretrain")
    if before["digest"] != config_lib.digest(depends):
        changed = _difference(before["depends"], depends)
        state = "a finished" if before["status"] == "complete" else "an unfinished"
        raise errors.BadInput(
            f"{workdir} holds {state} pretraining with another {changed}; "
            "give another --workdir, or set the key back, or delete the folder"
        )


def _refuse_other_data(config, workdir):
    """The same settings, but images from another place: they must be the same images."""
    before = (files.read_json(workdir / "run.json") or {}).get("data", {})
    if before.get("config") != _data_digest(config) or before.get("from", _place(config)) == _place(config):
        return
    found = _dataset(config)
    if (found.digest, found.index_digest) != (before["digest"], before["index_digest"]):
        raise errors.BadInput(
            f"{workdir} holds a run on other data, those of {' '.join(filter(None, before['from'])) or 'its config'}; "
            "give another --workdir, or delete the folder"
        )


def _place(config):
    return [config.data.dir, config.data.list]


def _data_digest(config):
    return config_lib.digest(config_lib.resolved(config)["data"] | {"dir": "", "list": ""})


def _dataset(config):
    from lt_jax import data  # here, so that --help does not wait for grain

    return data.load(config.data)


def _check_init_from(config):
    if config.init_from:
        _init_digest(config)


def _init_digest(config):
    file = epath.Path(config.init_from).expanduser() / "stages" / "pretrain.json"
    found = files.read_json(file)
    if found is None or found["status"] != "complete":
        raise errors.BadInput(f"config.init_from: no finished pretraining in {config.init_from} (looked for {file})")
    ours = config_lib.dependencies(config, "pretrain")
    for key in sorted(set(found["depends"]) | set(ours)):
        is_trunk = key.startswith(("encoder.", "data.", "dtype", "pretrain.projector"))
        # A key that only one of two versions has cannot have been set in the other.
        if is_trunk and key in found["depends"] and key in ours and found["depends"][key] != ours[key]:
            raise errors.BadInput(
                f"config.{key}: the pretraining in {config.init_from} has {found['depends'].get(key)!r}, "
                f"this config {ours.get(key)!r}"
            )
    return found["digest"]


def _difference(before, after):
    keys = [key for key in sorted(set(before) | set(after)) if before.get(key) != after.get(key)]
    if not keys:
        return "config"
    key = keys[0]
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{key} (was {before.get(key)!r}, now {after.get(key)!r}){more}"


def _remove(workdir, name):
    for leftover in _LEAVES[name]:
        path = workdir / leftover
        if path.is_dir():
            path.rmtree()
        elif path.exists():
            path.unlink()


def write_run(config: Any, workdir: epath.Path) -> None:
    """`run.json`: what one needs to tell two runs apart."""
    import jax

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn")
    before = files.read_json(workdir / "run.json") or {}
    files.write_json(
        workdir / "run.json",
        {
            **{key: before[key] for key in ("data",) if key in before},
            "versions": {
                "python": platform.python_version(),
                **{p: importlib.metadata.version(p) for p in packages},
            },
            "commit": _commit(),
            "devices": [str(device) for device in jax.devices()],
            "processes": jax.process_count(),
            "seed": config.seed,
        },
    )


def _note_data(config, workdir):
    """What the run was trained on, in `run.json`: digests, class counts, and the images that were left out."""
    run = files.read_json(workdir / "run.json") or {}
    before = run.get("data", {})
    if (before.get("config"), before.get("from")) == (_data_digest(config), _place(config)):
        return
    dataset = _dataset(config)
    run["data"] = {
        "config": _data_digest(config),
        "from": _place(config),
        "digest": dataset.digest,
        "index_digest": dataset.index_digest,
        "counts": dataset.counts.tolist(),
        "skipped": {"count": len(dataset.skipped), "images": list(dataset.skipped)},
    }
    files.write_json(workdir / "run.json", run)


def _commit():
    """The commit of a checkout, marked where files differ from it; None once installed."""
    folder = epath.Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        said = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return said.stdout.strip() or None
