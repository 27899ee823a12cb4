"""Probabilistic contrastive learning (ProCo): expected losses under a von Mises-Fisher law of each class.

The density of vMF(mu, kappa) on the sphere in d dimensions is proportional to exp(kappa mu . v), with the factor
kappa^nu / ((2 pi)^(d/2) I_nu(kappa)), nu = d/2 - 1, where I_nu is the modified Bessel function.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lt_jax.losses import similarity

_ORDER = 16.0  # from this order on the expansion below is exact to float32
_LARGEST = 1e5  # concentration of a class with a single direction


def proco_logits(
    embeddings: jax.Array, directions: jax.Array, concentrations: jax.Array, temperature: float
) -> jax.Array:
    """Log of the expected similarity to a random embedding of each class (Du et al., TPAMI 2024).

        log E exp(z . v / t) = log [I_nu(k') / k'^nu] - log [I_nu(k) / k^nu],   k' = |k mu + z / t|,   v ~ vMF(mu, k)

    Args:
      embeddings: (A, d) l2-normalised z; d at least 2.
      directions: (C, d) l2-normalised mu, or 0 where k is 0.
      concentrations: (C,) k >= 0; 0 is the uniform law.
      temperature: t > 0.

    Returns:
      (A, C) float32.
    """
    embeddings, directions = embeddings.astype(jnp.float32), directions.astype(jnp.float32)
    cosines = jnp.einsum("ad,cd->ac", embeddings, directions, precision=similarity.PRECISION)
    concentrations = jnp.broadcast_to(concentrations.astype(jnp.float32)[None, :], cosines.shape)
    change = 2.0 / temperature * concentrations * cosines + 1.0 / temperature**2  # k'^2 - k^2, without cancellation
    return log_bessel_change(embeddings.shape[1] / 2 - 1, concentrations**2, change)


def concentration(length: jax.Array, width: int) -> jax.Array:
    """Estimated concentration of a vMF law from the length R in [0, 1] of the mean of its unit vectors.

        k = R (d - R^2) / (1 - R^2),   at most 10^5

    Source: Banerjee et al., "Clustering on the Unit Hypersphere using von Mises-Fisher Distributions" (JMLR 2005).
    """
    return jnp.minimum(length * (width - length**2) / jnp.maximum(1.0 - length**2, 1e-6), _LARGEST)


def log_bessel_change(order: float, squared: jax.Array, change: jax.Array) -> jax.Array:
    """log [I_nu(y) / y^nu] - log [I_nu(x) / x^nu], where x^2 = squared and y^2 = squared + change.

    From order 16 on by Debye's uniform expansion (DLMF 10.41.3), written in differences: of two values near 10^5 one
    gets the difference to seven digits. Lower orders follow by the recurrence g_{k-1} = 2k g_k + x^2 g_{k+1} of
    g_k = I_k(x) / x^k.

    Args:
      order: nu >= 0.
      squared: x^2 >= 0.
      change: y^2 - x^2, of the same shape.

    Returns:
      float32 of the same shape.
    """
    steps = max(0, math.ceil(_ORDER - order))
    top = order + steps
    start, end = jnp.sqrt(top**2 + squared), jnp.sqrt(top**2 + squared + change)
    difference = change / (start + end)
    result = difference - top * jnp.log1p(difference / (top + start)) - 0.5 * jnp.log1p(difference / start)
    result = result + jnp.log(_series(top, top / end)) - jnp.log(_series(top, top / start))
    if steps:
        result = result + _down(top, steps, squared + change, end) - _down(top, steps, squared, start)
    return result


def _series(order: float, t: Any) -> Any:
    """1 + sum_k U_k(t) / nu^k, the correction of Debye's expansion (DLMF 10.41.10); t = nu / sqrt(nu^2 + x^2)."""
    square = t * t
    first = t * (3.0 - 5.0 * square) / 24.0
    second = square * (81.0 - square * (462.0 - 385.0 * square)) / 1152.0
    third = t * square * (30375.0 - square * (369603.0 - square * (765765.0 - 425425.0 * square))) / 414720.0
    return 1.0 + first / order + second / order**2 + third / order**3


def _down(top: float, steps: int, squared: Any, root: Any) -> Any:
    """log g_nu - log g_top, where nu = top - steps and root = sqrt(top^2 + x^2)."""
    t = top / root
    series, slope = jax.jvp(lambda t: _series(top, t), (t,), (jnp.ones_like(t),))
    # g_{top+1} / g_top is 2 d log g_top / d(x^2).
    ratio = (root / (top + root) - 0.5 / root - slope / series * t / root) / root
    total = jnp.zeros_like(root)
    for i in range(steps):
        inverse = 2.0 * (top - i) + squared * ratio
        ratio = 1.0 / inverse
        total = total + jnp.log(inverse)
    return total
