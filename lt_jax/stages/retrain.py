"""Stage 2: draw a balanced, informative subset with IP-DPP, train the classifier on it, draw again every R epochs.

p(i) is the probability that the current classifier gives to the true label of training image i, on clean images in
evaluation mode. The first p comes from a head trained for a few passes on frozen features; that head is then discarded.
"""

import math
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from lt_jax import heads, methods
from lt_jax.core import distributed, errors, files, log
from lt_jax.sampling import orders
from lt_jax.stages import baseline
from lt_jax.stages import experiment as experiments
from lt_jax.train import extract, state, steps

# Relative and absolute difference of log p between two device counts, in bfloat16; another network differs by more.
_SAME_LOG_P = (0.05, 0.05)


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Writes `subsets/ROUND.npz` and the checkpoints of the final classifier."""
    dataset, settings = experiment.dataset, experiment.config.retrain
    for name, count in zip(dataset.class_names, dataset.counts, strict=True):
        if 0 < count < settings.k:
            log.say(f"class {name!r} holds {count} images, k is {settings.k}: kept whole")
    size = int(np.minimum(dataset.counts, settings.k).sum())
    if size == 0:
        raise errors.BadInput("config.retrain.k: the subset would be empty")
    rounds = Rounds(experiment)
    fresh = experiment.initial(experiment.network, "retrain")
    encoder = experiment.encoder()
    is_whole = settings.trainable == "all"
    _, progress = experiment.fit(
        "retrain",
        variables={**encoder, "params": {**fresh["params"], **encoder["params"]}},
        step=lambda optimizer: steps.classify(
            experiment.network,
            optimizer,
            settings.augment,
            mix=baseline.mix_of(settings, "retrain"),
            moving=is_whole,
            accumulate=settings.accumulate,
        ),
        order=lambda batch_size, seed: orders.Order(np.empty(size), batch_size, seed),
        items=size,
        trainable=(settings.trainable,),
        at_epoch=rounds.at_epoch,
        evaluate=experiment.validate,
    )
    return {"seconds": progress["seconds"], "select_seconds": progress.get("select_seconds", 0.0)}


class Rounds:
    """The subset in use, redrawn at the right epochs. Each round has a file of its own."""

    def __init__(self, experiment: experiments.Experiment):
        self._experiment, self._settings = experiment, experiment.config.retrain
        self._labels = experiment.dataset.train.labels
        self._number = -1  # of the subset in use

    def at_epoch(self, current: state.TrainState, epoch: int, progress: dict[str, Any], use: Any) -> dict[str, Any]:
        """Draws, or reads, the subset of this epoch; `use` takes the positions of a new one.

        `progress` holds its number and the seconds of all draws so far.
        """
        number = epoch // self._settings.redraw_every
        seconds = progress.get("select_seconds", 0.0)
        if progress.get("round") != number:
            features, log_p = self._first_outputs() if number == 0 else self._outputs(current.averaged())
            if distributed.is_main():
                seconds += self._draw(number, features, log_p)
            distributed.wait(f"subset {number}")
        if number != self._number:
            if not self._is_ours(number):
                raise errors.RunFailed(
                    f"{self._file(number)} is missing or was drawn with other settings than this run has; "
                    "delete checkpoints/retrain and subsets, and run again"
                )
            use(files.read_npz(self._file(number))["indices"])
            self._number = number
        return {**progress, "round": number, "select_seconds": seconds}

    def _file(self, number: int) -> epath.Path:
        return self._experiment.workdir / "subsets" / f"{number}.npz"

    def _key(self, number: int) -> jax.Array:
        return jax.random.fold_in(self._experiment.stream("retrain/select"), number)

    def _draw(self, number: int, features: np.ndarray, log_p: np.ndarray) -> float:
        """Writes the subset of a round; returns the seconds that the draw took."""
        if self._is_ours(number, log_p):
            return 0.0  # killed after the draw and before the next save
        settings, key = self._settings, self._key(number)
        began = time.monotonic()
        select = methods.entry("SELECTORS", settings.method, "config.retrain.method", settings)
        indices = select(key, log_p, features, self._labels, settings.k)
        seconds = time.monotonic() - began
        files.write_npz(
            self._file(number),
            indices=np.asarray(indices),
            labels=self._labels[np.asarray(indices)],
            log_p=log_p,
            k=settings.k,
            method=settings.method,
            scale_power=settings.scale_power,
            key=np.asarray(jax.random.key_data(key)),
        )
        information = -log_p / math.log(2)
        log.say(
            f"round {number}: {len(indices)} of {len(self._labels)} images, mean information "
            f"{information[indices].mean():.2f} bits against {information.mean():.2f} over all"
        )
        return seconds

    def _is_ours(self, number: int, log_p: np.ndarray | None = None) -> bool:
        """Whether the file of this round was drawn with the settings and the key of this run, from these images."""
        if not self._file(number).exists():
            return False
        drawn, names = files.read_npz(self._file(number)), ("k", "method", "scale_power")
        return (
            all(drawn[name].item() == self._settings[name] for name in names)
            and np.array_equal(drawn["key"], jax.random.key_data(self._key(number)))
            and len(drawn["log_p"]) == len(self._labels)
            and np.array_equal(drawn["labels"], self._labels[drawn["indices"]])
            and (log_p is None or np.allclose(drawn["log_p"], log_p, *_SAME_LOG_P))
        )

    def _outputs(self, variables: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, d) and log p (n,) of the training images."""
        features, logits = self._experiment.extract(variables, self._experiment.dataset.train.images)
        return features, extract.true_log_probabilities(logits, self._labels)

    def _first_outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the pretrained encoder, under a head that is then discarded."""
        experiment, settings = self._experiment, self._settings
        variables = experiment.under_new_head(experiment.encoder(), "retrain/first")
        features, _ = experiment.extract(variables, experiment.dataset.train.images)
        head = heads.linear(
            experiment.stream("retrain/first"),
            features,
            self._labels,
            experiment.classes,
            settings=heads.Settings.of(settings, settings.head_epochs),
        )
        return features, extract.true_log_probabilities(head(features), self._labels)
