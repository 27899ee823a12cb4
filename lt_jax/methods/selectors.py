"""Selectors of a class-balanced subset: `f(key, log_p, features, labels, k, **options) -> positions`.

`log_p` (n,) is the log probability that a classifier gives to each image's class, `features` (n, d) are those of the
images or None, and at most k images of each class are selected. Positions are sorted, int32.
"""

from typing import Any

import jax
import numpy as np

from lt_jax import ipdpp


def rank_one(
    key: jax.Array, log_p: np.ndarray, features: Any, labels: np.ndarray, k: int, *, scale_power: int = 1
) -> np.ndarray:
    """IP-DPP.

    The exact k-DPP of the information kernel, at any number of images.

    Source: arXiv 2510.08836 (NeurIPS 2025), Eq. 15; the sampler is that of docs/ipdpp.md.
    """
    return _select("rank_one", key, log_p, labels, k, scale_power)


def eigen(
    key: jax.Array, log_p: np.ndarray, features: Any, labels: np.ndarray, k: int, *, scale_power: int = 1
) -> np.ndarray:
    """IP-DPP by eigendecomposition.

    The same law as `rank_one`, by the eigenvalues of the kernel: classes of a few thousand images.

    Source: Kulesza and Taskar, "k-DPPs: Fixed-Size Determinantal Point Processes" (ICML 2011).
    """
    return _select("eigen", key, log_p, labels, k, scale_power)


def algorithm1(
    key: jax.Array, log_p: np.ndarray, features: Any, labels: np.ndarray, k: int, *, scale_power: int = 1
) -> np.ndarray:
    """Algorithm 1 as printed.

    Not an exact k-DPP, see docs/ipdpp.md.

    Source: arXiv 2510.08836 (NeurIPS 2025), Algorithm 1.
    """
    return _select("algorithm1", key, log_p, labels, k, scale_power)


def uniform(
    key: jax.Array, log_p: np.ndarray, features: Any, labels: np.ndarray, k: int, *, scale_power: int = 1
) -> np.ndarray:
    """Uniform subset.

    k images of each class, all equally likely.
    """
    return _select("uniform", key, log_p, labels, k, scale_power)


def _select(method: str, key: jax.Array, log_p: np.ndarray, labels: np.ndarray, k: int, scale_power: int) -> np.ndarray:
    return np.asarray(
        ipdpp.select_balanced(key, None, labels, k, method, log_probabilities=log_p, scale_power=scale_power)
    )
