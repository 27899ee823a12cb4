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
import optax

from lt_jax import losses
from lt_jax.core import errors
from lt_jax.dlsa import batches, heads, sampling, scaling
from lt_jax.dlsa.heads import raw_logits

_NEVER = -1e30  # logit of a class without training items
_ALMOST_NO_ITEM = 1e-6  # added to the counts in the released form, where every class is possible

KINDS = heads.KINDS
LOSSES = {"balanced_softmax": losses.balanced_softmax, "cross_entropy": losses.cross_entropy}
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
    seen, classes = _seen_and_classes(np.bincount(labels[positions], minlength=len(counts)), counts, config)
    rates = (config.learning_rate, config.momentum, config.weight_decay)
    carry = {"params": params, "opt_state": _optimizer(*rates).init(params), "loss": jnp.zeros(())}
    constants = {"scaling": scaled, "classes": classes, "seen": jnp.asarray(seen)}
    scan = batches.compiled_scan(_step, (config.kind, config.loss, config.get("label_smoothing", 0.0), *rates))

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


def _seen_and_classes(own: np.ndarray, counts: np.ndarray, config: Any) -> tuple[Any, ...]:
    """Mask (C,) of the classes that may be predicted, and what the loss knows of the classes.

    Args:
      own: (C,) training items of each class; counts: (C,) those of the prior.
    """
    if config.get("unseen", "never") == "possible":
        shifted = np.asarray(counts + _ALMOST_NO_ITEM, np.float32)
        return np.ones(len(own), bool), losses.Classes(shifted, np.log(shifted), np.ones_like(shifted))
    seen = own > 0
    return seen, losses.Classes.of(np.where(seen, counts, 0))


def _optimizer(learning_rate: float, momentum: float, weight_decay: float) -> Any:
    """SGD with momentum and coupled weight decay on all parameters, as torch.optim.SGD."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum))


def _step(
    static: tuple[Any, ...], constants: dict[str, Any], carry: dict[str, Any], batch: tuple[Any, ...]
) -> dict[str, Any]:
    kind, loss_name, smoothing, *rates = static
    x, labels, help = batch
    x = scaling.apply(x, *constants["scaling"])

    def loss_of(params):
        logits = jnp.where(constants["seen"][None, :], raw_logits(params, x, help, kind), _NEVER)
        return LOSSES[loss_name](logits, labels, constants["classes"], smoothing=smoothing).mean()

    loss, gradients = jax.value_and_grad(loss_of)(carry["params"])
    updates, opt_state = _optimizer(*rates).update(gradients, carry["opt_state"], carry["params"])
    return {"params": optax.apply_updates(carry["params"], updates), "opt_state": opt_state, "loss": loss}
