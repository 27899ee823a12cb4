"""Scalings of features before a head or a selector sees them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses
from lt_jax.core import errors

SCALINGS = ("raw", "standard", "unit")


def measure(features: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """The centre (d,) and the deviation (d,) that a scaling takes from features (n, d).

    Args:
      features: of the training images.
      scaling: "raw" changes nothing, "standard" gives every coordinate mean 0 and deviation 1 (a constant one is
        only centred), "unit" centres and then scales each row to length 1.

    Raises:
      BadInput: another scaling.
    """
    if scaling not in SCALINGS:
        raise errors.BadInput(f"scaling: expected one of {', '.join(SCALINGS)}, found {scaling!r}")
    d = features.shape[1]
    centre = np.zeros(d, np.float32) if scaling == "raw" else features.mean(axis=0)
    if scaling != "standard":
        return centre, np.ones(d, np.float32)
    deviation = features.std(axis=0) + 1e-6
    is_constant = features.max(axis=0) == features.min(axis=0)  # where the deviation is a rounding error
    return centre, np.where(is_constant, np.ones_like(deviation), deviation)


def scaled(features: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, d) under a scaling, float32, with its centre (d,) and deviation (d,)."""
    centre, deviation = measure(features, scaling)
    x = (features - centre) / deviation
    return np.asarray(unit(x) if scaling == "unit" else x, np.float32), centre, deviation


def whitening(centred: np.ndarray, shrinkage: float) -> np.ndarray:
    """The symmetric matrix (d, d) that makes the covariance of rows (n, d) with mean 0 the identity.

    Args:
      shrinkage: weight, in (0, 1], of a multiple of the identity with the same trace in the covariance.
    """
    centred = np.asarray(centred, np.float64)
    covariance = centred.T @ centred / len(centred)
    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    values, vectors = np.linalg.eigh(shrunk)
    return ((vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T).astype(np.float32)


def product(x: Any, matrix: Any) -> Any:
    """x @ matrix, of JAX arrays in full float32 precision also where an accelerator would round."""
    return jnp.matmul(x, matrix, precision=losses.PRECISION) if isinstance(x, jax.Array) else x @ matrix


def unit(x: Any) -> Any:
    """Rows of x (n, d) at length 1; a row of zeros stays."""
    if isinstance(x, jax.Array):  # the gradient of a norm is not a number at 0
        return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-24))
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
