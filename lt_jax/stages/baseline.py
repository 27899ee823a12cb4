"""A classifier trained on all images: what long-tailed methods are compared with."""

import functools
from typing import Any

from lt_jax import methods
from lt_jax.sampling import orders
from lt_jax.stages import experiment as experiments
from lt_jax.train import steps


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Trains the encoder and a linear head from fresh variables."""
    config, dataset, network = experiment.config, experiment.dataset, experiment.network
    settings = config.baseline
    epoch_order = methods.entry("ORDERS", settings.sampling, "config.baseline.sampling")
    _, progress = experiment.fit(
        "baseline",
        variables=experiment.initial(network, "baseline", config.encoder.weights),
        step=functools.partial(_step, network, settings),
        order=lambda batch_size, seed: orders.Order(dataset.train.labels, batch_size, seed, epoch_order=epoch_order),
        evaluate=experiment.validate,
    )
    return {"seconds": progress["seconds"]}


def _step(network, settings, optimizer):
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
    return (loss, methods.name_of("ORDERS", settings.sampling)) == ("cross_entropy", "instance")
