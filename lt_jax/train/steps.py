"""Pure training, evaluation and feature steps. A step is (state, data, batch) -> (state, metrics), ready for jit.

`data` is what stays on the device (the key of the stage's random numbers, `losses.Classes`, images uint8, labels) and
`batch` holds positions in it; or `batch` holds images and labels itself, decoded and cropped on the host. All are
arguments: a closure would bake the images into the executable, and every seed would compile anew.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lt_jax import augment, losses
from lt_jax.augment import simclr
from lt_jax.core import errors
from lt_jax.train import state

_DISTANCES = 1024  # anchors whose distances are measured: of all pairs of a larger batch a device would hold too much

Metrics = dict[str, jax.Array]
Step = Callable[[state.TrainState, Any, Any], tuple[state.TrainState, Metrics]]


def pretrain(network: nn.Module, tx: optax.GradientTransformation, objective: Any, augment_options: Any) -> Step:
    """One step of contrastive pretraining. batch: (B, 1 + m) positions, the anchor first.

    Args:
      network: images -> l2-normalised embeddings.
      tx: the optimizer.
      objective: an entry of `lt_jax.methods.CONTRASTIVE`.
      augment_options: of the augmentation.
    """
    embed = _in_one_pass if objective.one_pass else _view_by_view

    def step(current, data, batch):
        *keys, k_loss = step_keys(data, current.step, 3)
        images, labels, is_cropped = take_views(data, batch)

        def loss_of(params):
            views, stats = embed(network, current, params, images, keys, augment_options, is_cropped)
            own = params.get("objective", {})
            each, memory = objective.loss(own, views, labels, data["classes"], k_loss, current.memory)
            intra, inter = losses.class_distances(views[:_DISTANCES, -1], labels[:_DISTANCES])
            return each.mean(), (stats, {"intra_class_distance": intra, "inter_class_distance": inter}, memory)

        return update_with_memory(current, tx, loss_of)

    return step


def _in_one_pass(
    network: Any,
    current: state.TrainState,
    params: dict[str, Any],
    images: jax.Array,
    keys: list[Any],
    options: Any,
    is_cropped: bool,
) -> tuple[Any, ...]:
    """Embeddings (B, V, d) of images (B, V, h, w, c); BatchNorm sees all views as one batch."""
    b, columns = images.shape[:2]
    views = augment.apply(keys[0], images.reshape(-1, *images.shape[2:]), options, is_cropped)
    embeddings, stats = run_network(network, current, params, views)
    return embeddings.reshape(b, columns, -1), stats


def _view_by_view(
    network: Any,
    current: state.TrainState,
    params: dict[str, Any],
    images: jax.Array,
    keys: list[Any],
    options: Any,
    is_cropped: bool,
) -> tuple[Any, ...]:
    """Embeddings (B, 2, d) of images (B, 2, h, w, c); BatchNorm sees one view at a time."""
    embeddings = []
    stats = current.batch_stats
    for view in (0, 1):
        augmented = augment.apply(keys[view], images[:, view], options, is_cropped)
        embedded, stats = run_network(network, current.replace(batch_stats=stats), params, augmented)
        embeddings.append(embedded)
    return jnp.stack(embeddings, axis=1), stats


def classify(
    network: nn.Module,
    tx: optax.GradientTransformation,
    options: Any,
    loss: Callable[..., jax.Array] = losses.cross_entropy,
    mix: Callable[..., Any] | None = None,
    moving: bool = True,
    accumulate: int = 1,
    method: str | None = None,
) -> Step:
    """One step of a classifier. batch: (B,) positions.

    Args:
      network: images -> logits.
      tx: the optimizer.
      options: of the augmentation.
      loss: an entry of `lt_jax.methods.SUPERVISED`.
      mix: an entry of `lt_jax.methods.MIXES`; None mixes nothing.
      moving: BatchNorm normalises by the batch and updates its running statistics, also under a frozen encoder;
        otherwise it normalises by the running statistics and keeps them.
      accumulate: parts of the batch that go through the network one after the other; BatchNorm sees one at a time.
      method: of the network; "each" gives the loss the logits (B, E, C) of all experts.
    """

    def step(current, data, batch):
        k_augment, k_mix, k_loss = step_keys(data, current.step, 3)
        images, labels, is_cropped = take(data, batch)
        images = augment.apply(k_augment, images, options, is_cropped)
        targets = labels
        if mix is not None:
            images, targets = _mixed(mix, k_mix, images, labels, data["classes"])

        def loss_of(params, batch_stats, part):
            images, labels, targets, row = part
            logits, stats = run_network(
                network, current.replace(batch_stats=batch_stats), params, images, moving, method
            )
            mean = logits if logits.ndim == 2 else logits.mean(axis=1)
            accuracy = (mean.argmax(-1) == labels).mean()
            each = loss(logits, targets, data["classes"], key=jax.random.fold_in(k_loss, row[0]))
            mean_loss = (_weight(targets, data["classes"].weights) * each).sum() / weight_of_part
            return mean_loss, (stats, {"accuracy": accuracy})

        weight_of_part = _weight(targets, data["classes"].weights).sum() / accumulate  # the mean over the parts
        parts = (images, labels, targets, jnp.arange(len(labels)))
        if accumulate == 1:
            return update(current, tx, lambda params: loss_of(params, current.batch_stats, parts))
        return _apply(current, tx, *_accumulated(loss_of, current, parts, accumulate))

    return step


@dataclasses.dataclass(frozen=True)
class Contrast:
    """What a contrastive objective adds to the training of a classifier.

    Attributes:
      objective: an entry of `lt_jax.methods.CONTRASTIVE`.
      projector: features -> l2-normalised embeddings, with parameters params["projector"].
      weight: of its loss beside that of the classifier.
      options: of the augmentation of its views.
    """

    objective: Any
    projector: nn.Module
    weight: float
    options: Any


def joint(
    network: nn.Module,
    tx: optax.GradientTransformation,
    options: Any,
    loss: Callable[..., jax.Array],
    mix: Callable[..., Any] | None,
    contrast: Contrast,
) -> Step:
    """One step of a classifier that a contrastive objective trains too. batch: (B, 2 + m) positions.

    The first column is the image that is classified, the others are the anchor and its partners. All views go through
    the network together, so that BatchNorm sees them as one batch.

    Args:
      network: images -> logits.
      tx: the optimizer.
      options: of the augmentation of the classified view.
      loss: an entry of `lt_jax.methods.SUPERVISED`.
      mix: an entry of `lt_jax.methods.MIXES`, of the classified view; None mixes nothing.
      contrast: the objective and what it sees.
    """

    def step(current, data, batch):
        k_augment, k_mix, k_loss, k_views, k_objective = step_keys(data, current.step, 5)
        images, labels, is_cropped = take_views(data, batch)
        classes, (b, columns) = data["classes"], images.shape[:2]
        classified, targets = augment.apply(k_augment, images[:, 0], options, is_cropped), labels
        if mix is not None:
            classified, targets = _mixed(mix, k_mix, classified, labels, classes)
        views = images[:, 1:].reshape(-1, *images.shape[2:])
        views = augment.apply(k_views, views, contrast.options, is_cropped).reshape(b, columns - 1, *images.shape[2:])
        stacked = jnp.concatenate([classified[:, None], views], axis=1).reshape(-1, *images.shape[2:])

        def loss_of(params):
            features, stats = run_network(network, current, params, stacked, method="features")
            features = features.reshape(b, columns, -1)
            logits = apply_head(network, params, features[:, 0])
            embeddings = contrast.projector.apply({"params": params["projector"]}, features[:, 1:])
            each = loss(logits, targets, classes, key=k_loss)
            own = params.get("objective", {})
            pairs, memory = contrast.objective.loss(own, embeddings, labels, classes, k_objective, current.memory)
            classification, contrastive = _weighted_mean(each, targets, classes.weights), pairs.mean()
            metrics = {"accuracy": (logits.argmax(-1) == labels).mean(), "contrastive_loss": contrastive}
            return classification + contrast.weight * contrastive, (stats, metrics, memory)

        return update_with_memory(current, tx, loss_of)

    return step


def _weighted_mean(each: Any, targets: Any, weights: Any) -> Any:
    """Mean of (B,) losses by the weights (C,) of their classes, as torch's `CrossEntropyLoss(weight=...)` takes it."""
    weight = _weight(targets, weights)
    return (weight * each).sum() / weight.sum()


def _weight(targets: Any, weights: Any) -> Any:
    """Weights (B,) of images with labels (B,) or (B, C), by the weights (C,) of the classes."""
    return weights[targets] if targets.ndim == 1 else targets @ weights


def _mixed(mix: Any, key: Any, images: Any, labels: np.ndarray, classes: Any) -> Any:
    """Images mixed with other images of the batch, and their labels (B, C)."""
    k_partner, k_mix = jax.random.split(key)
    partner = jax.random.permutation(k_partner, len(labels))
    targets = jax.nn.one_hot(labels, len(classes.counts))
    return mix(k_mix, (images, targets), (images[partner], targets[partner]), classes)


def _accumulated(loss_of: Any, current: Any, batch: Any, count: Any) -> Any:
    """As jax.value_and_grad over the whole batch, in `count` parts: every count-th row, so that devices keep theirs."""
    size = batch[0].shape[0]
    if size % count:
        raise errors.BadInput(f"accumulate: expected a divisor of the batch of {size}, found {count}")
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

    def add(carry, part):
        gradients, stats = carry
        (loss, (stats, metrics)), more = jax.value_and_grad(loss_of, has_aux=True)(current.params, stats, part)
        return (jax.tree.map(jnp.add, gradients, more), stats), (loss, metrics)

    zero = jax.tree.map(jnp.zeros_like, current.params)
    # On a CPU the gradient of a convolution takes 16 to 26 times as long inside a loop of XLA.
    unroll = jax.default_backend() == "cpu"
    (total, stats), outputs = jax.lax.scan(add, (zero, current.batch_stats), parts, unroll=unroll)
    loss, metrics = jax.tree.map(jnp.mean, outputs)
    return (loss, (stats, metrics)), jax.tree.map(lambda x: x / count, total)


def infer(network: nn.Module) -> Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """(variables, uint8 images) -> (features, logits) on clean images in evaluation mode."""

    def step(variables, images):
        features = network.apply(variables, simclr.to_float(images), method="features")
        return features, apply_head(network, variables["params"], features)

    return step


def apply_head(network: nn.Module, params: dict[str, Any], features: jax.Array) -> Any:
    """Logits of features."""
    return network.apply({"params": params}, features, method=lambda m, x: m.head(x))


def take(data: dict[str, Any], batch: Any) -> tuple[Any, ...]:
    """(images, labels, whether they are cropped already): taken from the device, or come with the batch."""
    if isinstance(batch, dict):
        return batch["images"], batch["labels"], True
    return data["images"][batch], data["labels"][batch], False


def take_views(data: dict[str, Any], batch: jax.Array) -> tuple[Any, ...]:
    """As `take`; images (b, 1 + m + 1, h, w, c): queries of the anchor and its partners, then the anchor's key."""
    images, labels, is_cropped = take(data, batch)
    if not is_cropped:
        images, labels = jnp.concatenate([images, images[:, :1]], axis=1), labels[:, 0]
    return images, labels, is_cropped


def run_network(
    network: Any,
    current: state.TrainState,
    params: dict[str, Any],
    images: jax.Array,
    moving: bool = True,
    method: str | None = None,
) -> tuple[Any, ...]:
    """(outputs of the network, its BatchNorm statistics after them); with `moving` in training mode."""
    variables = current.replace(params=params).variables()
    if not moving:
        return network.apply(variables, images, method=method), current.batch_stats
    out, changed = network.apply(variables, images, train=True, mutable=["batch_stats"], method=method)
    return out, changed.get("batch_stats", current.batch_stats)  # an encoder may have none


def update(current: state.TrainState, tx: Any, loss_of: Callable[..., Any]) -> tuple[Any, ...]:
    """(the state after a step, metrics) of a loss `params -> (loss, (batch statistics, metrics))`."""
    return _apply(current, tx, *jax.value_and_grad(loss_of, has_aux=True)(current.params))


def update_with_memory(current: state.TrainState, tx: Any, loss_of: Callable[..., Any]) -> tuple[Any, ...]:
    """As `update`, of a loss that also returns what its objective carries to the next step."""
    (loss, (*aux, memory)), gradients = jax.value_and_grad(loss_of, has_aux=True)(current.params)
    return _apply(current.replace(memory=memory), tx, (loss, tuple(aux)), gradients)


def _apply(current: state.TrainState, tx: Any, value: tuple[Any, ...], gradients: dict[str, Any]) -> tuple[Any, ...]:
    loss, (stats, metrics) = value
    updates, opt_state = tx.update(gradients, current.opt_state, current.params)
    norm = optax.global_norm(gradients)
    is_bad = (current.bad_step < 0) & ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    params = optax.apply_updates(current.params, updates)
    new = current.replace(
        step=current.step + 1,
        params=params,
        batch_stats=stats,
        opt_state=opt_state,
        average=state.moved_average(current, params, stats),
        bad_step=jnp.where(is_bad, current.step, current.bad_step),
    )
    return new, {"loss": loss, "gradient_norm": norm, **metrics}


def step_keys(data: dict[str, jax.Array], step: jax.Array, count: int) -> jax.Array:
    """As many rng keys as a step needs, from the key of the stage."""
    return jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(data["key"]), step), count)
