"""From the checkpoints of a run to `predictions.npz`, `result.json` and a table.

Headline numbers are those of the last epoch, without test-time augmentation: the test set chooses nothing.
"""

import functools
from typing import Any

import jax
import numpy as np
from etils import epath

from lt_jax import heads as head_kinds
from lt_jax import methods, metrics
from lt_jax.core import errors, files, log
from lt_jax.stages import baseline, heads, report_data
from lt_jax.stages import experiment as experiments

GROUPS = ("overall", "many", "medium", "few", "balanced", "worst_class")


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Writes `predictions.npz`, `result.json` and what the page needs, and prints the table."""
    config, workdir = experiment.config, experiment.workdir
    measure = _dlsa if "dlsa" in config.stages else _networks
    measured, logits, features, last_network = measure(experiment)
    final = config.method if config.method in logits else last_network
    files.write_npz(
        workdir / "predictions.npz",
        labels=experiment.dataset.test.labels,
        logits=logits[final],
        **_baseline_predictions(config, logits, final),
    )
    report_data.write(experiment, features)
    result = _result(experiment, measured, final)
    files.write_json(workdir / "result.json", result)
    log.say("\n" + table(result))
    return {}


def _networks(experiment: experiments.Experiment) -> tuple[Any, ...]:
    """What result.json says of each method, test logits by method, and of the last network: its features, its name.

    The features are a function of images.
    """
    config = experiment.config
    seconds = _seconds(experiment.workdir)
    measured, logits, features, last_network = {}, {}, None, ""
    if "baseline" in config.stages:
        name = baseline.method_of(config.baseline)
        variables = experiment.trained("baseline")
        outputs = _outputs(experiment.extract_baseline, experiment.dataset, variables)
        features = functools.partial(_features, experiment.extract_baseline, variables)
        measured[name] = _measured(experiment, baseline.title_of(config.baseline), outputs, seconds["baseline"])
        logits[name] = outputs["test"][1]
        last_network = name
        if "heads" in config.stages:
            for name in heads.names(config):
                head = heads.load(experiment.workdir, "baseline", name)
                of_head = {split: (x, np.asarray(head(x))) for split, (x, _) in outputs.items()}
                spent = _sum(seconds["baseline"], seconds["heads"].get(name))
                measured[name] = _measured(experiment, methods.title("HEADS", name), of_head, spent)
                logits[name] = of_head["test"][1]
                if isinstance(head, (head_kinds.Cosine, head_kinds.Whitened)):  # cosines are no confidences
                    for measures in filter(None, (measured[name]["test"], measured[name]["validation"])):
                        measures.update(ece=None, group_ece=dict.fromkeys(measures["group_ece"]))
    measured |= _probes(experiment.workdir, seconds["pretrain"])
    if "retrain" in config.stages:
        name = config.method if config.method not in measured else "retrained"
        variables = experiment.trained("retrain")
        outputs = _outputs(experiment.extract, experiment.dataset, variables)
        features = functools.partial(_features, experiment.extract, variables)
        spent = _sum(seconds["pretrain"], seconds["retrain"])
        measured[name] = _measured(experiment, methods.title("RECIPES", name), outputs, spent)
        logits[name] = outputs["test"][1]
        last_network = name
    return measured, logits, features, last_network


def _features(extractor: Any, variables: Any, images: Any) -> Any:
    return extractor(variables, images)[0]


def _outputs(extractor: Any, dataset: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """Split -> (features, logits) of the extractor's network with these variables."""
    return {name: extractor(variables, split.images) for name, split in dataset.evaluated.items()}


def _measured(
    experiment: experiments.Experiment, title: str, outputs: dict[str, Any], seconds: float | None
) -> dict[str, Any]:
    dataset, bins = experiment.dataset, experiment.config.evaluate.ece_bins
    measures = {
        split: metrics.measures(getattr(dataset, split).labels, logits, dataset.groups, bins)
        for split, (_, logits) in outputs.items()
    }
    return {"title": title, "test": measures["test"], "validation": measures.get("validation"), "seconds": seconds}


def _probes(workdir: epath.Path, seconds: float | None) -> dict[str, Any]:
    """The linear probes of the pretrained encoder, by protocol."""
    probes = files.read_json(workdir / "probe.json") or {}
    validation = probes.get("validation") or {}
    names = {"plain": ("linear_probe", "Linear probe"), "official": ("linear_probe_official", "Linear probe, official")}
    return {
        name: {"title": title, "test": probes[protocol], "validation": validation.get(protocol), "seconds": seconds}
        for protocol, (name, title) in names.items()
        if probes.get(protocol)
    }


def _baseline_predictions(config: Any, logits: dict[str, Any], final: str) -> dict[str, Any]:
    """What the page needs of the baseline: its predicted labels (n,) and their confidence."""
    name = baseline.method_of(config.baseline) if "baseline" in config.stages else None
    if name is None or name == final:
        return {}
    confidence = metrics.confidences(logits[name]).astype(np.float32)
    return {"baseline_predicted": logits[name].argmax(axis=1).astype(np.int32), "baseline_confidence": confidence}


def _dlsa(experiment: experiments.Experiment) -> tuple[Any, ...]:
    file = experiment.workdir / "dlsa.json"
    measured = files.read_json(file)
    if measured is None:
        raise errors.BadInput(f"no {file}: run --stage=dlsa first")
    logits = files.read_npz(experiment.workdir / "dlsa" / "test.npz")["logits"]
    return measured["methods"], {"dlsa": logits}, None, "dlsa"


def _result(experiment: experiments.Experiment, measured: dict[str, Any], final: str) -> dict[str, Any]:
    config, workdir, dataset = experiment.config, experiment.workdir, experiment.dataset
    probes = files.read_json(workdir / "probe.json")
    return {
        "status": "complete",
        "method": final,
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
        "methods": measured,
        "shifted": {name: metrics.shifted(x["test"]["per_class"], dataset.counts) for name, x in measured.items()},
        "final": final,
        "selected": _selected(config, measured, final),
        "test": measured[final]["test"],
        "probe": probes and {protocol: probes.get(protocol) for protocol in ("plain", "official")},
        "baseline": _baselines(config, measured, final),
        "protocol": {
            "subset_digest": dataset.index_digest,
            "epoch_rule": "last",
            "test_time_augmentation": False,
            **_network(experiment),
        },
        "digests": (files.read_json(workdir / "run.json") or {}).get("digests"),
        "timing": _timing(workdir),
    }


def _baselines(config: Any, measured: dict[str, Any], final: str) -> dict[str, Any] | None:
    """Name -> test measures of the plain classifiers that the final one is compared with; None if there is none."""
    if "dlsa" in config.stages:
        return {name: x["test"] for name, x in measured.items() if name != "dlsa"}
    name = baseline.method_of(config.baseline) if "baseline" in config.stages else None
    return {name: measured[name]["test"]} if name and name != final else None


def _selected(config: Any, measured: dict[str, Any], final: str) -> str:
    """The best method on validation images, of those that `lt_jax.load` can load."""
    loadable = ("dlsa",) if "dlsa" in config.stages else [name for name in measured if name != "linear_probe_official"]
    return metrics.select({name: measured[name]["validation"] for name in loadable}, final)


def _network(experiment: experiments.Experiment) -> dict[str, Any]:
    """Name of the encoder and its number of parameters, None where the data are features."""
    dataset = experiment.dataset
    if len(dataset.image_shape) != 3:
        return {"network": None, "parameters": None}
    images = jax.ShapeDtypeStruct((1, *dataset.image_shape), np.float32)
    is_last = "retrain" not in experiment.config.stages and "baseline" in experiment.config.stages
    network = experiment.baseline if is_last else experiment.network
    shapes = jax.eval_shape(network.encoder.init, jax.random.key(0), images)
    parameters = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    return {"network": experiment.config.encoder.name, "parameters": int(parameters)}


def _images(dataset: Any) -> dict[str, Any] | None:
    """What a classifier must know of the images that it was made for; None where the data are features."""
    if len(dataset.image_shape) != 3:
        return None
    split = dataset.train
    view = "whole" if split.in_memory else "centre"  # evaluation looks at the middle of an image file
    return {"shape": [int(x) for x in dataset.image_shape], "view": view, "upright": split.upright}


def _seconds(workdir: epath.Path) -> dict[str, Any]:
    """Stage -> seconds of training, None where it was not run; of `heads` those of each head."""
    names = ("pretrain", "baseline", "heads", "retrain")
    seconds = {name: (files.read_json(workdir / "stages" / f"{name}.json") or {}).get("seconds") for name in names}
    return {**seconds, "heads": seconds["heads"] or {}}


def _sum(*seconds: float | None) -> float | None:
    known = [x for x in seconds if x is not None]
    return sum(known) if known else None


def _timing(workdir: epath.Path) -> dict[str, Any]:
    done = {stage: files.read_json(workdir / "stages" / f"{stage}.json") or {} for stage in ("pretrain", "retrain")}
    seconds, images = done["pretrain"].get("seconds"), done["pretrain"].get("images")
    return {
        "pretrain_s": seconds,
        "select_s": done["retrain"].get("select_seconds"),
        "retrain_s": done["retrain"].get("seconds"),
        "pretrain_images_per_s": images / seconds if seconds else None,
    }


def table(result: dict[str, Any]) -> str:
    """The rows of a result as plain text, accuracies in per cent; the final method is last."""
    names = sorted(result["methods"], key=lambda name: name == result["final"])
    rows = [(result["methods"][name]["title"], result["methods"][name]["test"]) for name in names]
    width = max(len(title) for title, _ in rows)
    lines = [" " * width + "".join(f"{group:>13}" for group in GROUPS)]
    for title, measures in rows:
        cells = ("n/a" if measures[group] is None else f"{100 * measures[group]:.1f}" for group in GROUPS)
        lines.append(f"{title:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    counts = result["dataset"]["counts"]
    groups = ", ".join(f"{name} {len(classes)}" for name, classes in result["dataset"]["groups"].items())
    lines.append(
        f"{result['dataset']['name']}: {result['dataset']['train_size']} training images, "
        f"{max(counts)} to {min(counts)} a class; classes: {groups}"
    )
    return "\n".join(lines)
