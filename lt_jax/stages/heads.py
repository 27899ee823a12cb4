"""Stage `heads`: classifiers on frozen features. The test set chooses nothing.

The features are those of the baseline's network, or of the stage `features` in a run that trains no network. Such a run
has no other classifiers, so the heads are cross-validated, and one is selected.
"""

import inspect
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from lt_jax import heads, losses, methods, metrics, optim
from lt_jax.core import distributed, errors, files, interrupt, log
from lt_jax.sampling import folds as folds_lib
from lt_jax.stages import baseline
from lt_jax.stages import experiment as experiments
from lt_jax.stages import features as features_lib

FOLDS = 5  # of the training images, where there is no validation split
LINEAR = "linear"  # the head that other heads start from where no network brings one


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Fits the heads that `config.heads` names; writes `heads/STAGE/NAME.npz`, STAGE being the one of the features.

    Without a network's own head, heads that change one start from the head `linear` on the same features, trained by
    cross-entropy: it is what the last layer of a network with a frozen encoder would be. The measures of every head on
    images that it was not fitted on are then in `heads/features/validation.json`.
    """
    if is_alone(experiment.config):
        return _on_features(experiment)
    variables = experiment.trained("baseline")
    features, _ = experiment.extract_baseline(variables, experiment.dataset.train.images)
    seconds = {}
    for name, text in names(experiment.config).items():
        began = time.monotonic()
        head = fit(experiment, text, features, of_network(variables))
        seconds[name] = time.monotonic() - began
        if distributed.is_main():
            save(experiment.workdir, "baseline", name, head)
    return {"seconds": seconds}


def is_alone(config: Any) -> bool:
    """Whether heads on the features of the stage `features` are the only classifiers of the run."""
    return "heads" in config.stages and not {"baseline", "retrain", "dlsa"} & set(config.stages)


def names(config: Any) -> dict[str, str]:
    """Name -> entry with its options, of the heads that are fitted.

    Where they are alone they come in the order of the table. On a baseline, a head that changes the network's own needs
    a linear one, not several experts, and logit adjustment needs logits that hold the class prior, those of plain
    cross-entropy.
    """
    by_name = {methods.name_of("HEADS", text): text for text in config.heads}
    if is_alone(config):
        return {name: by_name[name] for name in methods.HEADS if name in by_name}
    if not baseline.is_plain(config.baseline):
        by_name.pop("logit_adjustment", None)
    is_linear = config.baseline.head in ("linear", "unit_kernel") and config.baseline.get("experts", 1) == 1
    return {name: text for name, text in by_name.items() if is_linear or not _needs_own(name)}


def _needs_own(name: str) -> bool:
    """Whether a head starts from the network's own: its function has no default for `initial`."""
    initial = inspect.signature(methods.HEADS[name]).parameters["initial"]
    return initial.default is inspect.Parameter.empty


def _on_features(experiment: experiments.Experiment) -> dict[str, Any]:
    """Selects options where there is a choice, fits every head on all training images, and saves them."""
    features, labels = features_lib.read(experiment.workdir, "train")
    features_lib.check_same_data(experiment.dataset, labels, experiment.workdir)
    views = [features]
    if features_lib.has_mirrored(experiment.config):
        views.append(features_lib.read(experiment.workdir, features_lib.MIRRORED)[0])
    features = np.stack(views).astype(np.float32)
    texts = {name: methods.alternatives(text, "config.heads") for name, text in names(experiment.config).items()}
    if len(texts.get(LINEAR, ())) > 1:  # its choice comes first: other heads start from it
        measures = _validated(experiment, texts[LINEAR], features)["measures"]
        best = metrics.select({text: measures.get(text) for text in texts[LINEAR]}, texts[LINEAR][0])
        texts[LINEAR] = [best, *(text for text in texts[LINEAR] if text != best)]
    every_text = [text for each in texts.values() for text in each]
    validated = _validated(experiment, every_text, features)
    chosen = {
        name: metrics.select({x: validated["measures"].get(x) for x in each}, each[0]) for name, each in texts.items()
    }
    seconds = {}
    for text, head, spent in _fitted(experiment, list(chosen.values()), features):
        name = methods.name_of("HEADS", text)
        seconds[name] = spent
        if distributed.is_main():
            save(experiment.workdir, "features", name, head)
    measures = {name: validated["measures"].get(text) for name, text in chosen.items()}
    balanced = {text: x["balanced"] for text, x in validated["measures"].items()}
    alternatives = {text: balanced.get(text) for each in texts.values() if len(each) > 1 for text in each}
    about = {**validated, "measures": measures, "heads": chosen, "alternatives": alternatives}
    files.write_json(experiment.workdir / "heads" / "features" / "validation.json", about)
    distributed.wait("the heads are saved")
    return {"seconds": seconds}


def validation(workdir: epath.Path) -> dict[str, Any]:
    """What `_validated` returns, by name of the head; their entries with the options chosen; and what they were among.

    Raises:
      BadInput: the stage was not run.
    """
    file = workdir / "heads" / "features" / "validation.json"
    about = files.read_json(file)
    if about is None:
        raise errors.BadInput(f"no {file}: run --stage=heads first")
    return about


def _validated(experiment: experiments.Experiment, texts: list[str], features: np.ndarray) -> dict[str, Any]:
    """Measures of each head on images that it was not fitted on: of the validation split, else of stratified folds.

    Returns:
      {"measures": entry -> measures, "folds": their number or 0, "images": validation images of each class}.
    """
    dataset, bins = experiment.dataset, experiment.config.evaluate.ece_bins
    if dataset.validation is not None:
        held_out, labels = features_lib.read(experiment.workdir, "validation")
        logits = {text: np.asarray(head(held_out)) for text, head, _ in _fitted(experiment, texts, features)}
        folds = 0
    else:
        labels, logits = _out_of_fold(experiment, texts, features)
        folds = FOLDS
    images = np.bincount(labels, minlength=dataset.num_classes).tolist()
    if not len(labels):
        log.say("heads: no class has two training images, so the first head of the table is selected")
        return {"measures": {}, "folds": folds, "images": images}
    measures = {text: metrics.measures(labels, x, dataset.groups, bins) for text, x in logits.items()}
    return {"measures": measures, "folds": folds, "images": images}


def _out_of_fold(
    experiment: experiments.Experiment, texts: list[str], features: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(labels (n,), entry -> logits (n, C)) of the images that are in a fold, from heads fitted without that fold."""
    labels = experiment.dataset.train.labels
    fold = folds_lib.stratified(labels, FOLDS, experiment.number("heads/folds"))
    logits = {text: np.zeros((len(labels), experiment.dataset.num_classes), np.float32) for text in texts}
    for number in range(FOLDS):
        rows = np.flatnonzero(fold != number)
        if len(rows) == len(labels):
            continue
        held_out = np.flatnonzero(fold == number)
        log.say(f"heads: fold {number + 1} of {FOLDS}, {len(texts)} heads on {len(rows)} training images")
        for text, head, _ in _fitted(experiment, texts, features[:, rows], rows, f"/fold{number}"):
            logits[text][held_out] = np.asarray(head(features[0, held_out]))
    is_scored = fold >= 0
    return labels[is_scored], {text: x[is_scored] for text, x in logits.items()}


def _fitted(
    experiment: experiments.Experiment,
    texts: list[str],
    features: np.ndarray,
    rows: np.ndarray | None = None,
    stream: str = "",
) -> Iterator[tuple[str, Any, float]]:
    """(entry, head, seconds) of each; a head that changes a trained one starts from `linear`.

    Args:
      features: (views, n, d) of the training images in `rows`, None for all of them.
      stream: end of the name of the random stream.
    """
    initial = None
    seconds_of_initial = 0.0
    if any(_needs_own(methods.name_of("HEADS", text)) for text in texts):
        is_linear = (text for text in texts if methods.name_of("HEADS", text) == LINEAR)
        text_of_initial = next(is_linear, f"{LINEAR}(scaling='unit')")
        began = time.monotonic()
        initial = fit(experiment, text_of_initial, features, None, rows, stream)
        seconds_of_initial = time.monotonic() - began
    for text in texts:
        interrupt.stop_if_requested()
        began = time.monotonic()
        is_done = initial is not None and text == text_of_initial
        head = initial if is_done else fit(experiment, text, features, initial, rows, stream)
        starts_from_it = is_done or _needs_own(methods.name_of("HEADS", text))
        yield text, head, time.monotonic() - began + (seconds_of_initial if starts_from_it else 0.0)


def fit(
    experiment: experiments.Experiment,
    text: str,
    features: np.ndarray,
    initial: Any,
    rows: np.ndarray | None = None,
    stream: str = "",
) -> Any:
    """The head that `text` names, fitted on features of training images: (n, d), or (views, n, d).

    Args:
      experiment: its config.probe has the settings of heads that are trained.
      text: an entry of `lt_jax.methods.HEADS`, with options in brackets.
      features: of the training images in `rows`, in this order.
      initial: the head that a network has, None where it has none or one that is not linear.
      rows: positions of training images; None for all of them.
      stream: end of the name of the random stream.
    """
    fit_head = methods.entry("HEADS", text, "config.heads")
    labels, classes = experiment.dataset.train.labels, experiment.classes
    if rows is not None:
        labels = labels[rows]
        classes = losses.Classes.of(np.bincount(labels, minlength=len(classes.counts)))
    if features.ndim == 3:
        labels = np.tile(labels, len(features))
        features = features.reshape(-1, features.shape[-1])
    options = {}
    if "settings" in inspect.signature(fit_head).parameters:
        options["settings"] = _settings(experiment.config, len(labels))
    key = experiment.stream(f"heads/{methods.name_of('HEADS', text)}{stream}")
    return fit_head(key, features, labels, classes, initial=initial, **options)


def _settings(config: Any, items: int) -> heads.Settings:
    """Rates and durations of heads without options of their own: config.probe, else those of `balanced_linear`."""
    if "probe" in config:
        return heads.Settings.of(config.probe, optim.epochs(config.probe, items))
    return baseline.head_settings(items)


def of_network(variables: dict[str, Any]) -> heads.Linear | None:
    """The linear head of a network with these variables; None where it has another."""
    params = variables["params"]["head"]
    if "dense" in params:
        return heads.Linear(np.asarray(params["dense"]["kernel"]), np.asarray(params["dense"]["bias"]))
    if {"kernel", "bias"} <= set(params):  # vectors of unit length; a cosine head has no bias
        kernel = np.asarray(params["kernel"])
        return heads.Linear(kernel / np.linalg.norm(kernel, axis=0, keepdims=True), np.asarray(params["bias"]))
    return None


def save(workdir: epath.Path, stage: str, name: str, head: Any) -> None:
    """Writes a head on the features of a stage to `heads/STAGE/NAME.npz`."""
    arrays = {field: np.asarray(value) for field, value in vars(head).items()}
    files.write_npz(_file(workdir, stage, name), kind=type(head).__name__, **arrays)


def load(workdir: epath.Path, stage: str, name: str) -> Any:
    """The head that `save` has written.

    Raises:
      BadInput: there is none.
    """
    file = _file(workdir, stage, name)
    if not file.exists():
        raise errors.BadInput(f"no {file}: run --stage={stage if stage == 'probe' else 'heads'} first")
    arrays = files.read_npz(file)
    return heads.KINDS[str(arrays.pop("kind"))](**arrays)


def _file(workdir: epath.Path, stage: str, name: str) -> epath.Path:
    return workdir / "heads" / stage / f"{name}.npz"
