"""A classifier trained on all images: what long-tailed methods are compared with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from lt_jax import losses, methods, models, optim
from lt_jax.models import projectors
from lt_jax.sampling import orders, partners
from lt_jax.stages import experiment as experiments
from lt_jax.train import fit, steps


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
        own_key=objective is not None or settings.consistency > 0,
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
    if config.baseline.consistency > 0:
        return _with_consistency(experiment, variables), None
    if objective is None:
        return variables, None
    network, key = experiment.beside_baseline, experiment.stream("baseline/projector")
    projector = models.initialise_head(network, key, experiment.dataset.image_shape)
    variables = {**variables, "params": {**variables["params"], "projector": projector}}
    return experiment.with_objective(variables, objective, "baseline", config.baseline.contrastive_projector[-1])


def _beside(experiment: experiments.Experiment) -> dict[str, Any]:
    """The modules that are trained beside the network where views of an image predict each other."""
    projector = experiment.beside_baseline.head
    predictor = projectors.Projector(projector.widths[-1:], projector.dtype)
    return {"projector": projector, "predictor": predictor, "plain_head": experiment.baseline.head}


def _with_consistency(experiment: experiments.Experiment, variables: dict[str, Any]) -> dict[str, Any]:
    """The variables with those of `_beside`."""
    shape, modules = experiment.dataset.image_shape, _beside(experiment)
    key = experiment.stream("baseline/predictor")
    width = modules["predictor"].widths[-1]
    params = {
        "projector": models.initialise_head(experiment.beside_baseline, experiment.stream("baseline/projector"), shape),
        "plain_head": models.initialise_head(experiment.baseline, experiment.stream("baseline/plain_head"), shape),
        "predictor": modules["predictor"].init(key, jnp.zeros((1, width)))["params"],
    }
    return {**variables, "params": {**variables["params"], **params}}


def _order(experiment: experiments.Experiment, objective: Any, batch_size: int, seed: int) -> Callable[[int], Any]:
    """The order of the images; with an objective each row is the classified image, the anchor, and its partners."""
    settings, labels = experiment.config.baseline, experiment.dataset.train.labels
    epochs = optim.epochs(settings, len(labels))
    epoch_order = methods.entry("ORDERS", settings.sampling, "config.baseline.sampling", {"epochs": epochs})
    order = orders.Order(labels, batch_size, seed, epoch_order=epoch_order)
    if settings.consistency > 0:
        return partners.PartnerOrder(labels, batch_size, 0, seed, order)
    if objective is None:
        return order
    return partners.PartnerOrder(labels, batch_size, objective.partners, seed, order, columns=2)


def _step(experiment: experiments.Experiment, objective: Any, optimizer: Any) -> Callable[..., Any]:
    settings, network = experiment.config.baseline, experiment.baseline
    if settings.consistency > 0:
        total = fit.schedule(settings, len(experiment.dataset.train.labels)).steps
        parts = steps.Consistency(_beside(experiment), settings.consistency, total)
        return steps.consistent(network, optimizer, settings.augment, parts)
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
    if settings.reweight or settings.get("consistency", 0.0):
        return False
    return (loss, methods.name_of("ORDERS", settings.sampling)) == ("cross_entropy", "instance")
