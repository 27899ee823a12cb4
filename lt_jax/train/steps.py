"""Pure training, evaluation and feature steps. A step is (state, data, batch) -> (state, metrics), ready for jit.

`data` is what stays on the device (the key of the stage's random numbers, images uint8, labels) and `batch` holds
positions in it; or `batch` holds images and labels itself, decoded and cropped on the host. All are arguments: a
closure would bake the images into the executable, and every seed would compile anew.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lt_jax import losses
from lt_jax.augment import policies
from lt_jax.augment import simclr as augment
from lt_jax.core import errors
from lt_jax.losses import negatives
from lt_jax.train import sharding, state

# Losses of both views of a batch, (2B, d) embeddings and (2B,) labels; the last two are there to compare with.
TWO_VIEW_LOSSES = {"official": losses.bns_official, "supcon": losses.supcon, "simclr": losses.simclr}

Metrics = dict[str, jax.Array]
Step = Callable[[state.TrainState, Any, Any], tuple[state.TrainState, Metrics]]


def pretrain(network: nn.Module, tx: optax.GradientTransformation, config: Any) -> Step:
    """One BNS step. batch: (B, 1 + m) positions, the anchor first; `config` is config.pretrain."""
    loss_of = _bns_loss if config.loss == "paper" else functools.partial(_two_view_loss, TWO_VIEW_LOSSES[config.loss])

    def step(current, data, batch):
        keys = _keys(data, current.step, 2)
        return _update(current, tx, lambda params: loss_of(network, current, params, data, batch, keys, config))

    return step


def _bns_loss(network, current, params, data, batch, keys, config):
    """The views of the anchors and of their partners go through one forward pass."""
    images, labels, is_cropped = _views(data, batch)
    b, columns = images.shape[:2]
    views = policies.apply(keys[0], images.reshape(-1, *images.shape[2:]), config.augment, is_cropped)
    embeddings, stats = _forward(network, current, params, views)
    embeddings = embeddings.reshape(b, columns, -1)
    queries, anchors_key = embeddings[:, :-1], embeddings[:, -1]
    loss = _over_negatives(queries, anchors_key, labels, keys[1], config).mean()
    some = slice(256 if config.ring else None)  # of all pairs a device would hold a (B, B) matrix
    intra, inter = losses.class_distances(anchors_key[some], labels[some])
    return loss, (stats, {"intra_class_distance": intra, "inter_class_distance": inter})


def _over_negatives(queries, keys, labels, key, config):
    """(B,): negatives drawn once for the global batch, or their mean; keys gathered, or sent round the devices."""
    own = jnp.arange(len(labels))
    if config.negatives == "expected":
        weights = negatives.expected(labels, labels, config.n)
        return losses.bns_expected(queries, keys, own, weights, config.temperature)
    drawn = negatives.sample(key, labels, labels, config.n)
    if not config.ring:
        return losses.bns(queries, keys, own, drawn, config.temperature)
    mesh = sharding.mesh(len(labels))
    ring = functools.partial(losses.bns_ring, temperature=config.temperature, axis=sharding.AXIS)
    return sharding.per_device(ring, mesh)(queries, keys, own, drawn)


def _two_view_loss(loss_of, network, current, params, data, batch, keys, config):
    """One forward pass a view, so that BatchNorm statistics are those of the view."""
    images, labels, is_cropped = _views(data, batch)
    views = [policies.apply(keys[i], images[:, -i], config.augment, is_cropped) for i in (0, 1)]
    first, stats = _forward(network, current, params, views[0])
    current = current.replace(batch_stats=stats)
    second, stats = _forward(network, current, params, views[1])
    embeddings, both = jnp.concatenate([first, second]), jnp.concatenate([labels, labels])
    loss = loss_of(embeddings, both, config.temperature).mean()
    intra, inter = losses.class_distances(second, labels)
    return loss, (stats, {"intra_class_distance": intra, "inter_class_distance": inter})


def classify(
    network: nn.Module,
    tx: optax.GradientTransformation,
    options: Any,
    moving: bool = True,
    accumulate: int = 1,
    log_prior: np.ndarray | None = None,
) -> Step:
    """One step of cross-entropy, or of the balanced softmax. batch: (B,) positions.

    Args:
      options: of the augmentation.
      moving: BatchNorm normalises by the batch and updates its running statistics, also under a frozen encoder;
        otherwise it normalises by the running statistics and keeps them.
      log_prior: (C,) log share of each class, for the balanced softmax; None is cross-entropy.
      accumulate: parts of the batch that go through the network one after the other; BatchNorm sees one at a time.
    """

    prior = 0.0 if log_prior is None else log_prior[None, :]

    def step(current, data, batch):
        k_augment, k_mix = _keys(data, current.step, 2)
        images, labels, is_cropped = _take(data, batch)
        images = policies.apply(k_augment, images, options, is_cropped)
        images, second_labels, weight = policies.mix(k_mix, images, labels, options.mix)

        def loss_of(params, batch_stats, part):
            images, labels, second_labels, weight = part
            logits, stats = _forward(network, current.replace(batch_stats=batch_stats), params, images, moving)
            accuracy = (logits.argmax(-1) == labels).mean()
            logits = logits.astype(jnp.float32) + prior
            each = losses.cross_entropy(logits, labels)
            if options.mix:
                each = weight * each + (1 - weight) * losses.cross_entropy(logits, second_labels)
            return each.mean(), (stats, {"accuracy": accuracy})

        parts = (images, labels, second_labels, weight)
        if accumulate == 1:
            return _update(current, tx, lambda params: loss_of(params, current.batch_stats, parts))
        return _apply(current, tx, *_accumulated(loss_of, current, parts, accumulate))

    return step


def _accumulated(loss_of, current, batch, count):
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
    (total, stats), outputs = jax.lax.scan(add, (zero, current.batch_stats), parts)
    loss, metrics = jax.tree.map(jnp.mean, outputs)
    return (loss, (stats, metrics)), jax.tree.map(lambda x: x / count, total)


def infer(network: nn.Module) -> Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """(variables, uint8 images) -> (features, logits) on clean images in evaluation mode."""

    def step(variables, images):
        features = network.apply(variables, augment.to_float(images), method="features")
        return features, network.apply({"params": variables["params"]}, features, method=lambda m, x: m.head(x))

    return step


def _take(data, batch):
    """(images, labels, whether they are cropped already): taken from the device, or come with the batch."""
    if isinstance(batch, dict):
        return batch["images"], batch["labels"], True
    return data["images"][batch], data["labels"][batch], False


def _views(data, batch):
    """As `_take`; images (b, 1 + m + 1, h, w, c): queries of the anchor and its partners, then the anchor's key."""
    images, labels, is_cropped = _take(data, batch)
    if not is_cropped:
        images, labels = jnp.concatenate([images, images[:, :1]], axis=1), labels[:, 0]
    return images, labels, is_cropped


def _forward(network, current, params, images, moving=True):
    variables = current.replace(params=params).variables()
    if not moving:
        return network.apply(variables, images), current.batch_stats
    out, changed = network.apply(variables, images, train=True, mutable=["batch_stats"])
    return out, changed.get("batch_stats", current.batch_stats)  # an encoder may have none


def _update(current, tx, loss_of):
    return _apply(current, tx, *jax.value_and_grad(loss_of, has_aux=True)(current.params))


def _apply(current, tx, value, gradients):
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


def _keys(data: dict[str, jax.Array], step: jax.Array, count: int) -> jax.Array:
    return jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(data["key"]), step), count)
