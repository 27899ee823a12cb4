"""Exact quantities of the fixed-size DPP: inclusion probabilities, probability of a subset, expected information.

All are computed from the tree of laws that the draws use: about O(N) time, and memory linear in N.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.ipdpp import checks, rank_one, select, structure


class Information(NamedTuple):
    """Expected information, the mean of -log p over the chosen items."""

    ipdpp: jax.Array  # (), of a subset drawn by IP-DPP
    uniform: jax.Array  # (), of a uniform subset: the mean over all items


def kernel(probabilities, scale=None, *, log_probabilities=None):
    """The matrix S of Eq. 16 (arXiv 2510.08836), (N, N) float32, symmetric; rows sum to one at scale 1/N.

    Raises ValueError for invalid p, and for a scale with scale * max(p) * sum(p) > 1.
    """
    log_p = checks.log_probabilities_of(probabilities, log_probabilities)
    return _kernel(log_p, checks.relative_scale(scale, log_p))


_kernel = jax.jit(structure.dense)


def _laws(log_p: jax.Array, n: jax.Array, relative_scale: jax.Array, plan: rank_one.Plan) -> tuple[Any, ...]:
    """Structure, theta, log s, coins (b, v) in leaf order, that order, and a function that returns the roots."""
    s = structure.structure(log_p, n, relative_scale)
    theta = rank_one.tilt(s.log_d, s.present, s.n, plan.k)
    b, not_b, v, log_s = rank_one.coins(s, theta)
    b, not_b, v, numbers = rank_one.arrange(b, not_b, v, plan)

    def roots(b, v):
        """The coefficients of t^k of P and Q, and the log of their common divisor."""
        return rank_one.up(b, not_b, v, plan)[:2]

    return s, theta, log_s, (b, v), numbers, roots


@functools.partial(jax.jit, static_argnames="plan")
def _inclusion(log_p: jax.Array, n: jax.Array, relative_scale: jax.Array, plan: rank_one.Plan) -> jax.Array:
    """P(i in Y) = d log Z / d log (weight of item i): a quotient of sums of non-negative products.

    The textbook form of the derivative divides by the factor of each item and loses all precision for factors near
    zero; reverse-mode differentiation of the tree does not.
    """
    s, _, log_s, (b, v), numbers, roots = _laws(log_p, n, relative_scale, plan)
    root, pull_back = jax.vjp(lambda b, v: roots(b, v)[0], b, v)
    special = rank_one.share_of_special(root, log_s)
    by_b, by_v = pull_back(rank_one.Dual((1 - special) / root.p, jnp.where(root.q > 0, special / root.q, 0)))
    marginals = jnp.zeros_like(b).at[numbers].set(b * by_b + v * by_v)
    return jnp.where(s.valid, marginals, jnp.nan)


@functools.partial(jax.jit, static_argnames="plan")
def _log_probability(
    log_p: jax.Array, n: jax.Array, relative_scale: jax.Array, subset: jax.Array, plan: rank_one.Plan
) -> jax.Array:
    """log det(S_Y) - log Z, from the probability that the coins show Y and the rank-one factor."""
    s, theta, log_s, (b, v), _, roots = _laws(log_p, n, relative_scale, plan)
    (p, q), log_mass = roots(b, v)
    log_normaliser = log_mass + jnp.logaddexp(jnp.log(p), log_s + jnp.log(q))
    chosen = jnp.zeros(log_p.shape, bool).at[subset].set(True)
    odds = jnp.where(s.present, theta + s.log_d, 0)
    faces = jnp.where(s.present, jax.nn.log_sigmoid(jnp.where(chosen, odds, -odds)), 0)
    w = jnp.square(s.p) * jnp.exp(s.log_a - s.log_d)
    bonus = jnp.log1p(structure.tree_sum(jnp.where(chosen, w, 0)))
    return jnp.where(s.valid, structure.tree_sum(faces) + bonus - log_normaliser, jnp.nan)


def _prepare(
    probabilities: np.ndarray | None, log_probabilities: np.ndarray | None, k: float, scale: Any, pad_to: int = 0
) -> tuple[Any, ...]:
    """Checks and pads: (size,) log p, N, relative scale, and the plan (None if k is 0 or N)."""
    log_p = checks.log_probabilities_of(probabilities, log_probabilities)
    n = log_p.shape[0]
    k = checks.subset_size(k, n)
    relative_scale = checks.relative_scale(scale, log_p)
    size = select.padded_size(max(n, pad_to), "rank_one")
    pad = jnp if checks.is_traced(log_p) else np
    padded = pad.pad(log_p, (0, size - n), constant_values=-np.inf)
    plan = rank_one.plan(size, k) if 0 < k < n else None
    return padded, np.int32(n), relative_scale, plan


def inclusion_probabilities(probabilities, k, *, log_probabilities=None, scale=None, pad_to=0):
    """P(i in Y) for a draw of k items, (N,) float32, sums to k. Any N.

    Arguments and errors as for `sample`; inside jit an invalid p gives NaN. With `pad_to` fewer items are padded as so
    many are: sets of several sizes then share one compiled program.
    """
    log_p, n, relative_scale, plan = _prepare(probabilities, log_probabilities, k, scale, pad_to)
    if plan is None:
        return jnp.where(jnp.all(log_p <= 0), jnp.full((int(n),), float(k > 0), jnp.float32), jnp.nan)
    return _inclusion(log_p, n, relative_scale, plan)[: int(n)]


def log_probability(probabilities, subset, *, log_probabilities=None, scale=None):
    """log P(Y = subset) among all subsets of its size, () float32; subset (k,) distinct integers, any order.

    Raises ValueError like `sample`, and for item numbers out of range or repeated; inside jit the subset is not
    checked, and an invalid p gives NaN.
    """
    known = checks.log_probabilities_of(probabilities, log_probabilities)
    subset = checks.subset_of(subset, known.shape[0])
    log_p, n, relative_scale, plan = _prepare(probabilities, log_probabilities, subset.shape[0], scale)
    if plan is None:
        return jnp.where(jnp.all(log_p <= 0), jnp.float32(0.0), jnp.nan)
    return _log_probability(log_p, n, relative_scale, subset, plan)


def expected_information(probabilities, k, *, log_probabilities=None, scale=None):
    """Information(ipdpp, uniform): expected mean of -log p in nats, over k items drawn by IP-DPP and uniformly.

    Infinite if an item has p = 0. Errors as for `sample`; k must be at least 1.
    """
    log_p = checks.log_probabilities_of(probabilities, log_probabilities)
    if checks.subset_size(k, log_p.shape[0]) == 0:
        raise ValueError("k must be at least 1: an empty set has no mean information")
    marginals = inclusion_probabilities(None, k, log_probabilities=log_p, scale=scale)
    information = jnp.where(marginals > 0, -jnp.asarray(log_p) * marginals, 0)
    return Information(jnp.sum(information) / k, -jnp.mean(jnp.asarray(log_p)))
