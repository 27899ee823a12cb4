"""Classifiers by cosine similarity on frozen features; nothing is trained."""

import dataclasses
from typing import Any

import jax
import numpy as np

from lt_jax import losses
from lt_jax.heads.linear import Linear

_ABSENT = -2.0  # logit of a class without training items: below every cosine


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine:
    """Logits (n, C): cosine of features (n, d) - centre (d,) and the means (C, d); -2 where `present` (C,) is False."""

    means: Any
    centre: Any
    present: Any

    def __call__(self, features: Any) -> Any:
        numpy = jax.numpy if isinstance(features, jax.Array) else np
        return numpy.where(self.present[None, :], _unit(features - self.centre[None, :], numpy) @ self.means.T, _ABSENT)


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
    """
    del key, initial
    num_classes = len(classes.counts)
    centre = features.mean(axis=0)
    x = _unit(features - centre, np)
    sums = np.zeros((num_classes, x.shape[1]), x.dtype)
    np.add.at(sums, labels, x)
    return Cosine(_unit(sums, np), centre, np.isin(np.arange(num_classes), labels))


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
    centred = np.asarray(features - centre, np.float64)
    covariance = centred.T @ centred / len(centred)
    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    values, vectors = np.linalg.eigh(shrunk)
    whitening = ((vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T).astype(np.float32)
    head = nearest_class_mean(key, (features - centre) @ whitening, labels, classes, initial=initial)
    return Whitened(whitening, centre, head.means, head.centre, head.present)


def _unit(x: np.ndarray, numpy: Any) -> np.ndarray:
    return x / numpy.maximum(numpy.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
