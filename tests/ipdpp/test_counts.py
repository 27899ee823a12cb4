"""Laws of the tree: mass, windows, precision, against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lt_jax.ipdpp import counts, rank_one, structure


def laws_of(log_p, k, order="even"):
    n = len(log_p)
    size = 1 << max(n - 1, 1).bit_length()
    padded = np.pad(np.asarray(log_p, np.float32), (0, size - n), constant_values=-np.inf)
    plan = rank_one.plan(size, k, order=order)

    @jax.jit
    def compute(log_p):
        s = structure.structure(log_p, jnp.int32(n), jnp.float32(1))
        theta = rank_one.tilt(s.log_d, s.present, s.n, k)
        b, not_b, v, _ = rank_one.coins(s, theta)
        b, not_b, v, _ = rank_one.arrange(b, not_b, v, plan)
        return b, rank_one.grow(b, not_b, v, plan.windows)[0], counts.even(b, plan.windows)

    return plan, *compute(padded)


def true_law(b, count):
    """P(S = 0 .. count) in float64."""
    law = np.zeros(count + 1)
    law[0] = 1
    for b_i in b:
        law[1:] = law[1:] * (1 - b_i) + law[:-1] * b_i
        law[0] *= 1 - b_i
    return law


EXTREME = {
    "even": lambda n: np.full(n, 0.3),
    "random": lambda n: np.random.default_rng(0).random(n),
    "ones and zeros": lambda n: (np.arange(n) % 3 == 0).astype(float),
    "zeros first": lambda n: (np.arange(n) > n // 10).astype(float),
    "hard first": lambda n: np.linspace(1e-6, 1, n),
    "periodic": lambda n: np.where(np.arange(n) % 64 == 5, 0.0, 1 - 1e-6),
    "one hard": lambda n: np.where(np.arange(n) == 7, 0.0, 1.0),
    "tiny": lambda n: np.full(n, 1e-30),
}


@pytest.mark.parametrize("kind", EXTREME)
@pytest.mark.parametrize(("n", "k"), [(3000, 300), (3000, 2990)])
def test_total_mass_and_every_law(kind, n, k):
    with np.errstate(divide="ignore"):
        log_p = np.log(EXTREME[kind](n))
    plan, b, laws, even = laws_of(log_p, k)
    assert plan.order == "even" and bool(even)  # the windows in use are proven for these means
    b = np.asarray(b, np.float64)
    for level in range(1, plan.depth + 1):
        window, law = plan.windows[level], np.asarray(laws[level][0], np.float64)
        assert np.abs(law.sum(axis=0) - 1).max() < 1e-6
        for node in {0, 2**level // 3, 2**level - 1}:
            # Measured against the law at full width: nothing outside the window, nothing wrong inside.
            truth = true_law(b[node :: 2**level], k)
            kept = truth[window.low : window.low + window.width]
            if window.slack < math.inf or window.low + window.width > k:
                assert abs(truth[:k].sum() - kept.sum()) < 1e-9 or 1 - truth.sum() > 1e-9
            kept = kept / kept.sum()
            assert np.abs(law[: len(kept), node] - kept).sum() < 1e-5 * max(1, math.log2(n / 2**level))


def test_uneven_nodes_are_sorted_first():
    """Every eighth item hard: as given, one node would hold them all, and its window be wrong."""
    n, k = 8192, 800
    p = np.where(np.arange(n) % 8 == 5, 0.0, 1.0)
    *_, even = laws_of(np.log(np.maximum(p, 1e-38)), k, order="given")
    assert not bool(even)
    *_, even = laws_of(np.log(np.maximum(p, 1e-38)), k)
    assert bool(even)


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 40.0, 1000.0])
def test_chernoff_is_above_the_poisson_tail(mean):
    for count in (math.ceil(mean), math.ceil(mean + 5 * mean**0.5), math.ceil(3 * mean)):
        assert stats.poisson.sf(count - 1, mean) <= math.exp(counts.log_tail(mean, count)) + 1e-15
    for count in (math.floor(mean), math.floor(mean / 2)):
        assert stats.poisson.cdf(count, mean) <= math.exp(counts.log_tail(mean, count)) + 1e-15


@pytest.mark.parametrize(("k", "depth", "items"), [(10, 3, 4), (500, 4, 512), (10_000, 6, 2**14), (10**5, 12, 4096)])
def test_windows_hold_what_they_promise(k, depth, items):
    window = counts.window(k, depth, items)
    assert window.low >= 0 and window.low + window.width - 1 <= min(items, k)
    if window.slack < math.inf:
        mean, high = k / 2**depth, window.low + window.width - 1
        outside = math.exp(counts.log_tail(mean + window.slack, high)) if high < min(items, k) else 0
        outside += math.exp(counts.log_tail(max(mean - window.slack, 0), window.low - 1)) if window.low else 0
        assert outside * 2**depth <= counts.TAIL * 1.01


@pytest.mark.parametrize(("rows", "columns", "offset", "width"), [(2, 4, 0, 3), (5, 2, 2, 6), (40, 1024, 10, 50)])
def test_multiply_and_its_derivative(rows, columns, offset, width):
    """Against numpy.convolve: in blocks, in loops, written out; and the derivative."""
    rng = np.random.default_rng(0)
    laws = rng.random((2, rows, 2 * columns)).astype(np.float32)
    out, mass = counts.merge(jnp.asarray(laws), offset, width)
    for column in (0, columns - 1):
        (p1, q1), (p2, q2) = laws[:, :, column], laws[:, :, column + columns]
        p = np.convolve(p1, p2)[offset : offset + width]
        q = (np.convolve(p1, q2) + np.convolve(q1, p2))[offset : offset + width]
        np.testing.assert_allclose(out[0, :, column] * mass[column], p, rtol=2e-5)
        np.testing.assert_allclose(out[1, :, column] * mass[column], q, rtol=2e-5)
    weights = jnp.asarray(rng.random((2, width, columns)), jnp.float32)

    def total(laws):
        out, mass = counts.merge(laws, offset, width)
        return jnp.sum(weights * out * jax.lax.stop_gradient(mass)[None, None, :])

    gradient = jax.grad(total)(jnp.asarray(laws))
    for index in [(0, 0, 0), (1, rows - 1, columns), (0, rows // 2, 2 * columns - 1)]:
        # The product is linear in each factor, so a unit step is exact up to rounding.
        column = index[2] % columns
        alone = np.zeros_like(laws)
        other = columns + column if index[2] < columns else column
        alone[:, :, other] = laws[:, :, other]
        alone[index] = 1
        product = counts.multiply((jnp.asarray(alone), 0), (jnp.asarray(alone), columns), offset, width, columns)
        np.testing.assert_allclose(gradient[index], jnp.sum((weights * product)[:, :, column]), rtol=2e-4)


@pytest.mark.parametrize(("exponent"), [-12, -9, -7, -5])
@pytest.mark.parametrize("n", [50, 3000])
def test_weights_of_saturated_p(reference, exponent, n):
    """1 - p from 1e-12 to 1e-5, as log p in float32: log d and w within 1e-5 of float64."""
    q = 10.0**exponent * np.random.default_rng(0).uniform(0.1, 1, n)
    log_p = np.log1p(-q).astype(np.float32)
    d, u2 = reference.parts(log_p.astype(np.float64))
    size = 1 << (n - 1).bit_length()
    padded = np.pad(log_p, (0, size - n), constant_values=-np.inf)
    s = structure.structure(jnp.asarray(padded), jnp.int32(n), jnp.float32(1))
    # The d have a common factor; near one its logarithm would hide errors.
    np.testing.assert_allclose(np.exp(np.asarray(s.log_d[:n], np.float64)), d, rtol=1e-5)
    w = np.exp(np.asarray(2 * jnp.log(s.p) + s.log_a - s.log_d, np.float64))[:n]
    np.testing.assert_allclose(w, u2 / d, rtol=1e-5)
