"""Scaling of features before a flow or a classifier.

    coordinates   each coordinate minus its mean, over its standard deviation (the default)
    none          unchanged, as in the released code
    unit          minus the mean of all rows, then each row divided by its length

A scaling is three arrays: `mean` (D,), `deviation` (D,) and `unit`. `unit` is an array if rows are scaled to unit
length, else None; only its presence matters. It is stored with a model like the other leaves.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.core import errors
from lt_jax.dlsa import batches

FORMS = ("coordinates", "none", "unit")

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
    return (mean, deviation, None) if form == "coordinates" else (mean, jnp.ones(width), jnp.ones(()))


def apply(x: jax.Array, mean: jax.Array, deviation: jax.Array, unit: jax.Array | None) -> jax.Array:
    """The scaled x (..., D)."""
    leading = tuple(range(x.ndim - 1))
    x = (x - jnp.expand_dims(mean, leading)) / jnp.expand_dims(deviation, leading)
    return x if unit is None else x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def of_raw(head: dict[str, Any], mean: jax.Array, deviation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Kernel (D, C) and bias (C,) that give on scaled coordinates the logits of `head` on unscaled features."""
    kernel = jnp.asarray(head["kernel"], jnp.float32)
    bias = jnp.asarray(head["bias"], jnp.float32) + jnp.dot(mean, kernel, precision=jax.lax.Precision.HIGHEST)
    return kernel * deviation[:, None], bias
