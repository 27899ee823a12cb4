"""From the checkpoints of a run to `predictions.npz`, `result.json` and a table.

Headline numbers are those of the last epoch: the test set chooses nothing.
"""

from typing import Any

from etils import epath

from lt_jax import baseline, data, encoder, features, files, log, metrics, retrain

GROUPS = ("overall", "many", "medium", "few", "balanced", "worst_class")


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    dataset = data.load(config.data)
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    extract = features.Extractor(network, config.evaluate.batch_size)
    logits = {}
    for stage, load in (("baseline", baseline.load), ("retrain", retrain.load)):
        if stage in config.stages:
            logits[stage] = extract(load(config, workdir, dataset), dataset.test.images)[1]
    measured = {
        stage: metrics.measures(dataset.test.labels, x, dataset.groups, config.evaluate.ece_bins)
        for stage, x in logits.items()
    }
    final = "retrain" if "retrain" in logits else "baseline"
    files.write_npz(workdir / "predictions.npz", labels=dataset.test.labels, logits=logits[final])
    result = _result(config, workdir, dataset, measured, final)
    files.write_json(workdir / "result.json", result)
    log.say("\n" + table(result))
    return {}


def _result(config, workdir, dataset, measured, final):
    probe = files.read_json(workdir / "probe.json") if "probe" in config.stages else None
    has_baseline = final == "retrain" and "baseline" in measured
    return {
        "status": "complete",
        "method": config.method,
        "seed": config.seed,
        "dataset": {
            "name": dataset.name,
            "num_classes": dataset.num_classes,
            "class_names": list(dataset.class_names),
            "train_size": len(dataset.train.labels),
            "counts": dataset.counts.tolist(),
            "groups": {name: [int(c) for c in mask.nonzero()[0]] for name, mask in dataset.groups.items()},
            "index_digest": dataset.index_digest,
        },
        "test": measured[final],
        "probe": probe,
        "baseline": {"cross_entropy": measured["baseline"]} if has_baseline else None,
        "epoch_rule": "last",
        "timing": _timing(config, workdir),
    }


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
    if result["baseline"]:
        rows.append(("cross-entropy", result["baseline"]["cross_entropy"]))
    for protocol, found in (result["probe"] or {}).items():
        rows.append((f"linear probe, {protocol}", found))
    rows.append((result["method"], result["test"]))
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
