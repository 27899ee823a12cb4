"""Stage `heads`: classifiers on the frozen features of the baseline's network. The test set chooses nothing."""

import inspect
import time
from typing import Any

import numpy as np
from etils import epath

from lt_jax import heads, methods
from lt_jax.core import distributed, errors, files
from lt_jax.stages import baseline
from lt_jax.stages import experiment as experiments


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Fits the heads that `config.heads` names; writes `heads/baseline/NAME.npz`."""
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


def names(config: Any) -> dict[str, str]:
    """Name -> entry with its options, of the heads that are fitted on this run's baseline.

    A head that changes the network's own needs a linear one, not several experts. Logit adjustment needs logits that
    hold the class prior, those of plain cross-entropy.
    """
    by_name = {methods.name_of("HEADS", text): text for text in config.heads}
    if not baseline.is_plain(config.baseline):
        by_name.pop("logit_adjustment", None)
    is_linear = config.baseline.head == "linear" and config.baseline.get("experts", 1) == 1
    return {name: text for name, text in by_name.items() if is_linear or not _needs_own(name)}


def _needs_own(name: str) -> bool:
    """Whether a head starts from the network's own: its function has no default for `initial`."""
    initial = inspect.signature(methods.HEADS[name]).parameters["initial"]
    return initial.default is inspect.Parameter.empty


def fit(experiment: experiments.Experiment, text: str, features: np.ndarray, initial: heads.Linear | None) -> Any:
    """The head that `text` names, fitted on features (n, d) of the training images.

    Args:
      experiment: its config.probe has the settings of heads that are trained.
      text: an entry of `lt_jax.methods.HEADS`, with options in brackets.
      features: of all training images, in their order.
      initial: the network's own head, None where it is not linear.
    """
    fit_head = methods.entry("HEADS", text, "config.heads")
    options = {}
    if "settings" in inspect.signature(fit_head).parameters and "probe" in experiment.config:
        options["settings"] = heads.Settings.of(experiment.config.probe, experiment.config.probe.epochs)
    key = experiment.stream(f"heads/{methods.name_of('HEADS', text)}")
    labels = experiment.dataset.train.labels
    return fit_head(key, features, labels, experiment.classes, initial=initial, **options)


def of_network(variables: dict[str, Any]) -> heads.Linear | None:
    """The linear head of a network with these variables; None where it has another."""
    dense = variables["params"]["head"].get("dense")
    if dense is None:
        return None
    return heads.Linear(np.asarray(dense["kernel"]), np.asarray(dense["bias"]))


def save(workdir: epath.Path, stage: str, name: str, head: Any) -> None:
    """Writes a head on the features of the network of a stage to `heads/STAGE/NAME.npz`."""
    arrays = {field: np.asarray(value) for field, value in vars(head).items()}
    files.write_npz(_file(workdir, stage, name), kind=type(head).__name__, **arrays)


def load(workdir: epath.Path, stage: str, name: str) -> Any:
    """The head that `save` has written.

    Raises:
      BadInput: there is none.
    """
    file = _file(workdir, stage, name)
    if not file.exists():
        raise errors.BadInput(f"no {file}: run --stage={'heads' if stage == 'baseline' else stage} first")
    arrays = files.read_npz(file)
    return heads.KINDS[str(arrays.pop("kind"))](**arrays)


def _file(workdir: epath.Path, stage: str, name: str) -> epath.Path:
    return workdir / "heads" / stage / f"{name}.npz"
