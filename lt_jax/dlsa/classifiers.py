"""Classifiers on fixed features, with or without cluster information; and class means.

Plain:          logits = A x + B x            (two layers, as released; the sum of two linear layers is linear)
Cluster-aided:  logits = A x + B [x ; P(class | cluster of x)]

Source: the released code of arXiv 2208.02567; balanced softmax is that of Ren et al. (NeurIPS 2020).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses
from lt_jax.core import errors
from lt_jax.dlsa import batches, heads, sampling, scaling
from lt_jax.dlsa.heads import raw_logits

_NEVER = -1e30  # log count of a class without items, and logit of a class without training items
_ALMOST_NO_ITEM = 1e-6  # added to the counts in the released form, where every class is possible

KINDS = heads.KINDS
LOSSES = ("balanced_softmax", "cross_entropy")
UNSEEN = ("never", "possible")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "mean", "deviation", "seen", "unit"],
    meta_fields=["kind"],
)
@dataclasses.dataclass(frozen=True)
class Classifier:
    """Fitted weights, the scaling of the input, and the mask (C,) of the classes that it may predict."""

    params: dict[str, jax.Array]
    mean: jax.Array
    deviation: jax.Array
    seen: jax.Array
    kind: str
    unit: jax.Array | None = None

    def __call__(self, x: jax.Array, help: jax.Array | None = None) -> jax.Array:
        """Logits (B, C) of x (B, D), with help (B, C) if trained with it."""
        x = scaling.apply(x, self.mean, self.deviation, self.unit)
        return jnp.where(self.seen[None, :], raw_logits(self.params, x, help, self.kind), _NEVER)


def balanced_softmax(logits: jax.Array, labels: jax.Array, counts: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """-log softmax(logits + log counts)[label]: logits (B, C), counts (C,) items of each class -> (B,).

    With `smoothing` s the label has weight 1 - s; the n - 1 other classes with items have s / (n - 1) each.
    """
    present = counts > 0
    prior = jnp.where(present, jnp.log(jnp.where(present, counts, 1.0)), _NEVER)
    shifted = logits + prior[None, :]
    hard = losses.cross_entropy(shifted, labels)
    if not smoothing:
        return hard
    total = -jnp.where(present[None, :], jax.nn.log_softmax(shifted, axis=1), 0.0).sum(axis=1)
    return (1 - smoothing) * hard + smoothing * (total - hard) / jnp.maximum(present.sum() - 1, 1)


def fit(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, positions: np.ndarray, counts: np.ndarray, config: Any,
    help: np.ndarray | None = None, initial: dict[str, Any] | None = None,
) -> Classifier:  # fmt: skip
    """Trains a classifier by SGD with momentum on the items at `positions`; returns that of the last epoch.

    Args:
      features: (N, D); labels: (N,); positions: (n,).
      counts: (C,) items of each class, for the prior of the balanced softmax.
      config: the `classifier` block of configs/dlsa_*.py.
      help: (n, C) P(class | cluster) of the items at `positions`, or None.
      initial: a trained linear head, kernel (D, C) and bias (C,), that initialises A; None is random.

    Raises:
      BadInput: `initial` is missing although the config needs it, or has the wrong shape.
      RunFailed: loss or weights are no longer finite.
    """
    if config.get("start", "random") == "backbone" and initial is None:
        raise errors.BadInput(
            "config.dlsa.classifier.start: 'backbone' needs a trained linear head on these features, and there is "
            "none; use features of an encoder, give dlsa.fit an `initial` head, or set it to random"
        )
    k_init, k_order = jax.random.split(key)
    scaled = scaling.fit(features, positions, config.get("standardise", "coordinates"), "classifier.standardise")
    params = heads.create(
        k_init, features.shape[1], len(counts), help is not None, config.kind, config.get("hidden", 0)
    )
    if initial is not None:
        params = heads.start_from(params, initial, scaled, config.kind)
    seen, prior = _seen_and_prior(np.bincount(labels[positions], minlength=len(counts)), counts, config)
    carry = {"params": params, "velocity": jax.tree.map(jnp.zeros_like, params), "loss": jnp.zeros(())}
    constants = {"scaling": scaled, "prior": jnp.asarray(prior, jnp.float32)}
    smoothing = config.get("label_smoothing", 0.0)
    scan = batches.compiled_scan(
        _step, (config.kind, config.learning_rate, config.momentum, config.weight_decay, smoothing)
    )

    def rows(chosen):
        x = np.asarray(features[positions[chosen].reshape(-1)], np.float32).reshape(*chosen.shape, -1)
        return x, labels[positions[chosen]], None if help is None else help[chosen]

    for order in sampling.epochs(batches.generator(k_order), labels[positions], config):
        carry = batches.run(scan, carry, constants, rows, order)
    if not batches.all_finite((carry["loss"], carry["params"])):
        raise errors.RunFailed(
            "dlsa: the loss of a classifier is not finite; lower config.dlsa.classifier.learning_rate, "
            f"found {config.learning_rate}"
        )
    mean, deviation, unit = scaled
    return Classifier(carry["params"], mean, deviation, jnp.asarray(seen), config.kind, unit)


def nearest_class_mean(features: np.ndarray, labels: np.ndarray, test: np.ndarray, num_classes: int) -> np.ndarray:
    """Cosine to the mean of each class, (n, C); -2 for a class without items."""

    def unit(x):
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    centre = features.mean(axis=0)
    x, test = unit(features - centre), unit(test - centre)
    means = np.stack([x[labels == c].mean(axis=0) if (labels == c).any() else 0 * x[0] for c in range(num_classes)])
    return np.where(np.isin(np.arange(num_classes), labels)[None], test @ unit(means).T, -2.0)


def _seen_and_prior(own, counts, config):
    """Mask (C,) of the classes that may be predicted, and the counts (C,) of the loss; 0 excludes a class.

    Args:
      own: (C,) training items of each class; counts: (C,) those of the prior.
    """
    is_balanced = config.loss == "balanced_softmax"
    if config.get("unseen", "never") == "possible":
        return np.ones(len(own), bool), counts + _ALMOST_NO_ITEM if is_balanced else np.ones(len(own))
    seen = own > 0
    return seen, np.where(seen, counts, 0) if is_balanced else seen.astype(int)


def _step(static, constants, carry, batch):
    kind, learning_rate, momentum, weight_decay, smoothing = static
    x, labels, help = batch
    x = scaling.apply(x, *constants["scaling"])

    def loss_of(params):
        return balanced_softmax(raw_logits(params, x, help, kind), labels, constants["prior"], smoothing).mean()

    loss, gradients = jax.value_and_grad(loss_of)(carry["params"])
    decayed = jax.tree.map(lambda g, p: g + weight_decay * p, gradients, carry["params"])
    velocity = jax.tree.map(lambda v, g: momentum * v + g, carry["velocity"], decayed)
    params = jax.tree.map(lambda p, v: p - learning_rate * v, carry["params"], velocity)
    return {"params": params, "velocity": velocity, "loss": loss}
