"""Losses of classifiers: `f(logits, labels, classes, *, key=None, **options) -> (B,)`.

Logits are (B, C) of any float type. Labels are (B,) ints, or (B, C) probabilities where images were mixed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lt_jax.core import errors

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
    target = _soft(labels, logits)
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


def focal(
    logits: jax.Array, labels: jax.Array, classes: Classes, *, key: jax.Array | None = None, gamma: float = 2.0
) -> jax.Array:
    """Focal loss.

        L = -sum_c y_c (1 - p_c)^gamma log p_c,  p = softmax(logits)

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), Eq. 4, for more than two classes.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C).
      classes: unused.
      key: unused.
      gamma: strength of the focus on hard images; 0 is cross-entropy.

    Returns:
      (B,) float32.
    """
    del classes, key
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    error = -jnp.expm1(log_p)
    is_wrong = error > 0  # the gradient of 0^gamma is not finite
    focus = jnp.where(is_wrong, jnp.where(is_wrong, error, 1.0) ** gamma, 0.0**gamma)
    return -(_soft(labels, logits) * focus * log_p).sum(axis=1)


def ldam(
    logits: jax.Array,
    labels: jax.Array,
    classes: Classes,
    *,
    key: jax.Array | None = None,
    max_margin: float = 0.5,
    scale: float = 30.0,
) -> jax.Array:
    """LDAM.

        L = cross-entropy of logits - scale * m_y at the label,  m_c proportional to n_c^(-1/4), at most max_margin

    The logits are those of a cosine head, cosines times `scale` (`baseline.head="cosine"`).

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (NeurIPS 2019), Eq. 12.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C); a mixed label has a share of each margin.
      classes: their counts give the margins; an empty class counts as half an image.
      key: unused.
      max_margin: margin of the smallest class, as a cosine.
      scale: of the cosine head.

    Returns:
      (B,) float32.
    """
    del key
    margins = jnp.maximum(classes.counts, 0.5) ** -0.25
    margins = max_margin * margins / margins.max()
    target = _soft(labels, logits)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32) - scale * margins[None, :] * target, target)


def vs(
    logits: jax.Array,
    labels: jax.Array,
    classes: Classes,
    *,
    key: jax.Array | None = None,
    gamma: float = 0.3,
    tau: float = 1.0,
) -> jax.Array:
    """VS.

    Cross-entropy of logits * (n_c / n_max)^gamma + tau * log prior: a vector of scales and one of shifts.

    Source: Kini et al., "Label-Imbalanced and Group-Sensitive Classification under Overparameterization" (NeurIPS
    2021), Eq. 2.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C).
      classes: their counts give the scales, their `log_prior` the shifts.
      key: unused.
      gamma: strength of the scales.
      tau: strength of the shifts.

    Returns:
      (B,) float32.
    """
    counts = jnp.maximum(classes.counts, 0.5)
    scaled = logits.astype(jnp.float32) * ((counts / counts.max()) ** gamma)[None, :]
    return cross_entropy(scaled + tau * classes.log_prior[None, :], labels, key=key)


def label_aware_smoothing(
    logits: jax.Array,
    labels: jax.Array,
    classes: Classes,
    *,
    key: jax.Array | None = None,
    head: float = 0.3,
    tail: float = 0.0,
) -> jax.Array:
    """Label-aware smoothing.

        L = -(1 - s_y) log p_y - s_y mean_c log p_c,  s from `tail` in the smallest class to `head` in the largest

    s rises with the sine of a quarter period from the smallest to the largest class (the concave form).

    Source: Zhong et al., "Improving Calibration for Long-Tailed Recognition" (CVPR 2021), Eq. 6 and its released code.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C).
      classes: their counts give the smoothing.
      key: unused.
      head: smoothing of the largest class.
      tail: smoothing of the smallest class.

    Returns:
      (B,) float32.
    """
    del key
    counts = classes.counts
    rank = (counts - counts.min()) / jnp.maximum(counts.max() - counts.min(), 1.0)
    smoothing = tail + (head - tail) * jnp.sin(rank * jnp.pi / 2)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    target = _soft(labels, logits)
    mean = log_p.mean(axis=1, keepdims=True)
    return -(target * (log_p + smoothing[None, :] * (mean - log_p))).sum(axis=1)


def sigmoid_bce(
    logits: jax.Array,
    labels: jax.Array,
    classes: Classes,
    *,
    key: jax.Array | None = None,
    negatives: float = 1.0,
) -> jax.Array:
    """Sigmoid BCE.

    Binary cross-entropy of every class by itself, with all or some of the other classes as negatives.

        L = -sum_{c in P} [y_c log sigmoid(z_c) + (1 - y_c) log sigmoid(-z_c)] - sum_{c in N} log sigmoid(-z_c)

    P holds the classes of the label. N is drawn for each image without replacement from the other classes, a class c
    with weight min(1, n_c / n_y): the rarer it is than the class y of the image, the less often it is a negative. So
    a rare class is not pushed away by every image of the frequent ones. With `negatives` 1.0 N holds all other classes.

    Source: the binary cross-entropy of Fan et al., "BCE3S: Binary Cross-Entropy Based Tripartite Synergistic Learning
    for Long-tailed Recognition" (AAAI 2026); its released code draws negatives uniformly, once for a batch.

    Args:
      logits: (B, C).
      labels: (B,) or (B, C).
      classes: their counts give the weights; an empty class counts as half an image.
      key: of the draw; not needed with all negatives.
      negatives: a share of the other classes up to 1.0, or a number of classes as an int.

    Returns:
      (B,) float32.
    """
    logits, target = logits.astype(jnp.float32), _soft(labels, logits)
    each = jax.nn.softplus(logits) - target * logits
    count = _number_of_negatives(negatives, logits.shape[1] - 1)
    if count == logits.shape[1] - 1:
        return each.sum(axis=1)
    if key is None:
        raise ValueError(f"negatives={negatives}: expected the argument `key`, since negatives are drawn")
    return jnp.where((target > 0) | _drawn_negatives(key, target, classes, count), each, 0.0).sum(axis=1)


def _number_of_negatives(negatives: float, most: int) -> int:
    """How many of `most` other classes a share or a number of them means, at least one."""
    if isinstance(negatives, bool) or negatives <= 0 or (isinstance(negatives, float) and negatives > 1.0):
        raise errors.BadInput(f"negatives: expected a share up to 1.0 or a number of classes, found {negatives!r}")
    number = negatives if isinstance(negatives, int) else round(negatives * most)
    return min(max(number, 1), most)


def _drawn_negatives(key: jax.Array, target: jax.Array, classes: Classes, count: int) -> jax.Array:
    """Mask (B, C) of `count` classes without weight in the target; fewer where the target has many classes.

    Adding Gumbel noise to log weights and taking the largest draws without replacement.
    """
    counts = jnp.maximum(classes.counts, 0.5)
    own = (target * counts[None, :]).sum(axis=1, keepdims=True) / jnp.maximum(target.sum(axis=1, keepdims=True), 1e-6)
    scores = jnp.log(jnp.minimum(counts[None, :] / own, 1.0)) + jax.random.gumbel(key, target.shape)
    scores = jnp.where(target > 0, -jnp.inf, scores)
    least = jax.lax.top_k(scores, count)[0][:, -1:]
    return (scores >= least) & (scores > -jnp.inf)


def effective_number_weights(counts: np.ndarray, beta: float = 0.9999) -> np.ndarray:
    """Class weights (1 - beta) / (1 - beta^n), scaled to a mean of 1, (C,) float32; an empty class has half an image.

    At beta = 1 they are their limit, 1 / n.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples" (CVPR 2019), Eq. 5.
    """
    images = np.maximum(counts, 0.5)
    weights = 1.0 / images if beta == 1.0 else (1.0 - beta) / -np.expm1(np.log(beta) * images)
    return (weights / weights.mean()).astype(np.float32)


def _soft(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Labels as probabilities (B, C) float32."""
    return jax.nn.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
