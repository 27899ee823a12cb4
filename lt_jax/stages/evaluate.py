"""From the checkpoints of a run to `predictions.npz`, `result.json` and a table.

Headline numbers are those of the last epoch, without test-time augmentation: the test set chooses nothing.
"""

import functools
from typing import Any

import jax
import numpy as np

from lt_jax import methods, metrics
from lt_jax.core import errors, files, log
from lt_jax.stages import baseline, heads, report_data
from lt_jax.stages import experiment as experiments
from lt_jax.stages import features as features_lib

GROUPS = ("overall", "many", "medium", "few", "balanced", "worst_class")


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Writes `predictions.npz`, `result.json` and what the page needs, and prints the table."""
    config, workdir = experiment.config, experiment.workdir
    measure = _dlsa if "dlsa" in config.stages else _heads if heads.is_alone(config) else _networks
    measured, logits, features, last = measure(experiment)
    final = config.method if config.method in logits and not heads.is_alone(config) else last
    files.write_npz(
        workdir / "predictions.npz",
        labels=experiment.dataset.test.labels,
        logits=logits[final],
        **{f"predicted_{name}": x.argmax(axis=1).astype(np.int32) for name, x in logits.items()},
        **_baseline_predictions(config, logits, final),
    )
    report_data.write(experiment, features)
    result = _result(experiment, _with_distinct_titles(measured), final)
    files.write_json(workdir / "result.json", result)
    log.say("\n" + table(result))
    return {}


def _networks(experiment: experiments.Experiment) -> tuple[Any, ...]:
    """What result.json says of each method, test logits by method, and of the last network: its features, its name.

    The features are a function of images.
    """
    config = experiment.config
    seconds = _seconds(experiment)
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
            features_by_split = {split: x for split, (x, _) in outputs.items()}
            for name in heads.names(config):
                spent = _sum(seconds["baseline"], seconds["heads"].get(name))
                measured[name], logits[name] = _head(experiment, "baseline", name, features_by_split, spent)
    measured |= _probe_rows(_probes(experiment), seconds["pretrain"])
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


def _heads(experiment: experiments.Experiment) -> tuple[Any, ...]:
    """What `_networks` returns, of heads on the features of the stage `features`; the last is the selected one."""
    config, workdir = experiment.config, experiment.workdir
    validated, seconds = heads.validation(workdir), _seconds(experiment)["heads"]
    features = {"test": np.asarray(features_lib.read(workdir, "test")[0], np.float32)}
    measured, logits = {}, {}
    for name in heads.names(config):
        measured[name], logits[name] = _head(experiment, "features", name, features, seconds.get(name))
        measured[name]["validation"] = validated["measures"][name]
    selected = metrics.select({name: x["validation"] for name, x in measured.items()}, next(iter(measured)))
    return measured, logits, None, selected


def _head(
    experiment: experiments.Experiment, stage: str, name: str, features: dict[str, Any], seconds: float | None
) -> tuple[dict[str, Any], np.ndarray]:
    """(what result.json says, test logits) of a head on the features of a stage, from its features by split."""
    head = heads.load(experiment.workdir, stage, name)
    outputs = {split: (x, np.asarray(head(x))) for split, x in features.items()}
    return _measured(experiment, methods.title("HEADS", name), outputs, seconds), outputs["test"][1]


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


def _probes(experiment: experiments.Experiment) -> dict[str, Any]:
    """Content of `probe.json`; empty where this config has no probe, although another one may have left the file."""
    stages, is_of_images = experiment.config.stages, len(experiment.dataset.image_shape) == 3
    is_beside_features = "features" in stages and is_of_images and not features_lib.is_frozen(experiment.config)
    if "probe" not in stages and not is_beside_features:
        return {}
    return files.read_json(experiment.workdir / "probe.json") or {}


def _probe_rows(probes: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """What result.json says of the linear probes of the pretrained encoder, by protocol."""
    validation = probes.get("validation") or {}
    names = {"plain": ("linear_probe", "Linear probe"), "official": ("linear_probe_official", "Linear probe, official")}
    return {
        name: {"title": title, "test": probes[protocol], "validation": validation.get(protocol), "seconds": seconds}
        for protocol, (name, title) in names.items()
        if probes.get(protocol)
    }


def _with_distinct_titles(measured: dict[str, Any]) -> dict[str, Any]:
    """The same, with the name behind each title that two methods have, as the head `linear` and the linear probe."""
    titles = [about["title"] for about in measured.values()]
    return {
        name: {**about, "title": f"{about['title']} ({name})"} if titles.count(about["title"]) > 1 else about
        for name, about in measured.items()
    }


def _baseline_predictions(config: Any, logits: dict[str, Any], final: str) -> dict[str, Any]:
    """What the page needs of the baseline: its predicted labels (n,) and their confidence."""
    name = _plain(config, logits)
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
    probes = _probes(experiment)
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
        "selection": _selection(experiment, measured),
        "test": measured[final]["test"],
        "probe": {protocol: probes.get(protocol) for protocol in ("plain", "official")} if probes else None,
        "baseline": _baselines(config, measured, final),
        "protocol": {
            "subset_digest": dataset.index_digest,
            "epoch_rule": "last",
            "test_time_augmentation": False,
            **_network(experiment),
        },
        "stages": experiment.stages,
        "pretraining": _pretraining(experiment),
        "frozen": features_lib.is_frozen(config),
        "digests": (files.read_json(workdir / "run.json") or {}).get("digests"),
        "timing": _timing(experiment),
    }


def _baselines(config: Any, measured: dict[str, Any], final: str) -> dict[str, Any] | None:
    """Name -> test measures of the plain classifiers that the final one is compared with; None if there is none."""
    if "dlsa" in config.stages:
        return {name: x["test"] for name, x in measured.items() if name != "dlsa"}
    name = _plain(config, measured)
    return {name: measured[name]["test"]} if name and name != final else None


def _plain(config: Any, by_name: dict[str, Any]) -> str | None:
    """The plain classifier of the run, that the final one is compared with: the baseline, or the linear head."""
    if "baseline" in config.stages:
        return baseline.method_of(config.baseline)
    return heads.LINEAR if heads.is_alone(config) and heads.LINEAR in by_name else None


def _selected(config: Any, measured: dict[str, Any], final: str) -> str:
    """The best method on validation images, of those that `lt_jax.load` can load."""
    loadable = ("dlsa",) if "dlsa" in config.stages else [name for name in measured if name != "linear_probe_official"]
    return metrics.select({name: measured[name]["validation"] for name in loadable}, final)


def _selection(experiment: experiments.Experiment, measured: dict[str, Any]) -> dict[str, Any] | None:
    """By which measure and on which images the method was selected; None if there are none to select on."""
    if not any(x["validation"] for x in measured.values()):
        return None
    about: dict[str, Any] = {"measure": "balanced", "rule": "the earliest within one standard error of the best"}
    split = experiment.dataset.validation
    if heads.is_alone(experiment.config):
        validated = heads.validation(experiment.workdir)
        on = "folds" if split is None else "validation"
        return {**about, "on": on, **{key: validated[key] for key in ("folds", "images", "heads", "alternatives")}}
    labels = split.labels if split is not None else np.zeros(0, np.int32)
    images = np.bincount(labels, minlength=experiment.dataset.num_classes).tolist()
    return {**about, "on": "validation", "folds": 0, "images": images}


def _network(experiment: experiments.Experiment) -> dict[str, Any]:
    """Name of the encoder, its parameters, and (h, w, c) of what it sees; None where the data are features."""
    dataset = experiment.dataset
    if len(dataset.image_shape) != 3:
        return {"network": None, "parameters": None, "input": None}
    is_last = "retrain" not in experiment.config.stages and "baseline" in experiment.config.stages
    network = experiment.baseline if is_last else experiment.network
    seen = network.input_shape(dataset.image_shape)
    images = jax.ShapeDtypeStruct((1, *seen), np.float32)
    shapes = jax.eval_shape(network.encoder.init, jax.random.key(0), images)
    parameters = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    return {"network": experiment.config.encoder.name, "parameters": int(parameters), "input": list(seen)}


def _images(dataset: Any) -> dict[str, Any] | None:
    """What a classifier must know of the images that it was made for; None where the data are features."""
    if len(dataset.image_shape) != 3:
        return None
    split = dataset.train
    view = "whole" if split.in_memory else "centre"  # evaluation looks at the middle of an image file
    return {"shape": [int(x) for x in dataset.image_shape], "view": view, "upright": split.upright}


def _pretraining(experiment: experiments.Experiment) -> dict[str, Any] | None:
    """The contrastive objective that pretrained the encoder, name and title; None where none did."""
    if not {"pretrain", "probe", "retrain", "features"} & set(experiment.stages):
        return None
    stage = "init_from" if experiment.config.init_from else "pretrain"
    text = _stage(experiment, stage).get("depends", {}).get("pretrain.loss")
    if text is None:
        return None
    name = methods.name_of("CONTRASTIVE", text)
    return {"loss": name, "title": methods.title("CONTRASTIVE", name)}


def _stage(experiment: experiments.Experiment, name: str) -> dict[str, Any]:
    """Content of `stages/NAME.json`; empty where this config has no such stage, although another one may have."""
    if name not in (*experiment.stages, "init_from"):
        return {}
    return files.read_json(experiment.workdir / "stages" / f"{name}.json") or {}


def _seconds(experiment: experiments.Experiment) -> dict[str, Any]:
    """Stage -> seconds of training, None where it was not run; of `heads` those of each head."""
    names = ("pretrain", "baseline", "heads", "retrain")
    seconds = {name: _stage(experiment, name).get("seconds") for name in names}
    return {**seconds, "heads": seconds["heads"] or {}}


def _sum(*seconds: float | None) -> float | None:
    known = [x for x in seconds if x is not None]
    return sum(known) if known else None


def _timing(experiment: experiments.Experiment) -> dict[str, Any]:
    pretrain, retrain = _stage(experiment, "pretrain"), _stage(experiment, "retrain")
    seconds, images = pretrain.get("seconds"), pretrain.get("images")
    return {
        "pretrain_s": seconds,
        "select_s": retrain.get("select_seconds"),
        "retrain_s": retrain.get("seconds"),
        "pretrain_images_per_s": images / seconds if seconds else None,
    }


def table(result: dict[str, Any]) -> str:
    """The rows of a result as plain text, accuracies in per cent; the final method is last.

    Where methods were validated, a column has their balanced accuracy there, and a star marks the selected one.
    """
    names = sorted(result["methods"], key=lambda name: name == result["final"])
    rows = [(name, result["methods"][name]) for name in names]
    selection = result.get("selection")
    titles = {name: x["title"] + (" *" if selection and name == result["selected"] else "") for name, x in rows}
    width = max(len(title) for title in titles.values())
    validated = ("validation",) if selection else ()
    lines = [" " * width + "".join(f"{column:>13}" for column in (*GROUPS, *validated))]
    for name, about in rows:
        values = [about["test"][group] for group in GROUPS]
        if selection:
            values.append(about["validation"] and about["validation"]["balanced"])
        cells = ("n/a" if value is None else f"{100 * value:.1f}" for value in values)
        lines.append(f"{titles[name]:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    if selection:
        lines.append(f"* selected by balanced accuracy on {selected_on(selection)}; the test set selects nothing")
    counts = result["dataset"]["counts"]
    groups = ", ".join(f"{name} {len(classes)}" for name, classes in result["dataset"]["groups"].items())
    lines.append(
        f"{result['dataset']['name']}: {result['dataset']['train_size']} training images, "
        f"{max(counts)} to {min(counts)} a class; classes: {groups}"
    )
    return "\n".join(lines)


def selected_on(selection: dict[str, Any]) -> str:
    """The images that a method was selected on, in words."""
    if selection["on"] == "validation":
        return "the validation images"
    return f"{selection['folds']} folds of the training images"
