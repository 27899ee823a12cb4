"""Losses of networks with several heads: experts on one trunk (RIDE), a plain and a re-weighted head (GLMC)."""

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
    for rare classes: T_c is proportional to 0.95 + 0.05 C n_c / n, and at most 1. A step weighs the whole L of an image
    by the weight of its class, the second term included.

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


def cumulative(
    plain: jax.Array, reweighted: jax.Array, labels: jax.Array, classes: classification.Classes, progress: jax.Array
) -> jax.Array:
    """Cumulative learning: from the loss of a plain head to that of a head with re-weighted labels.

        L = -sum_c [ (1 - s^2) y_c log softmax(z)_c + s^2 w_c y_c log softmax(z')_c ],   w_c proportional to 1 / n_c

    s goes from 0 to 1 during training; w has mean 1 over the classes with images.

    Source: Du et al., "Global and Local Mixture Consistency Cumulative Learning for Long-Tailed Visual Recognitions"
    (CVPR 2023).

    Args:
      plain: (B, C) logits z.
      reweighted: (B, C) logits z', of the head that is used afterwards.
      labels: (B, C) probabilities.
      classes: their counts give the weights.
      progress: () s in [0, 1].

    Returns:
      (B,) float32.
    """
    inverse = jnp.where(classes.counts > 0, 1.0 / jnp.maximum(classes.counts, 1.0), 0.0)
    weights = inverse * (classes.counts > 0).sum() / inverse.sum()
    balanced = (labels * jax.nn.log_softmax(plain.astype(jnp.float32))).sum(axis=1)
    rebalanced = (labels * weights[None, :] * jax.nn.log_softmax(reweighted.astype(jnp.float32))).sum(axis=1)
    return -((1.0 - progress**2) * balanced + progress**2 * rebalanced)


def agreement(predicted: jax.Array, embeddings: jax.Array) -> jax.Array:
    """Negative cosine of what is predicted of one view from the other, both ways; embeddings are constants.

    Source: Chen and He, "Exploring Simple Siamese Representation Learning" (CVPR 2021), Eq. 2, times 2.

    Args:
      predicted: (B, 2, d) l2-normalised.
      embeddings: (B, 2, d) l2-normalised.

    Returns:
      (B,) float32 in [-2, 2].
    """
    return -(predicted * jax.lax.stop_gradient(embeddings[:, ::-1])).sum(axis=(1, 2))


def _temperatures(classes: classification.Classes) -> jax.Array:
    """(C,) temperatures of the classes."""
    shares = len(classes.counts) * classes.counts / classes.counts.sum()
    scaled = 1.0 - _REWEIGHTED + _REWEIGHTED * shares
    is_deferred = (classes.weights != 1.0).any()
    return jnp.where(is_deferred, scaled / scaled.max(), jnp.ones_like(scaled))
