"""Scaling of features before a flow or a classifier.

    coordinates   each coordinate minus its mean, over its standard deviation (the default)
    none          unchanged, as in the released code
    unit          minus the mean of all rows, then each row scaled to length 1
    sphere        the same, to length sqrt(D): learning rates that suit `coordinates` suit it too

A scaling is three arrays: `mean` (D,), `deviation` (D,) and `unit`, the length () of the scaled rows, or None where
their length is not changed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.core import errors
from lt_jax.dlsa import batches

FORMS = ("coordinates", "none", "unit", "sphere")

Scaling = tuple[jax.Array, jax.Array, jax.Array | None]


def fit(features: np.ndarray, positions: np.ndarray, form: str, key: str) -> Scaling:
    """Mean, deviation and unit of the features at `positions`.

    Args:
      key: dotted name of the setting of `form`, for the error message.

    Raises:
      BadInput: the form is unknown.
    """
    if form not in FORMS:
        raise errors.BadInput(f"config.dlsa.{key}: expected one of {', '.join(FORMS)}, found {form!r}")
    width = features.shape[1]
    if form == "none":
        return jnp.zeros(width), jnp.ones(width), None
    mean, deviation = batches.moments(features, positions)
    if form == "coordinates":
        return mean, deviation, None
    return mean, jnp.ones(width), jnp.asarray(1.0 if form == "unit" else width**0.5)


def apply(
    x: jax.Array, mean: jax.Array, deviation: jax.Array, unit: jax.Array | None, components: jax.Array | None = None
) -> jax.Array:
    """The scaled x (..., D), or its components (..., number) where the matrix (D, number) of `principal` is given."""
    leading = tuple(range(x.ndim - 1))
    x = (x - jnp.expand_dims(mean, leading)) / jnp.expand_dims(deviation, leading)
    x = x if unit is None else x * unit / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return x if components is None else jnp.dot(x, components, precision=jax.lax.Precision.HIGHEST)


def principal(features: np.ndarray, positions: np.ndarray, scaled: Scaling, components: int, key: str) -> jax.Array:
    """(D, components) matrix from scaled features to their first principal components, each of variance 1.

    Args:
      features: (N, D); positions: (n,) of the items whose components they are.
      scaled: the scaling of the features.
      components: number of components, from the one of the largest variance on.
      key: dotted name of the setting of `components`, for the error message.

    Raises:
      BadInput: the scaled features have fewer dimensions.
    """
    covariance = batches.covariance(lambda x: np.asarray(apply(x, *scaled)), features, positions)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    dimensions = int((variances > 1e-7 * variances[0]).sum())
    if components > dimensions:
        raise errors.BadInput(
            f"config.dlsa.{key}: expected at most the dimensions of the features, {dimensions}, found {components}"
        )
    return jnp.asarray(directions[:, :components] / np.sqrt(variances[:components]), jnp.float32)


def of_raw(head: dict[str, Any], mean: jax.Array, deviation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Kernel (D, C) and bias (C,) that give on scaled coordinates the logits of `head` on unscaled features."""
    kernel = jnp.asarray(head["kernel"], jnp.float32)
    bias = jnp.asarray(head["bias"], jnp.float32) + jnp.dot(mean, kernel, precision=jax.lax.Precision.HIGHEST)
    return kernel * deviation[:, None], bias
