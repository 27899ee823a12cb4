"""From the checkpoints of a run to `predictions.npz`, `result.json` and a table.

Headline numbers are those of the last epoch: the test set chooses nothing.
"""

from typing import Any

import numpy as np

from lt_jax import metrics
from lt_jax.core import errors, files, log
from lt_jax.stages import exhibits, fit_heads
from lt_jax.stages import experiment as experiments

NAMES = {"cross_entropy": "cross-entropy", "crt": "cRT"}
GROUPS = ("overall", "many", "medium", "few", "balanced", "worst_class")


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Writes `predictions.npz`, `result.json` and what the page needs, and prints the table."""
    config, workdir = experiment.config, experiment.workdir
    evaluate = _from_dlsa if "dlsa" in config.stages else _from_checkpoints
    predictions, test, baselines, by_method, final = evaluate(experiment)
    files.write_npz(workdir / "predictions.npz", labels=experiment.dataset.test.labels, **predictions)
    exhibits.write(experiment, final)
    result = {**_result(experiment, test, baselines), "yardsticks": by_method}
    files.write_json(workdir / "result.json", result)
    log.say("\n" + table(result))
    return {}


def _from_checkpoints(experiment):
    """What predictions.npz holds, measures of the final network, of the baseline, of heads on it; final variables."""
    config, dataset = experiment.config, experiment.dataset
    logits, variables, head_logits = {}, {}, {}
    for stage in ("baseline", "retrain"):
        if stage not in config.stages:
            continue
        variables = experiment.trained(stage)
        features, logits[stage] = experiment.extract(variables, dataset.test.images)
        if stage == "baseline":
            head_logits = fit_heads.logits(experiment, variables, features, logits[stage])
    measures, head_measures = (
        {
            name: metrics.measures(dataset.test.labels, x, dataset.groups, config.evaluate.ece_bins)
            for name, x in logits_by_name.items()
        }
        for logits_by_name in (logits, head_logits)
    )
    if "nearest_class_mean" in head_measures:
        head_measures["nearest_class_mean"]["ece"] = None  # cosines are no confidences
    final = "retrain" if "retrain" in logits else "baseline"
    if final == "baseline" or "baseline" not in measures:
        return {"logits": logits[final]}, measures[final], None, head_measures, variables
    predictions = {"logits": logits[final], **_answers(logits["baseline"])}
    return predictions, measures[final], {config.baseline.loss: measures["baseline"]}, head_measures, variables


def _answers(logits):
    """What the page needs of the baseline: its answers (n,) and its confidence in them."""
    confidence = metrics.confidences(logits).astype(np.float32)
    return {"baseline_predicted": logits.argmax(axis=1).astype(np.int32), "baseline_confidence": confidence}


def _from_dlsa(experiment):
    file = experiment.workdir / "dlsa.json"
    result = files.read_json(file)
    if result is None:
        raise errors.BadInput(f"no {file}: run --stage=dlsa first")
    logits = files.read_npz(experiment.workdir / "dlsa" / "test.npz")["logits"]
    return {"logits": logits}, result["test"], result["baselines"], {}, None


def _result(experiment, test, baselines):
    config, workdir, dataset = experiment.config, experiment.workdir, experiment.dataset
    return {
        "status": "complete",
        "method": config.method if {"retrain", "dlsa"} & set(config.stages) else config.baseline.loss,
        "seed": config.seed,
        "dataset": {
            "name": dataset.name,
            "num_classes": dataset.num_classes,
            "class_names": list(dataset.class_names),
            "train_size": len(dataset.train.labels),
            "counts": dataset.counts.tolist(),
            "groups": {name: [int(c) for c in mask.nonzero()[0]] for name, mask in dataset.groups.items()},
            "index_digest": dataset.index_digest,
            "images": _images(dataset),
        },
        "test": test,
        "probe": files.read_json(workdir / "probe.json"),
        "baseline": baselines,
        "epoch_rule": "last",
        "digests": (files.read_json(workdir / "run.json") or {}).get("digests"),
        "timing": _timing(workdir),
    }


def _images(dataset):
    """What a classifier must know of the images that it was made for; None where the data are features."""
    if len(dataset.image_shape) != 3:
        return None
    split = dataset.train
    view = "whole" if split.in_memory else "centre"  # evaluation looks at the middle of an image file
    return {"shape": [int(x) for x in dataset.image_shape], "view": view, "upright": split.upright}


def _timing(workdir):
    done = {stage: files.read_json(workdir / "stages" / f"{stage}.json") or {} for stage in ("pretrain", "retrain")}
    seconds, images = done["pretrain"].get("seconds"), done["pretrain"].get("images")
    return {
        "pretrain_s": seconds,
        "select_s": done["retrain"].get("select_seconds"),
        "retrain_s": done["retrain"].get("seconds"),
        "pretrain_images_per_s": images / seconds if seconds else None,
    }


def table(result: dict[str, Any]) -> str:
    """The rows of a result as plain text, accuracies in per cent."""
    rows = []
    for name, measures in {**(result["baseline"] or {}), **result.get("yardsticks", {})}.items():
        rows.append((NAMES.get(name, name.replace("_", " ")), measures))
    for protocol, measures in (result["probe"] or {}).items():
        if measures:
            rows.append((f"linear probe, {protocol}", measures))
    rows.append((NAMES.get(result["method"], result["method"]), result["test"]))
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{group:>13}" for group in GROUPS)]
    for name, measures in rows:
        cells = ("n/a" if measures[group] is None else f"{100 * measures[group]:.1f}" for group in GROUPS)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    counts = result["dataset"]["counts"]
    groups = ", ".join(f"{name} {len(classes)}" for name, classes in result["dataset"]["groups"].items())
    lines.append(
        f"{result['dataset']['name']}: {result['dataset']['train_size']} training images, "
        f"{max(counts)} to {min(counts)} a class; classes: {groups}"
    )
    return "\n".join(lines)
