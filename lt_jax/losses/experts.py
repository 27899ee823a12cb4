"""The loss of several experts on one trunk (RIDE)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lt_jax.losses import classification

_REWEIGHTED = 0.05  # how far the temperatures of the classes follow their shares


def ride(
    logits: jax.Array,
    labels: jax.Array,
    classes: classification.Classes,
    *,
    loss: Callable[..., jax.Array],
    diversity: float,
    key: jax.Array | None = None,
) -> jax.Array:
    """Loss of experts that each classify, and are rewarded for differing from their mean.

        L = sum_e [ loss(z_e) - diversity mean(T)^2 KL( softmax(mean_e z_e / T) || softmax(z_e / T) ) ]

    The mean is a constant for the gradient. T is 1 for each class; once classes are re-weighted (DRW), it is smaller
    for rare classes: T_c is proportional to 0.95 + 0.05 C n_c / n, and at most 1.

    Source: Wang et al., "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts" (ICLR 2021), and its
    released code.

    Args:
      logits: (B, E, C) of E experts.
      labels: (B,) or (B, C).
      classes: of the training set; weights other than 1 switch the temperatures of the classes on.
      loss: an entry of `lt_jax.methods.SUPERVISED`, of each expert.
      diversity: weight of the second term.
      key: of the loss.

    Returns:
      (B,) float32.
    """
    logits = logits.astype(jnp.float32)
    experts = logits.shape[1]
    keys = [None] * experts if key is None else list(jax.random.split(key, experts))
    each = sum(loss(logits[:, e], labels, classes, key=keys[e]) for e in range(experts))
    temperatures = _temperatures(classes)[None, None, :]
    mean = jax.lax.stop_gradient(jax.nn.log_softmax(logits.mean(axis=1, keepdims=True) / temperatures))
    divergence = (jnp.exp(mean) * (mean - jax.nn.log_softmax(logits / temperatures))).sum(axis=(1, 2))
    return each - diversity * temperatures.mean() ** 2 * divergence


def _temperatures(classes: classification.Classes) -> jax.Array:
    """(C,) temperatures of the classes."""
    shares = len(classes.counts) * classes.counts / classes.counts.sum()
    scaled = 1.0 - _REWEIGHTED + _REWEIGHTED * shares
    is_deferred = (classes.weights != 1.0).any()
    return jnp.where(is_deferred, scaled / scaled.max(), jnp.ones_like(scaled))
