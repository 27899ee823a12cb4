"""Independent references in NumPy float64, and the statistics that test every sampler."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lt_jax.ipdpp import rank_one


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def dense_kernel(log_p, scale=None):
    """Returns the kernel of Eq. 16 in float64."""
    p = np.exp(np.asarray(log_p, np.float64))
    s = np.outer(p, p) * (1 / len(p) if scale is None else scale)
    np.fill_diagonal(s, 0)
    np.fill_diagonal(s, 1 - s.sum(axis=1))
    return s


def dense_law(log_p, k, scale=None):
    """Returns all subsets of k items (C, k) and their probabilities (C,), from float64 determinants."""
    s = dense_kernel(log_p, scale)
    subsets = np.array(list(itertools.combinations(range(len(log_p)), k)), int).reshape(-1, k)
    weights = np.maximum(np.linalg.det(s[subsets[:, :, None], subsets[:, None, :]]), 0)
    return subsets, weights / weights.sum()


def parts(log_p, scale=None):
    """Returns the diagonal d and u^2 in float64; 1 - p comes from expm1, which avoids cancellation."""
    log_p = np.asarray(log_p, np.float64)
    p, q, n = np.exp(log_p), -np.expm1(log_p), len(log_p)
    r = 1.0 if scale is None else scale * n
    return q + p * q.mean() + (1 - r) * p * p.mean(), r / n * p**2


def polynomials(d, u2, k):
    """Returns coefficients 0 .. k of P and Q for some items in float64, both divided by the same number."""
    p, q = np.zeros(k + 1), np.zeros(k + 1)
    p[0] = 1
    for d_i, u2_i in zip(d, u2, strict=True):
        q[1:] = q[1:] + d_i * q[:-1] + u2_i * p[:-1]
        p[1:] = p[1:] + d_i * p[:-1]
        if (largest := max(p.max(), q.max())) > 1e100:
            p, q = p / largest, q / largest
    return p, q


def count_law(log_p, k, members):
    """Returns P(|Y and members| = c) for c = 0 .. k, exact in float64; members (N,) bool."""
    d, u2 = parts(log_p)
    odds = k / (len(d) - k) / d.mean()  # any common factor gives the same law; this one keeps the numbers in range
    d, u2 = d * odds, u2 * odds
    (p_in, q_in), (p_out, q_out) = (polynomials(d[m], u2[m], k) for m in (members, ~members))
    law = p_in * p_out[::-1] + q_in * p_out[::-1] + p_in * q_out[::-1]
    return law / law.sum()


def chi_square(observed, expected):
    """Returns the statistic and the degrees of freedom; neighbouring cells are pooled until each expects five."""
    pooled_observed, pooled_expected, o, e = [], [], 0.0, 0.0
    for count, mean in zip(observed, expected, strict=True):
        o, e = o + count, e + mean
        if e >= 5:
            pooled_observed.append(o)
            pooled_expected.append(e)
            o = e = 0.0
    pooled_observed[-1] += o
    pooled_expected[-1] += e
    o, e = np.array(pooled_observed), np.array(pooled_expected)
    return ((o - e) ** 2 / e).sum(), len(o) - 1


def enumeration_p_value(draw, cases, draws=20_000):
    """Returns the p-value, over all cases, of the hypothesis that draw(keys, log_p, k) -> (draws, k) follows the k-DPP.

    cases: (log_p, k). An impossible outcome (a -1, an item twice) gives 0.
    """
    total, freedom = 0.0, 0
    for number, (log_p, k) in enumerate(cases):
        subsets, law = dense_law(log_p, k)
        keys = jax.random.split(jax.random.key(number), draws)
        drawn = np.asarray(draw(keys, log_p, k))
        code = np.full(2 ** len(log_p), -1)
        code[(1 << subsets).sum(axis=1)] = np.arange(len(subsets))
        if drawn.min() < 0 or (np.diff(drawn, axis=1) <= 0).any():
            return 0.0
        observed = np.bincount(code[(1 << drawn).sum(axis=1)], minlength=len(subsets))
        order = np.argsort(-law)
        statistic, cells = chi_square(observed[order], draws * law[order])
        total, freedom = total + statistic, freedom + cells
    return stats.chi2.sf(total, freedom)


def random_cases(seed, sizes, repeats):
    """Returns cases (log p, k) of different kinds: uniform, near zero or one, mostly large, mostly small."""
    rng, cases = np.random.default_rng(seed), []
    for n, k in sizes:
        for repeat in range(repeats):
            a, b = [(1, 1), (0.3, 0.3), (5, 1), (1, 5)][repeat % 4]
            cases.append((np.log(np.clip(rng.beta(a, b, n), 1e-6, 1)), k))
    return cases


@functools.partial(jax.jit, static_argnames="plan")
def _draw_many(keys, log_p, n, plan):
    def draw(key):
        return rank_one.draw(key, log_p, n, jnp.float32(1), plan)

    # One draw after another where the items may be sorted: in a batch every draw would sort.
    return jax.lax.map(draw, keys) if plan.order == "even" else jax.vmap(draw)(keys)


def draw_rank_one(keys, log_p, k, **options):
    """Returns many draws by one plan; options as for rank_one.plan."""
    n = len(log_p)
    size = math.prod(options["chosen"]) if "chosen" in options else 1 << max(n - 1, 1).bit_length()
    padded = np.pad(np.asarray(log_p, np.float32), (0, size - n), constant_values=-np.inf)
    return _draw_many(keys, padded, np.int32(n), rank_one.plan(size, k, **options))


class Reference:
    dense_kernel = staticmethod(dense_kernel)
    dense_law = staticmethod(dense_law)
    parts = staticmethod(parts)
    polynomials = staticmethod(polynomials)
    count_law = staticmethod(count_law)
    chi_square = staticmethod(chi_square)
    enumeration_p_value = staticmethod(enumeration_p_value)
    random_cases = staticmethod(random_cases)
    draw_rank_one = staticmethod(draw_rank_one)


@pytest.fixture(scope="session")
def reference():
    return Reference
