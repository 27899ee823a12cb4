"""The stages `dlsa` and `separability`, on the features of the stage `features`."""

import re
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from lt_jax import heads, losses, methods, metrics, optim
from lt_jax.core import errors, files, log
from lt_jax.dlsa import batches, classifiers, divide, separate
from lt_jax.dlsa import filter as filters
from lt_jax.dlsa import flow as flows
from lt_jax.stages import experiment as experiments
from lt_jax.stages import features as features_lib
from lt_jax.train import state

GROUPS = ("many", "medium", "few")


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Fits DLSA and the plain baselines on the features; writes `dlsa/` and `dlsa.json`."""
    began = time.monotonic()
    config, workdir, dataset = experiment.config, experiment.workdir, experiment.dataset
    train, labels = features_lib.read(workdir, "train")
    features_lib.check_same_data(dataset, labels, workdir)
    head = backbone_head(config, train, labels, dataset.num_classes)
    key = state.stream(config.seed, "dlsa")
    model, train_depth = divide.fit_and_divide(key, train, labels, config.dlsa, head, dataset.num_classes)
    seconds = time.monotonic() - began
    save(workdir, model)
    features = {split: features_lib.read(workdir, split)[0] for split in dataset.evaluated}
    scores = {split: divide.scores(model, x) for split, x in features.items()}
    logits, depth, likelihood = scores["test"]
    plain = {split: baselines(config, train, labels, x, dataset.num_classes, head) for split, x in features.items()}
    by_split = {split: {**plain[split], "dlsa": scores[split][0]} for split in features}
    measured = _measured(experiment, by_split, {"dlsa": seconds})
    shown = {"dlsa": logits, "balanced_softmax": plain["test"]["balanced_softmax"]}
    test_labels = dataset.test.labels
    result = {
        "test": measured["dlsa"]["test"],
        "baselines": {name: x["test"] for name, x in measured.items() if name != "dlsa"},
        "methods": measured,
        "depths": _depths(model, labels, train_depth, test_labels, logits.argmax(axis=1), depth, dataset),
        "confusion": {n: group_confusion(test_labels, x.argmax(axis=1), dataset.groups) for n, x in shown.items()},
    }
    files.write_npz(workdir / "dlsa" / "test.npz", labels=test_labels, logits=logits, depth=depth, log_p=likelihood)
    files.write_json(workdir / "dlsa.json", result)
    return {"seconds": seconds}


def _measured(experiment: experiments.Experiment, by_split: dict[str, Any], seconds: dict[str, Any]) -> dict[str, Any]:
    """Name -> what result.json says of the method, from split -> name -> logits."""
    dataset, bins = experiment.dataset, experiment.config.evaluate.ece_bins
    measured = {}
    for name in by_split["test"]:
        measures = {
            split: metrics.measures(getattr(dataset, split).labels, logits[name], dataset.groups, bins)
            for split, logits in by_split.items()
        }
        title = "Cosine" if name == "cosine" else methods.title("RECIPES", name)
        validation = measures.get("validation")
        spent = seconds.get(name)
        measured[name] = {"title": title, "test": measures["test"], "validation": validation, "seconds": spent}
    return measured


def run_separability(experiment: experiments.Experiment) -> dict[str, Any]:
    """Ranks this run's features and those of `dlsa.compare_with` by how well a flow filter separates head and tail."""
    config, workdir, dataset = experiment.config, experiment.workdir, experiment.dataset
    measured = {}
    for folder in (workdir, *(epath.Path(x).expanduser() for x in config.dlsa.compare_with)):
        (train, labels), (test, test_labels) = features_lib.read(folder, "train"), features_lib.read(folder, "test")
        features_lib.check_same_data(dataset, labels, folder)
        key = state.stream(config.seed, "separability")
        fitted = filters.fit_flow_filter(key, train, labels, config.dlsa.filter, num_classes=dataset.num_classes)
        name = folder.name if folder.name not in measured else str(folder)
        measured[name] = separate.measures(fitted, test, test_labels, dataset.counts, dataset.groups, config.dlsa.share)
    ranked = dict(sorted(measured.items(), key=lambda item: -(item[1]["head_tail_auc"] or 0.0)))
    files.write_json(workdir / "separability.json", ranked)
    log.say("\n" + separate.table(ranked))
    return {}


def backbone_head(config: Any, train: Any, labels: np.ndarray, num_classes: int) -> dict[str, Any] | None:
    """The linear head of the plain probe on these features, where `classifier.start` asks for it; else None.

    The probe's fit depends on its key and the features alone, so that fitting it again gives the same head.

    Raises:
      BadInput: the features are not those of an encoder of this run, so that no head was trained on them.
    """
    if config.dlsa.classifier.get("start", "random") != "backbone":
        return None
    if "probe" not in config:
        raise errors.BadInput(
            "config.dlsa.classifier.start: 'backbone' needs the linear head of an encoder, and this run has features "
            "of your own; set it to random, or call lt_jax.dlsa.fit with an `initial` head"
        )
    key = state.stream(config.seed, "probe/plain")
    classes = losses.Classes.of(np.bincount(labels, minlength=num_classes))
    settings = heads.Settings.of(config.probe, optim.epochs(config.probe, len(labels)))
    head = heads.linear(key, np.asarray(train), labels, classes, settings=settings)
    return {"kernel": head.kernel, "bias": head.bias}


def baselines(
    config: Any, train: Any, labels: Any, test: Any, num_classes: int, initial: dict[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Name -> test logits of the plain classifiers on the same features, trained with the same settings."""
    counts, everything = np.bincount(labels, minlength=num_classes), np.arange(len(labels))
    cosine = "cosine_released" if config.dlsa.classifier.kind == "cosine_released" else "cosine"
    kinds = {
        "cross_entropy": {"kind": "linear", "loss": "cross_entropy"},
        "balanced_softmax": {"kind": "linear", "loss": "balanced_softmax"},
        "cosine": {"kind": cosine, "loss": "balanced_softmax"},
    }
    scores = {}
    for name, change in kinds.items():
        options = config.dlsa.classifier.copy_and_resolve_references()
        options.update(sampling="instance", **change)
        key = state.stream(config.seed, f"dlsa/{name}")
        fitted = classifiers.fit(key, train, labels, everything, counts, options, None, initial)
        scores[name] = batches.over_all(_logits, fitted, test, np.arange(len(test)))[0]
    classes = losses.Classes.of(counts)
    scores["nearest_class_mean"] = heads.nearest_class_mean(None, np.asarray(train), labels, classes)(np.asarray(test))
    return scores


_logits = jax.jit(lambda fitted, x: fitted(x))


def save(workdir: epath.Path, model: divide.Model) -> None:
    """`dlsa/model.npz`: every leaf under its path in the pytree."""
    leaves = jax.tree_util.tree_flatten_with_path(model)[0]
    files.write_npz(workdir / "dlsa" / "model.npz", **{jax.tree_util.keystr(path): leaf for path, leaf in leaves})


def load(workdir: epath.Path, kind: str) -> divide.Model:
    """The model that `save` has written.

    Args:
      kind: of its classifiers, config.dlsa.classifier.kind.

    Raises:
      BadInput: there is none.
    """
    file = workdir / "dlsa" / "model.npz"
    if not file.exists():
        raise errors.BadInput(f"no {file}: run --stage=dlsa first")
    tree: dict[str, Any] = {}
    for path, leaf in files.read_npz(file).items():
        *above, last = re.findall(r"\w+", path)  # `.depths[0].filter.mean` and the like
        at = tree
        for name in above:
            at = at.setdefault(name, {})
        at[last] = leaf
    depths = [
        divide.Depth(_filter(one["filter"]), one["threshold"], classifiers.Classifier(**one["classifier"], kind=kind))
        for one in _listed(tree.get("depths", {}))
    ]
    return divide.Model(tuple(depths), classifiers.Classifier(**tree["rest"], kind=kind))


def _filter(leaves: dict[str, Any]) -> filters.FlowFilter:
    flow = leaves["flow"]
    params = tuple({"made": _listed(block["made"]), "norm": block["norm"]} for block in _listed(flow["params"]))
    made = flows.Flow(params, tuple(_listed(flow["stats"])), flow["centres"])
    optional = (leaves.get(name) for name in ("unit", "components"))
    return filters.FlowFilter(made, leaves["mean"], leaves["deviation"], leaves["counts"], *optional)


def _listed(numbered: dict[str, Any]) -> list[Any]:
    return [numbered[str(number)] for number in range(len(numbered))]


def group_confusion(labels: np.ndarray, predicted: np.ndarray, groups: dict[str, np.ndarray]) -> list[list[float]]:
    """Share of the test items of each group (rows many, medium, few) that is given a class of each group (columns).

    An item given its true class counts on the diagonal, and so does a wrong class of the same group; rows sum to 1.
    """
    number = np.argmax([groups[g] for g in GROUPS], axis=0)
    table = np.zeros((3, 3))
    np.add.at(table, (number[labels], number[predicted]), 1)
    return (table / np.maximum(table.sum(axis=1, keepdims=True), 1)).tolist()


def _depths(
    model: divide.Model,
    labels: np.ndarray,
    train_depth: np.ndarray,
    test_labels: np.ndarray,
    predicted: np.ndarray,
    test_depth: np.ndarray,
    dataset: Any,
) -> list[Any]:
    """For each depth: how many items of each group it classifies and how well, and its clusters."""
    rows = []
    for number in range(1, len(model.depths) + 2):
        here = test_depth == number
        row: dict[str, Any] = {"depth": number, "test_items": int(here.sum()), "groups": {}}
        for name in GROUPS:
            mine = here & dataset.groups[name][test_labels]
            trained = (train_depth == number) & dataset.groups[name][labels]
            right = float((predicted[mine] == test_labels[mine]).mean()) if mine.any() else None
            row["groups"][name] = {
                "train_items": int(trained.sum()), "test_items": int(mine.sum()), "accuracy": right,
            }  # fmt: skip
        if number <= len(model.depths):
            row |= _clusters(model.depths[number - 1])
        rows.append(row)
    return rows


def _clusters(depth: divide.Depth) -> dict[str, Any]:
    counts = np.asarray(depth.filter.counts)
    size = counts.sum(axis=1)
    is_used = size > 0
    purity = counts[is_used].max(axis=1) / size[is_used]
    clusters = {"size": size[is_used].tolist(), "purity": purity.tolist(), "empty": int((~is_used).sum())}
    return {"clusters": clusters, "threshold": float(depth.threshold)}
