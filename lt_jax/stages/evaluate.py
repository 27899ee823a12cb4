"""From the checkpoints of a run to `predictions.npz`, `result.json` and a table.

Headline numbers are those of the last epoch: the test set chooses nothing.
"""

from typing import Any

import numpy as np
from etils import epath

from lt_jax import data, metrics
from lt_jax import models as encoder
from lt_jax.core import errors, files, log
from lt_jax.stages import baseline, exhibits, retrain
from lt_jax.stages import fit_heads as yardsticks
from lt_jax.train import extract as features

NAMES = {"cross_entropy": "cross-entropy", "crt": "cRT"}
GROUPS = ("overall", "many", "medium", "few", "balanced", "worst_class")


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    dataset = data.load(config.data)
    find = _from_dlsa if "dlsa" in config.stages else _from_checkpoints
    predictions, test, baselines, others, final = find(config, workdir, dataset)
    files.write_npz(workdir / "predictions.npz", labels=dataset.test.labels, **predictions)
    exhibits.write(config, workdir, dataset, final)
    result = {**_result(config, workdir, dataset, test, baselines), "yardsticks": others}
    files.write_json(workdir / "result.json", result)
    log.say("\n" + table(result))
    return {}


def _from_checkpoints(config, workdir, dataset):
    """What predictions.npz holds, measures, those of the baseline, of what follows from it, the final variables."""
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    extract = features.Extractor(network, config.evaluate.batch_size)
    logits, variables, others = {}, {}, {}
    for stage, load in (("baseline", baseline.load), ("retrain", retrain.load)):
        if stage not in config.stages:
            continue
        variables = load(config, workdir, dataset)
        found, logits[stage] = extract(variables, dataset.test.images)
        if stage == "baseline":
            others = yardsticks.logits(config, dataset, extract, variables, found, logits[stage])
    measured, others = (
        {
            name: metrics.measures(dataset.test.labels, x, dataset.groups, config.evaluate.ece_bins)
            for name, x in of.items()
        }
        for of in (logits, others)
    )
    if "nearest_class_mean" in others:
        others["nearest_class_mean"]["ece"] = None  # cosines are no confidences
    final = "retrain" if "retrain" in logits else "baseline"
    if final == "baseline" or "baseline" not in measured:
        return {"logits": logits[final]}, measured[final], None, others, variables
    predictions = {"logits": logits[final], **_answers(logits["baseline"])}
    return predictions, measured[final], {config.baseline.loss: measured["baseline"]}, others, variables


def _answers(logits):
    """All that the page asks of the yardstick: its answers (n,) and how sure it is of them."""
    confidence = metrics.confidences(logits).astype(np.float32)
    return {"baseline_predicted": logits.argmax(axis=1).astype(np.int32), "baseline_confidence": confidence}


def _from_dlsa(config, workdir, dataset):
    found = files.read_json(workdir / "dlsa.json")
    if found is None:
        raise errors.BadInput(f"no {workdir / 'dlsa.json'}: run --stage=dlsa first")
    logits = files.read_npz(workdir / "dlsa" / "test.npz")["logits"]
    return {"logits": logits}, found["test"], found["baselines"], {}, None


def _result(config, workdir, dataset, test, baselines):
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
        "timing": _timing(config, workdir),
    }


def _images(dataset):
    """What a classifier must know of the images that it was made for; None where the data are features."""
    if len(dataset.image_shape) != 3:
        return None
    split = dataset.train
    view = "whole" if split.in_memory else "centre"  # evaluation looks at the middle of an image file
    return {"shape": [int(x) for x in dataset.image_shape], "view": view, "upright": split.upright}


def _timing(config, workdir):
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
    for name, found in {**(result["baseline"] or {}), **result.get("yardsticks", {})}.items():
        rows.append((NAMES.get(name, name.replace("_", " ")), found))
    for protocol, found in (result["probe"] or {}).items():
        if found:
            rows.append((f"linear probe, {protocol}", found))
    rows.append((NAMES.get(result["method"], result["method"]), result["test"]))
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{group:>13}" for group in GROUPS)]
    for name, found in rows:
        cells = ("n/a" if found[group] is None else f"{100 * found[group]:.1f}" for group in GROUPS)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    counts = result["dataset"]["counts"]
    groups = ", ".join(f"{name} {len(classes)}" for name, classes in result["dataset"]["groups"].items())
    lines.append(
        f"{result['dataset']['name']}: {result['dataset']['train_size']} training images, "
        f"{max(counts)} to {min(counts)} a class; classes: {groups}"
    )
    return "\n".join(lines)
