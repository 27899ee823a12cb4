"""A classifier trained on all images: what long-tailed methods are compared with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lt_jax import losses, methods, models, optim
from lt_jax.sampling import orders, partners
from lt_jax.stages import experiment as experiments
from lt_jax.train import steps


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Trains the encoder and a head from fresh variables; beside the head a projector, if there is an objective."""
    settings, objective = experiment.config.baseline, objective_of(experiment.config.baseline)
    variables, memory = _start(experiment, objective)
    _, progress = experiment.fit(
        "baseline",
        variables=variables,
        memory=memory,
        step=functools.partial(_step, experiment, objective),
        order=functools.partial(_order, experiment, objective),
        own_key=objective is not None,
        classes=functools.partial(classes_at, experiment.classes, settings),
        evaluate=functools.partial(experiment.validate, extractor=experiment.extract_baseline),
    )
    return {"seconds": progress["seconds"]}


def objective_of(settings: Any) -> methods.Objective | None:
    """The contrastive objective that is trained beside the loss; None for ""."""
    if not settings.contrastive:
        return None
    return methods.entry("CONTRASTIVE", settings.contrastive, "config.baseline.contrastive")


def classes_at(classes: losses.Classes, settings: Any, epoch: int) -> losses.Classes:
    """The classes with the weights of an epoch: deferred re-weighting starts after a share of the epochs."""
    if not settings.reweight or epoch < settings.reweight_from * settings.epochs:
        return classes
    return dataclasses.replace(classes, weights=losses.effective_number_weights(np.asarray(classes.counts)))


def _start(experiment: experiments.Experiment, objective: Any) -> tuple[dict[str, Any], Any]:
    """(variables, memory of the objective) before the first step."""
    config = experiment.config
    variables = experiment.initial(experiment.baseline, "baseline", config.encoder.weights)
    if objective is None:
        return variables, None
    network, key = experiment.beside_baseline, experiment.stream("baseline/projector")
    projector = models.initialise_head(network, key, experiment.dataset.image_shape)
    variables = {**variables, "params": {**variables["params"], "projector": projector}}
    return experiment.with_objective(variables, objective, "baseline", config.baseline.contrastive_projector[-1])


def _order(experiment: experiments.Experiment, objective: Any, batch_size: int, seed: int) -> Callable[[int], Any]:
    """The order of the images; with an objective each row is the classified image, the anchor, and its partners."""
    settings, labels = experiment.config.baseline, experiment.dataset.train.labels
    epochs = optim.epochs(settings, len(labels))
    epoch_order = methods.entry("ORDERS", settings.sampling, "config.baseline.sampling", {"epochs": epochs})
    order = orders.Order(labels, batch_size, seed, epoch_order=epoch_order)
    if objective is None:
        return order
    return partners.PartnerOrder(labels, batch_size, objective.partners, seed, order, columns=2)


def _step(experiment: experiments.Experiment, objective: Any, optimizer: Any) -> Callable[..., Any]:
    settings, network = experiment.config.baseline, experiment.baseline
    loss = methods.entry("SUPERVISED", settings.loss, "config.baseline.loss")
    mix = mix_of(settings, "baseline")
    if objective is None:
        method = None
        if settings.experts > 1:
            loss, method = functools.partial(losses.ride, loss=loss, diversity=settings.diversity), "each"
        options = {"accumulate": settings.accumulate, "method": method}
        return steps.classify(network, optimizer, settings.augment, loss, mix, **options)
    projector = experiment.beside_baseline.head
    contrast = steps.Contrast(objective, projector, settings.contrastive_weight, settings.contrastive_augment)
    return steps.joint(network, optimizer, settings.augment, loss, mix, contrast)


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
