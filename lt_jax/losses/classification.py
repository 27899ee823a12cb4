"""Losses of classifiers: `f(logits, labels, classes, *, key=None, **options) -> (B,)`.

Logits are (B, C) of any float type. Labels are (B,) ints, or (B, C) probabilities where images were mixed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classes:
    """What a loss may know about the training set.

    Attributes:
      counts: (C,) training images of each class, float32.
      log_prior: (C,) log of the class shares, from `log_prior`.
      weights: (C,) weights of the classes, ones unless a method changes them.
    """

    counts: Array
    log_prior: Array
    weights: Array

    @staticmethod
    def of(counts: np.ndarray) -> "Classes":
        """The classes with these (C,) counts and equal weights."""
        counts = np.asarray(counts, np.float32)
        return Classes(counts, log_prior(counts), np.ones_like(counts))


def log_prior(counts: np.ndarray) -> np.ndarray:
    """Log of the class shares, (C,) float32, from counts (C,); an empty class counts as half an image.

    Half an image keeps the prior finite: a classifier that subtracts it then favours an empty class over a class of
    one image by log 2, and no more.
    """
    return np.log(np.maximum(counts, 0.5) / np.sum(counts)).astype(np.float32)


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    classes: Classes | None = None,
    *,
    key: jax.Array | None = None,
    smoothing: float = 0.0,
) -> jax.Array:
    """Cross-entropy.

        L = -sum_c y_c log softmax(logits)_c

    With `smoothing` s, 1 - s of the weight stays with the label and s is shared by the other classes with images.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C).
      classes: needed for smoothing alone.
      key: unused.
      smoothing: s in [0, 1).

    Returns:
      (B,) float32.
    """
    del key
    logits = logits.astype(jnp.float32)
    if not smoothing:
        if labels.ndim == 1:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return optax.softmax_cross_entropy(logits, labels)
    if classes is None:
        raise ValueError("smoothing: expected the argument `classes`: only classes with images share its weight")
    target = jax.nn.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    present = (classes.counts > 0).astype(jnp.float32)[None, :]
    other_classes = jnp.maximum(present - target, 0.0) / jnp.maximum(present.sum() - 1.0, 1.0)
    return optax.softmax_cross_entropy(logits, (1.0 - smoothing) * target + smoothing * other_classes)


def balanced_softmax(
    logits: jax.Array,
    labels: jax.Array,
    classes: Classes,
    *,
    key: jax.Array | None = None,
    smoothing: float = 0.0,
) -> jax.Array:
    """Balanced softmax.

    Cross-entropy of logits + log prior, so that the logits themselves know nothing of the class sizes.

    Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition" (NeurIPS 2020), Eq. 3.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C).
      classes: their `log_prior` is added.
      key: unused.
      smoothing: as in `cross_entropy`.

    Returns:
      (B,) float32.
    """
    return logit_adjustment(logits, labels, classes, key=key, tau=1.0, smoothing=smoothing)


def logit_adjustment(
    logits: jax.Array,
    labels: jax.Array,
    classes: Classes,
    *,
    key: jax.Array | None = None,
    tau: float = 1.0,
    smoothing: float = 0.0,
) -> jax.Array:
    """Logit-adjusted loss.

    Cross-entropy of logits + tau * log prior; with tau = 1 it is the balanced softmax.

    Source: Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), Eq. 10.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C).
      classes: their `log_prior` is added.
      key: unused.
      tau: strength of the adjustment.
      smoothing: as in `cross_entropy`.

    Returns:
      (B,) float32.
    """
    adjusted = logits.astype(jnp.float32) + tau * classes.log_prior[None, :]
    return cross_entropy(adjusted, labels, classes, key=key, smoothing=smoothing)
