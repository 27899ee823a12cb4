"""A classifier trained on all images: what long-tailed methods are compared with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lt_jax import heads, losses, methods, models, optim
from lt_jax.models import projectors, weights
from lt_jax.sampling import orders, partners
from lt_jax.stages import experiment as experiments
from lt_jax.train import checkpoint, fit, mixed_steps, steps

LOADED = "loaded"  # the method of a network that is evaluated as it was loaded


class Form(NamedTuple):
    """What a kind of training adds to the network, to the order of the images and to the step.

    Attributes:
      start: `(experiment, variables) -> (variables with those beside the network, memory of the objective)`.
      order: `(experiment, order, batch_size, seed) -> order` of rows: one image, or an image and its partners.
      step: `(experiment, optimizer) -> step`.
      own_key: whether the step's random numbers are those of each image.
    """

    start: Callable[..., tuple[dict[str, Any], Any]]
    order: Callable[..., Any]
    step: Callable[..., Any]
    own_key: bool


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Trains the encoder and a head, in the form that the settings name; or takes both from a checkpoint as they are.

    Where a part of a pretrained encoder is trained, the head starts as a linear head on the features of that encoder:
    a random head would distort the features in the first steps (Kumar et al., ICLR 2022).
    """
    config, settings = experiment.config, experiment.config.baseline
    form = form_of(settings)
    variables = experiment.initial(experiment.baseline, "baseline", config.encoder.weights)
    if settings.trainable == "none":
        variables["params"]["head"] = weights.load_classifier(config.encoder.weights, variables["params"]["head"])
        checkpoint.write(experiment.workdir, "baseline", variables)
        return {"seconds": 0.0}
    if settings.trainable != "all":
        variables["params"]["head"] = _fitted_head(experiment, variables)
    variables, memory = form.start(experiment, variables)
    _, progress = experiment.fit(
        "baseline",
        variables=variables,
        memory=memory,
        step=functools.partial(form.step, experiment),
        order=functools.partial(_order, experiment, form),
        own_key=form.own_key,
        trainable=models.trainable(experiment.baseline, settings.trainable),
        classes=functools.partial(classes_at, experiment.classes, settings),
        evaluate=functools.partial(experiment.validate, extractor=experiment.extract_baseline),
    )
    return {"seconds": progress["seconds"]}


def head_settings(items: int) -> heads.Settings:
    """Rates and durations of the head `balanced_linear`, which heads without options of their own take too."""
    options = methods.options_of("HEADS", "balanced_linear")
    names = ("steps", "batch_size", "learning_rate", "weight_decay")
    return heads.Settings.short(items, **{name: options[name] for name in names})


def _fitted_head(experiment: experiments.Experiment, variables: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a linear head on the features of these variables, trained by the loss of the baseline."""
    split = experiment.dataset.train
    features, _ = experiment.extract_baseline(variables, split.images)
    settings = head_settings(len(split.labels))
    key = experiment.stream("baseline/head")
    loss = _loss(experiment.config.baseline)
    head = heads.linear(key, features, split.labels, experiment.classes, loss=loss, settings=settings)
    return {"dense": {"kernel": head.kernel, "bias": head.bias}}


def form_of(settings: Any) -> Form:
    """The form of training that the settings name; `run.config` refuses settings that name two."""
    if settings.consistency > 0:
        return _CONSISTENT
    if settings.tripartite > 0:
        return _TRIPARTITE
    return _JOINT if settings.contrastive else _PLAIN


def method_of(settings: Any) -> str:
    """The recipe that trains what the settings name, the first of the table; where there is none the loss."""
    if settings.get("trainable", "all") == "none":
        return LOADED
    return _recipe_of(settings) or methods.name_of("SUPERVISED", settings.loss)


def title_of(settings: Any) -> str:
    """Display name of `method_of`."""
    if method_of(settings) == LOADED:
        return "As it was loaded"
    recipe = _recipe_of(settings)
    return methods.title("RECIPES", recipe) if recipe else methods.title("SUPERVISED", method_of(settings))


def _recipe_of(settings: Any) -> str | None:
    for name, recipe in methods.RECIPES.items():
        if recipe.stages[0] == "baseline":
            overrides = {**methods.RECIPES["cross_entropy"].overrides, **recipe.overrides}
            if _parts_of({key.removeprefix("baseline."): x for key, x in overrides.items()}) == _parts_of(settings):
                return name
    return None


def _parts_of(settings: Any) -> tuple[Any, ...]:
    """What tells methods apart; weights and other numbers do not."""
    return (
        methods.name_of("SUPERVISED", settings["loss"]),
        methods.name_of("ORDERS", settings["sampling"]),
        methods.name_of("CONTRASTIVE", settings.get("contrastive", "")),
        settings["head"],
        settings["reweight"],
        settings.get("reweight_from", 0.0) > 0,
        settings.get("experts", 1) > 1,
        settings.get("consistency", 0.0) > 0,
        settings.get("tripartite", 0.0) > 0,
    )


def classes_at(classes: losses.Classes, settings: Any, epoch: int) -> losses.Classes:
    """The classes with the weights of an epoch: deferred re-weighting starts after a share of the epochs."""
    epochs = optim.epochs(settings, int(np.sum(classes.counts)))
    if not settings.reweight or epoch < settings.reweight_from * epochs:
        return classes
    return dataclasses.replace(classes, weights=losses.effective_number_weights(np.asarray(classes.counts)))


def mix_of(settings: Any, stage: str) -> Any:
    """The mix that the augmentation of a stage names; None for "", which mixes nothing."""
    name = settings.augment.mix
    return methods.entry("MIXES", name, f"config.{stage}.augment.mix") if name else None


def is_plain(settings: Any) -> bool:
    """Whether the loss and the order leave the class prior in the logits, so that it can be taken out afterwards."""
    loss = methods.name_of("SUPERVISED", settings.loss)
    if settings.reweight or any(settings.get(key) for key in ("consistency", "tripartite", "contrastive")):
        return False
    if method_of(settings) == LOADED:  # nobody knows what it was trained by
        return False
    return (loss, methods.name_of("ORDERS", settings.sampling)) == ("cross_entropy", "instance")


def _order(experiment: experiments.Experiment, form: Form, batch_size: int, seed: int) -> Callable[[int], Any]:
    """The order of the images that `sampling` names, in the rows of a form."""
    settings, labels = experiment.config.baseline, experiment.dataset.train.labels
    epochs = optim.epochs(settings, len(labels))
    epoch_order = methods.entry("ORDERS", settings.sampling, "config.baseline.sampling", {"epochs": epochs})
    order = orders.Order(labels, batch_size, seed, epoch_order=epoch_order)
    return form.order(experiment, order, batch_size, seed)


# An image and a loss; with experts the loss is theirs.


def _plain_start(experiment: experiments.Experiment, variables: dict[str, Any]) -> tuple[dict[str, Any], None]:
    return variables, None


def _plain_order(experiment: experiments.Experiment, order: Any, batch_size: int, seed: int) -> Any:
    return order


def _plain_step(experiment: experiments.Experiment, optimizer: Any) -> Callable[..., Any]:
    settings = experiment.config.baseline
    loss, method = _loss(settings), None
    if settings.experts > 1:
        loss = functools.partial(losses.ride, loss=loss, diversity=settings.diversity)
        method = "each"
    moving = settings.trainable == "all"  # few images would spoil the statistics of a pretrained encoder
    options = {"accumulate": settings.accumulate, "method": method, "moving": moving}
    return steps.classify(
        experiment.baseline, optimizer, settings.augment, loss, mix_of(settings, "baseline"), **options
    )


def _loss(settings: Any) -> Callable[..., Any]:
    return methods.entry("SUPERVISED", settings.loss, "config.baseline.loss")


def _with_projector(experiment: experiments.Experiment, variables: dict[str, Any]) -> dict[str, Any]:
    key = experiment.stream("baseline/projector")
    projector = models.initialise_head(experiment.beside_baseline, key, experiment.dataset.image_shape)
    return {**variables, "params": {**variables["params"], "projector": projector}}


# A loss, and a contrastive objective on further views: each row is the classified image, the anchor and its partners.


def _objective(settings: Any) -> methods.Objective:
    return methods.entry("CONTRASTIVE", settings.contrastive, "config.baseline.contrastive")


def _joint_start(experiment: experiments.Experiment, variables: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    settings = experiment.config.baseline
    variables = _with_projector(experiment, variables)
    width = settings.contrastive_projector[-1]
    return experiment.with_objective(variables, _objective(settings), "baseline", width)


def _joint_order(experiment: experiments.Experiment, order: Any, batch_size: int, seed: int) -> Any:
    labels, count = experiment.dataset.train.labels, _objective(experiment.config.baseline).partners
    return partners.PartnerOrder(labels, batch_size, count, seed, order, columns=2)


def _joint_step(experiment: experiments.Experiment, optimizer: Any) -> Callable[..., Any]:
    settings, projector = experiment.config.baseline, experiment.beside_baseline.head
    contrast = steps.Contrast(
        _objective(settings), projector, settings.contrastive_weight, settings.contrastive_augment
    )
    mix = mix_of(settings, "baseline")
    return steps.joint(experiment.baseline, optimizer, settings.augment, _loss(settings), mix, contrast)


# Two mixed views of each image that predict each other (GLMC).


def _modules_beside(experiment: experiments.Experiment) -> dict[str, Any]:
    projector = experiment.beside_baseline.head
    predictor = projectors.Projector(projector.widths[-1:], projector.dtype)
    return {"projector": projector, "predictor": predictor, "plain_head": experiment.baseline.head}


def _consistent_start(experiment: experiments.Experiment, variables: dict[str, Any]) -> tuple[dict[str, Any], None]:
    shape, modules = experiment.dataset.image_shape, _modules_beside(experiment)
    key = experiment.stream("baseline/predictor")
    width = modules["predictor"].widths[-1]
    params = {
        "projector": models.initialise_head(experiment.beside_baseline, experiment.stream("baseline/projector"), shape),
        "plain_head": models.initialise_head(experiment.baseline, experiment.stream("baseline/plain_head"), shape),
        "predictor": modules["predictor"].init(key, jnp.zeros((1, width)))["params"],
    }
    return {**variables, "params": {**variables["params"], **params}}, None


def _consistent_order(experiment: experiments.Experiment, order: Any, batch_size: int, seed: int) -> Any:
    return partners.PartnerOrder(experiment.dataset.train.labels, batch_size, 0, seed, order)


def _consistent_step(experiment: experiments.Experiment, optimizer: Any) -> Callable[..., Any]:
    settings = experiment.config.baseline
    total = fit.schedule(settings, len(experiment.dataset.train.labels)).steps
    parts = mixed_steps.Consistency(_modules_beside(experiment), settings.consistency, total)
    return mixed_steps.consistent(experiment.baseline, optimizer, settings.augment, parts)


# An image and two mixed views of it, with a memory of the last image of each class (BCE3S).


def _tripartite_start(experiment: experiments.Experiment, variables: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    width = experiment.config.baseline.contrastive_projector[-1]
    return _with_projector(experiment, variables), jnp.zeros((experiment.dataset.num_classes, width))


def _tripartite_step(experiment: experiments.Experiment, optimizer: Any) -> Callable[..., Any]:
    settings = experiment.config.baseline
    first_epoch = fit.schedule(settings, len(experiment.dataset.train.labels)).steps_per_epoch
    projector = experiment.beside_baseline.head
    parts = mixed_steps.Tripartite(projector, _loss(settings), settings.tripartite, 1.0, first_epoch)
    return mixed_steps.tripartite(experiment.baseline, optimizer, settings.augment, parts)


_PLAIN = Form(_plain_start, _plain_order, _plain_step, own_key=False)
_JOINT = Form(_joint_start, _joint_order, _joint_step, own_key=True)
_CONSISTENT = Form(_consistent_start, _consistent_order, _consistent_step, own_key=True)
_TRIPARTITE = Form(_tripartite_start, _plain_order, _tripartite_step, own_key=False)
