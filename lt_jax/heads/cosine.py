"""Classifiers by cosine similarity on frozen features; nothing is trained."""

import dataclasses
from typing import Any

import jax
import numpy as np

from lt_jax import losses
from lt_jax.heads import scaling as scalings
from lt_jax.heads.linear import Linear
from lt_jax.heads.scaling import measure, unit

_ABSENT = -2.0  # logit of a class without training items: below every cosine


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine:
    """Logits (n, C): cosine of (features (n, d) - centre (d,)) / deviation and the means (C, d).

    They are -2 where `present` (C,) is False. `deviation` is a number or (1, d).
    """

    means: Any
    centre: Any
    present: Any
    deviation: Any = np.float32(1.0)  # a Python number would come back from a file as float64

    def __call__(self, features: Any) -> Any:
        numpy = jax.numpy if isinstance(features, jax.Array) else np
        x = unit((features - self.centre[None, :]) / self.deviation)
        return numpy.where(self.present[None, :], x @ self.means.T, _ABSENT)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whitened:
    """`Cosine` of (features - mean) @ whitening (d, d)."""

    whitening: Any
    mean: Any
    means: Any
    centre: Any
    present: Any

    def __call__(self, features: Any) -> Any:
        whitened = (features - self.mean[None, :]) @ self.whitening
        return Cosine(self.means, self.centre, self.present)(whitened)


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

    Features are centred and scaled to unit length; a class is the mean of its items.

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
    return Cosine(directions(x, labels, classes), centre, is_present(labels, classes), divisor)


def directions(x: np.ndarray, labels: np.ndarray, classes: losses.Classes) -> np.ndarray:
    """Sums of the rows (n, d) of each class, at length 1: (C, d), zeros for a class without rows."""
    sums = np.zeros((len(classes.counts), x.shape[1]), x.dtype)
    np.add.at(sums, labels, x)
    return unit(sums)


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
    return Whitened(whitening, centre, head.means, head.centre, head.present)
