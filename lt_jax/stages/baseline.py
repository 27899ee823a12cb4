"""A classifier trained on all images: what long-tailed methods are compared with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lt_jax import losses, methods, optim
from lt_jax.sampling import orders
from lt_jax.stages import experiment as experiments
from lt_jax.train import steps


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Trains the encoder and a linear head from fresh variables."""
    config, dataset, network = experiment.config, experiment.dataset, experiment.baseline
    settings = config.baseline
    epochs = optim.epochs(settings, len(dataset.train.labels))
    epoch_order = methods.entry("ORDERS", settings.sampling, "config.baseline.sampling", {"epochs": epochs})
    _, progress = experiment.fit(
        "baseline",
        variables=experiment.initial(network, "baseline", config.encoder.weights),
        step=functools.partial(_step, network, settings),
        order=lambda batch_size, seed: orders.Order(dataset.train.labels, batch_size, seed, epoch_order=epoch_order),
        classes=functools.partial(classes_at, experiment.classes, settings),
        evaluate=functools.partial(experiment.validate, extractor=experiment.extract_baseline),
    )
    return {"seconds": progress["seconds"]}


def classes_at(classes: losses.Classes, settings: Any, epoch: int) -> losses.Classes:
    """The classes with the weights of an epoch: deferred re-weighting starts after a share of the epochs."""
    if not settings.reweight or epoch < settings.reweight_from * settings.epochs:
        return classes
    return dataclasses.replace(classes, weights=losses.effective_number_weights(np.asarray(classes.counts)))


def _step(network: Any, settings: Any, optimizer: Any) -> Callable[..., Any]:
    loss = methods.entry("SUPERVISED", settings.loss, "config.baseline.loss")
    mix = mix_of(settings, "baseline")
    return steps.classify(network, optimizer, settings.augment, loss, mix, accumulate=settings.accumulate)


def mix_of(settings: Any, stage: str) -> Any:
    """The mix that the augmentation of a stage names; None for "", which mixes nothing."""
    name = settings.augment.mix
    return methods.entry("MIXES", name, f"config.{stage}.augment.mix") if name else None


def is_plain(settings: Any) -> bool:
    """Whether the loss and the order leave the class prior in the logits, so that it can be taken out afterwards."""
    loss = methods.name_of("SUPERVISED", settings.loss)
    if settings.reweight:
        return False
    return (loss, methods.name_of("ORDERS", settings.sampling)) == ("cross_entropy", "instance")
