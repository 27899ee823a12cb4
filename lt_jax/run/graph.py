"""Which stages run, which are done already, and what a changed config means for a used work directory."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Callable
from typing import Any

from etils import epath

from lt_jax.core import distributed, errors, files, interrupt, log
from lt_jax.dlsa import settings as dlsa_settings
from lt_jax.run import dependencies, inputs, results
from lt_jax.stages.experiment import Experiment
from lt_jax.train import checkpoint

# What a stage leaves, beside its stages/NAME.json; removed before it is run anew.
_LEAVES = {
    "pretrain": ("checkpoints/pretrain", "tensorboard/pretrain"),
    "probe": ("checkpoints/probe", "tensorboard/probe", "probe.json", "heads/probe"),
    "baseline": ("checkpoints/baseline", "tensorboard/baseline"),
    "heads": ("heads/baseline", "heads/features"),
    "retrain": ("checkpoints/retrain", "tensorboard/retrain", "subsets"),
    "features": ("features", "heads/probe"),
    "dlsa": ("dlsa", "dlsa.json"),
    "separability": ("separability.json",),
    "evaluate": ("result.json", "predictions.npz", "thumbnails.npz", "inclusion.npz", "features/shown.npz"),
    "report": ("report.html",),  # figures/ has the contact sheet too, and a new figure replaces the old one
}

_REMOVED = "removed"  # status of a stage whose files are being removed

# What a stage reads of earlier ones.
_READS = {
    "probe": ("pretrain",),
    "retrain": ("pretrain",),
    "heads": ("baseline", "features"),
    "features": ("pretrain",),
    "dlsa": ("features",),
    "separability": ("features",),
    "evaluate": ("baseline", "probe", "features", "heads", "retrain", "dlsa"),
    "report": ("evaluate",),
}


def run(config: Any, workdir: epath.Path, stage: str, functions: dict[str, Callable[[Experiment], dict]]) -> None:
    """Runs one stage, or with `all` the config's own list; what is complete already is left alone.

    A stage is complete if it was computed from the same settings and the same images, labels and weights, by content.

    Raises:
      BadInput: an unknown stage, a change of what a pretraining was made from, or a single stage whose input is stale.
    """
    if stage != "all" and stage not in functions:
        raise errors.BadInput(f"--stage: expected one of all, {', '.join(functions)}, found {stage!r}")
    experiment = Experiment(config, workdir)
    if stage != "all" and stage not in _LEAVES:  # one that only looks leaves nothing behind that could be stale
        functions[stage](experiment)
        if not (workdir / "run.json").exists():
            _write_run(config, workdir)  # marks the folder: below a folder of images it is no class
        return
    if "dlsa" in config:
        dlsa_settings.check(config.dlsa)
    names = [stage] if stage != "all" else experiment.stages
    if config.init_from and stage == "pretrain":
        raise errors.BadInput("--stage=pretrain: expected no config.init_from, which takes the place of this stage")
    current = inputs.read(experiment) if names != ["report"] else None
    if current is not None:
        inputs.refuse_other_data(workdir, current)
    inputs.adopt_pretraining(config, workdir, current)
    if any(name == "pretrain" or "pretrain" in _READS.get(name, ()) for name in names):
        _refuse_changed_pretraining(config, workdir, current)
    if stage != "all":
        _refuse_stale_input(config, workdir, stage, current)
    files.write_json(workdir / "config.json", dependencies.resolved(config))
    _write_run(config, workdir)
    if current is not None and distributed.is_main():  # which alone can read what it has just written
        inputs.write(workdir, current)
        run = files.read_json(workdir / "run.json")
        files.write_json(workdir / "run.json", {**run, "digests": results.digests(config, workdir)})
    for name in names:
        _run_one(experiment, name, functions[name], current)


def _run_one(experiment: Experiment, name: str, function: Callable[..., Any], current: inputs.Inputs | None) -> None:
    config, workdir = experiment.config, experiment.workdir
    file = workdir / "stages" / f"{name}.json"
    depends = _depends(config, workdir, name, current)
    before = files.read_json(file)
    digest = files.json_digest(depends)
    distributed.wait(f"{name}: all have read its state")
    interrupt.stop_if_requested()
    if before and (before["digest"] != digest or before["status"] == _REMOVED):
        if before["digest"] != digest:
            log.say(f"{name}: {_change(before, depends, current)} changed, so it is run anew")
        files.write_json(file, {**before, "status": _REMOVED})  # so that a kill leaves no remains that look complete
        if distributed.is_main():
            _remove(workdir, name)
    elif before and before["status"] == "complete":
        log.say(f"{name}: complete")
        return
    entry = {"status": "running", "digest": digest, "depends": depends, "commit": _commit()}  # of its last start
    files.write_json(file, entry)
    distributed.wait(f"{name} begins")
    outcome = function(experiment) if name != "report" or distributed.is_main() else {}
    files.check_there(file)
    files.write_json(file, {**entry, **outcome, "status": "complete"})
    distributed.wait(f"{name} is complete")


def _depends(config: Any, workdir: epath.Path, name: str, current: inputs.Inputs | None) -> dict[str, Any]:
    """Everything that the stage is computed from: settings, content of images and weights, what came before."""
    depends = dependencies.of_stage(config, name)
    if current is not None:
        depends |= current.of_stage(name)
    if config.init_from and "pretrain" in dependencies.BLOCKS[name]:
        depends["init_from"] = files.read_json(workdir / "stages" / "init_from.json")["content"]
    if name == "report":
        depends["result"] = files.digest(workdir / "result.json")
    return depends


def _change(before: dict[str, Any], depends: dict[str, Any], current: inputs.Inputs | None) -> str:
    return inputs.describe(before["depends"], depends, current.changes if current else "")


def _refuse_changed_pretraining(config: Any, workdir: epath.Path, current: inputs.Inputs | None) -> None:
    """A pretraining may be days of work: another one never replaces it."""
    before = files.read_json(workdir / "stages" / "pretrain.json")
    if before is None or config.init_from or current is None or not checkpoint.exists(workdir, "pretrain"):
        return
    depends = _depends(config, workdir, "pretrain", current)
    if before["digest"] != files.json_digest(depends):
        state = "a finished" if before["status"] == "complete" else "an unfinished"
        raise errors.BadInput(
            f"{workdir} holds {state} pretraining, but {_change(before, depends, current)} changed; "
            "choose another --workdir, or undo the change, or delete the folder"
        )


def _refuse_stale_input(config: Any, workdir: epath.Path, stage: str, current: inputs.Inputs | None) -> None:
    """A single stage reads what earlier stages have left; that must be of the same settings and images."""
    for name in _READS.get(stage, ()):
        before = files.read_json(workdir / "stages" / f"{name}.json")
        if before is None or name not in config.stages or (name == "pretrain" and config.init_from):
            continue
        depends = _depends(config, workdir, name, current)
        then = before["depends"] if current else {key: x for key, x in before["depends"].items() if key in depends}
        if then != depends:
            change = inputs.describe(then, depends, current.changes if current else "")
            raise errors.BadInput(
                f"--stage={stage}: {name} in {workdir} is of other settings or images, {change} changed; "
                f"run --stage={name} first, or --stage=all"
            )


def _remove(workdir: epath.Path, name: str) -> None:
    for leftover in _LEAVES[name]:
        path = workdir / leftover
        if path.is_dir():
            path.rmtree()
        elif path.exists():
            path.unlink()


def _write_run(config: Any, workdir: epath.Path) -> None:
    """`run.json`: what one needs to tell two runs apart."""
    import jax

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn")
    before = files.read_json(workdir / "run.json") or {}
    files.write_json(
        workdir / "run.json",
        {
            **{key: before[key] for key in ("data", "digests") if key in before},
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


def _commit() -> str | None:
    """The commit of a checkout, marked where files differ from it; None once installed."""
    folder = epath.Path(__file__).parent.parent.parent
    if not (folder / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return answer.stdout.strip() or None
