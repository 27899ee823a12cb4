"""Classifiers on fixed features: linear or cosine, with or without the help of clusters; and class means.

Plain:          logits = A x + B x            (two layers, as released; the sum is linear)
Cluster-aided:  logits = A x + B [x ; P(class | cluster of x)]

Source: the released code of arXiv 2208.02567; balanced softmax is that of Ren et al. (NeurIPS 2020).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import errors, losses
from lt_jax.data import pipeline
from lt_jax.dlsa import batches

_NEVER = -1e30  # log count of a class without items, and logit of a class that a classifier has never seen
_COSINE_SCALE = 16.0  # at first; it is learnt

KINDS = ("linear", "cosine")
LOSSES = ("balanced_softmax", "cross_entropy")
SAMPLINGS = ("instance", "class_aware")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "mean", "deviation", "seen"], meta_fields=["kind"]
)
@dataclasses.dataclass(frozen=True)
class Classifier:
    """Fitted weights, the standardisation of its input, and the classes (C,) that it was trained on."""

    params: dict[str, jax.Array]
    mean: jax.Array
    deviation: jax.Array
    seen: jax.Array
    kind: str

    def __call__(self, x: jax.Array, help: jax.Array | None = None) -> jax.Array:
        """x (B, D), help (B, C) where trained with it -> logits (B, C); a class never seen is never chosen."""
        x = (x - self.mean[None, :]) / self.deviation[None, :]
        return jnp.where(self.seen[None, :], raw_logits(self.params, x, help, self.kind), _NEVER)


def raw_logits(params: dict[str, jax.Array], x: jax.Array, help: jax.Array | None, kind: str) -> jax.Array:
    """A x + B [x ; help], each product a cosine times a learnt scale where `kind` is cosine."""
    wide = x if help is None else jnp.concatenate([x, help], axis=1)
    if kind == "linear":
        products = jnp.dot(x, params["a"], precision=losses.PRECISION) + jnp.dot(
            wide, params["b"], precision=losses.PRECISION
        )
        return products + params["bias"][None, :]
    return params["scale"] * (_cosine(x, params["a"]) + _cosine(wide, params["b"])) + params["bias"][None, :]


def _cosine(x, kernel):
    unit = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return jnp.dot(
        unit, kernel / jnp.maximum(jnp.linalg.norm(kernel, axis=0), 1e-6)[None, :], precision=losses.PRECISION
    )


def balanced_softmax(logits: jax.Array, labels: jax.Array, counts: jax.Array) -> jax.Array:
    """-log softmax(logits + log counts)[label]: logits (B, C), counts (C,) items of each class -> (B,)."""
    prior = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1.0)), _NEVER)
    return losses.cross_entropy(logits + prior[None, :], labels)


def fit(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, positions: np.ndarray, counts: np.ndarray, config: Any,
    help: np.ndarray | None = None,
) -> Classifier:  # fmt: skip
    """SGD with momentum as configured, on the items at `positions`.

    Args:
      features: (N, D); labels: (N,); positions: (n,).
      counts: (C,) items of each class, for the prior of the balanced softmax.
      config: the `classifier` part of configs/dlsa_*.py.
      help: (n, C) P(class | cluster) of the items at `positions`, or None.

    Raises:
      RunFailed: the loss is no longer finite.
    """
    k_init, k_order = jax.random.split(key)
    mean, deviation = batches.moments(features, positions)
    width, classes = features.shape[1], len(counts)
    own = np.bincount(labels[positions], minlength=classes)
    seen = own > 0
    prior = np.where(seen, counts, 0) if config.loss == "balanced_softmax" else seen.astype(int)
    params = _init(k_init, width, classes, help is not None, config.kind)
    carry = {"params": params, "velocity": jax.tree.map(jnp.zeros_like, params), "loss": jnp.zeros(())}
    constants = {"mean": mean, "deviation": deviation, "prior": jnp.asarray(prior, jnp.float32)}
    scan = batches.compiled_scan(_step, (config.kind, config.learning_rate, config.momentum, config.weight_decay))
    rng = batches.generator(k_order)

    def rows(chosen):
        x = np.asarray(features[positions[chosen].reshape(-1)], np.float32).reshape(*chosen.shape, -1)
        return x, labels[positions[chosen]], None if help is None else help[chosen]

    for _ in range(config.epochs):
        carry = batches.run(scan, carry, constants, rows, _order(rng, labels[positions], config))
    if not np.isfinite(float(carry["loss"])):
        raise errors.RunFailed(
            "dlsa: the loss of a classifier is not finite; lower config.dlsa.classifier.learning_rate"
        )
    return Classifier(carry["params"], mean, deviation, jnp.asarray(seen), config.kind)


def nearest_class_mean(features: np.ndarray, labels: np.ndarray, test: np.ndarray, num_classes: int) -> np.ndarray:
    """Cosine to the mean of each class, (n, C); a class without items has the lowest value there is."""

    def unit(x):
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    centre = features.mean(axis=0)
    x, test = unit(features - centre), unit(test - centre)
    means = np.stack([x[labels == c].mean(axis=0) if (labels == c).any() else 0 * x[0] for c in range(num_classes)])
    return np.where(np.isin(np.arange(num_classes), labels)[None], test @ unit(means).T, -2.0)


def _step(static, constants, carry, batch):
    kind, learning_rate, momentum, weight_decay = static
    x, labels, help = batch
    x = (x - constants["mean"][None, :]) / constants["deviation"][None, :]

    def loss_of(params):
        return balanced_softmax(raw_logits(params, x, help, kind), labels, constants["prior"]).mean()

    loss, gradients = jax.value_and_grad(loss_of)(carry["params"])
    decayed = jax.tree.map(lambda g, p: g + weight_decay * p, gradients, carry["params"])
    velocity = jax.tree.map(lambda v, g: momentum * v + g, carry["velocity"], decayed)
    params = jax.tree.map(lambda p, v: p - learning_rate * v, carry["params"], velocity)
    return {"params": params, "velocity": velocity, "loss": loss}


def _order(rng, labels, config):
    """Positions of one epoch, (steps, B): a permutation, a little of it repeated in the last batch, or class-aware."""
    size = min(config.batch_size, len(labels))
    shape = (math.ceil(len(labels) / size), size)
    if config.sampling == "class_aware":
        present = np.unique(labels)
        return pipeline.one_of_each(rng, present[rng.integers(0, len(present), shape)], labels)
    order = rng.permutation(len(labels))
    return np.resize(order, shape)


def _init(key, width, classes, helped, kind):
    k_a, k_b = jax.random.split(key)

    def uniform(key, rows):
        return jax.random.uniform(key, (rows, classes), minval=-(rows**-0.5), maxval=rows**-0.5)

    params = {"a": uniform(k_a, width), "b": uniform(k_b, width + classes * helped), "bias": jnp.zeros(classes)}
    return {**params, "scale": jnp.asarray(_COSINE_SCALE)} if kind == "cosine" else params
