"""Selectors of a class-balanced subset: `f(key, log_p, features, labels, k, **options) -> positions`.

`log_p` (n,) is the log probability that a classifier gives to each image's class, `features` (n, d) are those of the
images, which only some selectors use, and at most k images of each class are selected. Positions are sorted, int32.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import ipdpp, losses
from lt_jax.heads import scaling as scalings

EXACT = ("rank_one", "eigen")  # draws of the k-DPP, whose inclusion probabilities are known


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


def herding(
    key: jax.Array, log_p: Any, features: np.ndarray, labels: np.ndarray, k: int, *, scaling: str = "unit"
) -> np.ndarray:
    """Herding.

    Takes items of a class one by one, each time the one that brings the mean of the subset nearest to that of the
    class. No random numbers.

    Source: Welling, "Herding Dynamical Weights to Learn" (ICML 2009), without repeated items.

    Args:
      key: unused.
      log_p: unused.
      features: (n, d).
      labels: (n,).
      k: items of a class that has more.
      scaling: of the features: "raw", "standard" or "unit".
    """
    return _by_class(lambda key, x, n: _herd(x, n, k), key, features, labels, k, scaling)


def kmeans(
    key: jax.Array,
    log_p: Any,
    features: np.ndarray,
    labels: np.ndarray,
    k: int,
    *,
    scaling: str = "unit",
    iterations: int = 20,
) -> np.ndarray:
    """k-means subset.

    k clusters in each class, and of each the item that is nearest to its centre.

    Source: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding" (SODA 2007).

    Args:
      key: of the first centres.
      log_p: unused.
      features: (n, d).
      labels: (n,).
      k: items of a class that has more.
      scaling: of the features: "raw", "standard" or "unit".
      iterations: of Lloyd's algorithm.
    """
    return _by_class(lambda key, x, n: _cluster(key, x, n, k, iterations), key, features, labels, k, scaling)


def _by_class(select: Any, key: jax.Array, features: Any, labels: np.ndarray, k: int, scaling: str) -> np.ndarray:
    """Sorted positions of the items that `select(key, x, n)` takes of each class with more than k items.

    x is padded with rows of zeros to a power of two, so that classes of similar size share one compiled program.
    """
    if features is None:
        raise ValueError("features: expected (n, d) numbers, found None")
    x, _, _ = scalings.scaled(np.asarray(features), scaling)
    chosen = [np.zeros(0, np.int64)]
    for c, class_key in zip(np.unique(labels), jax.random.split(key, len(np.unique(labels))), strict=True):
        positions = np.flatnonzero(labels == c)
        n = len(positions)
        if k and n > k:
            padded = np.zeros((1 << (n - 1).bit_length(), x.shape[1]), np.float32)
            padded[:n] = x[positions] - x[positions].mean(axis=0)
            positions = positions[np.asarray(select(class_key, padded, n))]
        chosen.append(positions[:k])
    return np.sort(np.concatenate(chosen)).astype(np.int32)


@functools.partial(jax.jit, static_argnums=2)
def _herd(x: jax.Array, n: jax.Array, k: int) -> jax.Array:
    """Rows (k,) of x (size, d), whose first n rows have mean 0: each makes the sum of the rows so far the shortest."""
    squares = (x * x).sum(axis=1)

    def take(carry, _):
        total, is_free = carry
        growth = squares + 2.0 * jnp.dot(x, total, precision=losses.PRECISION)
        row = jnp.argmin(jnp.where(is_free, growth, jnp.inf))
        return (total + x[row], is_free.at[row].set(False)), row

    start = (jnp.zeros(x.shape[1]), jnp.arange(len(x)) < n)
    return jax.lax.scan(take, start, length=k)[1]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _cluster(key: jax.Array, x: jax.Array, n: jax.Array, k: int, iterations: int) -> jax.Array:
    """Distinct rows (k,) of the first n rows of x (size, d), one near each of k centres."""
    is_item = jnp.arange(len(x)) < n
    start = x[_first_centres(key, x, is_item, k)]

    def move(centres, _):
        nearest = jnp.where(is_item, _squared_distances(x, centres).argmin(axis=1), k)
        counts = jax.ops.segment_sum(jnp.ones(len(x)), nearest, k + 1)[:k, None]
        sums = jax.ops.segment_sum(x, nearest, k + 1)[:k]
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), centres), None

    centres = jax.lax.scan(move, start, length=iterations)[0]

    def take(is_free, distances):
        row = jnp.argmin(jnp.where(is_free, distances, jnp.inf))
        return is_free.at[row].set(False), row

    return jax.lax.scan(take, is_item, _squared_distances(x, centres).T)[1]


def _first_centres(key: jax.Array, x: jax.Array, is_item: jax.Array, k: int) -> jax.Array:
    """Rows (k,) drawn one by one, with probability proportional to the squared distance to the nearest so far."""

    def draw(carry, key):
        distances, is_free = carry
        weights = jnp.where(is_free, distances, 0.0)
        weights = jnp.where(weights.sum() > 0, weights, is_free)  # all others equal a centre
        row = jax.random.categorical(key, jnp.log(weights))
        nearer = jnp.minimum(distances, _squared_distances(x, x[row][None, :])[:, 0])
        return (nearer, is_free.at[row].set(False)), row

    start_key, draw_key = jax.random.split(key)
    first = jax.random.categorical(start_key, jnp.where(is_item, 0.0, -jnp.inf))
    start = (_squared_distances(x, x[first][None, :])[:, 0], is_item.at[first].set(False))
    later = jax.lax.scan(draw, start, jax.random.split(draw_key, k - 1))[1]
    return jnp.concatenate([first[None], later])


def _squared_distances(x: jax.Array, centres: jax.Array) -> jax.Array:
    """Squared distances (n, k) of rows (n, d) and centres (k, d)."""
    products = jnp.dot(x, centres.T, precision=losses.PRECISION)
    squares = (x * x).sum(axis=1)[:, None] + (centres * centres).sum(axis=1)[None, :]
    return jnp.maximum(squares - 2.0 * products, 0.0)
