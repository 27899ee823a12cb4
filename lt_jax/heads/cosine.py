"""Classifiers by cosine similarity on frozen features; nothing is trained."""

import dataclasses
from typing import Any

import jax
import numpy as np

from lt_jax import losses
from lt_jax.heads import scaling as scalings
from lt_jax.heads.linear import Linear
from lt_jax.heads.scaling import measure, product, unit

_ABSENT = -2.0  # in place of the cosine of a class without training items: below every cosine
_SCALES = (1.0, 100.0)
_DEFAULT_SCALE = 16.0
_MOST_COSINES = 5_000_000  # that the scale is chosen by


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine:
    """Logits (n, C): `scale` times the cosine of (features (n, d) - centre (d,)) / deviation and the means (C, d).

    They are -2 * scale where `present` (C,) is False. `deviation` is a number or (1, d).
    """

    means: Any
    centre: Any
    present: Any
    deviation: Any = np.float32(1.0)  # a Python number would come back from a file as float64
    scale: Any = np.float32(1.0)

    def __call__(self, features: Any) -> Any:
        numpy = jax.numpy if isinstance(features, jax.Array) else np
        x = unit((features - self.centre[None, :]) / self.deviation)
        return self.scale * numpy.where(self.present[None, :], product(x, self.means.T), _ABSENT)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whitened:
    """`Cosine` of (features - mean) @ whitening (d, d)."""

    whitening: Any
    mean: Any
    means: Any
    centre: Any
    present: Any
    scale: Any = np.float32(1.0)

    def __call__(self, features: Any) -> Any:
        whitened = product(features - self.mean[None, :], self.whitening)
        return Cosine(self.means, self.centre, self.present, scale=self.scale)(whitened)


def nearest_class_mean(
    key: jax.Array | None,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    scaling: str = "unit",
) -> Cosine:
    """Nearest class mean.

    Features are centred and scaled to unit length; a class is the mean of its items. The scale of the cosines, which
    decides no class, makes their softmax a probability: see `cosine_scale`.

    Source: NCM in Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020).

    Args:
      key: unused.
      features: (n, d).
      labels: (n,).
      classes: of the training set; a class without items in `labels` is never predicted.
      initial: unused.
      scaling: before they have unit length: "raw" does not centre them, "standard" also divides each coordinate by its
        deviation.
    """
    del key, initial
    centre, deviation = measure(features, scaling)
    x = unit((features - centre) / deviation)
    divisor = deviation[None, :] if scaling == "standard" else np.float32(1.0)
    sums = class_sums(x, labels, classes)
    return Cosine(unit(sums), centre, is_present(labels, classes), divisor, np.float32(cosine_scale(x, labels, sums)))


def class_sums(x: np.ndarray, labels: np.ndarray, classes: losses.Classes) -> np.ndarray:
    """Sums of the rows (n, d) of each class: (C, d), zeros for a class without rows."""
    sums = np.zeros((len(classes.counts), x.shape[1]), x.dtype)
    np.add.at(sums, labels, x)
    return sums


def directions(x: np.ndarray, labels: np.ndarray, classes: losses.Classes) -> np.ndarray:
    """`class_sums` at length 1: (C, d)."""
    return unit(class_sums(x, labels, classes))


def cosine_scale(x: np.ndarray, labels: np.ndarray, sums: np.ndarray) -> float:
    """The scale of the cosines of items and class means at which their softmax is the likeliest, in [1, 100].

    An item is compared with the mean of its class without the item, as a new item would be. All classes weigh alike;
    those of one item have no such mean and are left out. Of many items and classes only the first items of each class
    are looked at.

    Args:
      x: (n, d) of length 1.
      labels: (n,).
      sums: (C, d) from `class_sums`; zeros for an absent class.

    Returns:
      The scale; 16, that of the trained cosine heads, where no class has two items.
    """
    counts = np.bincount(labels, minlength=len(sums))
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)  # of each item within its class
    rank[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    usable = np.flatnonzero(counts[labels] > 1)
    rows = usable[np.argsort(rank[usable], kind="stable")][: max(1, _MOST_COSINES // len(sums))]
    if not len(rows):
        return _DEFAULT_SCALE
    own = labels[rows]
    cosines = (x[rows] @ unit(sums).T).astype(np.float64)
    own_cosines = (x[rows] * unit(sums[own] - x[rows])).sum(axis=1)
    cosines[np.arange(len(rows)), own] = own_cosines
    weights = 1.0 / np.bincount(own, minlength=len(sums))[own]
    low, high = _SCALES
    for _ in range(20):  # the likelihood is concave in the scale: bisection of its slope
        middle = np.sqrt(low * high)
        likelihood = np.exp(middle * (cosines - cosines.max(axis=1, keepdims=True))) * (counts > 0)
        expected = (cosines * likelihood).sum(axis=1) / likelihood.sum(axis=1)
        low, high = (middle, high) if (weights * (own_cosines - expected)).sum() > 0 else (low, middle)
    return float(np.sqrt(low * high))


def is_present(labels: np.ndarray, classes: losses.Classes) -> np.ndarray:
    """Whether each class has items, (C,) bool."""
    return np.isin(np.arange(len(classes.counts)), labels)


def whitened_class_mean(
    key: jax.Array | None,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    shrinkage: float = 0.1,
) -> Whitened:
    """Whitened class mean.

    Nearest class mean by cosine after the features are whitened: their covariance, pulled towards a multiple of the
    identity, becomes the identity. Nothing is trained.

    Args:
      key: unused.
      features: (n, d).
      labels: (n,).
      classes: of the training set; a class without items in `labels` is never predicted.
      initial: unused.
      shrinkage: weight of the identity in the covariance, in (0, 1].
    """
    centre = features.mean(axis=0)
    whitening = scalings.whitening(features - centre, shrinkage)
    head = nearest_class_mean(key, (features - centre) @ whitening, labels, classes, initial=initial)
    return Whitened(whitening, centre, head.means, head.centre, head.present, head.scale)
