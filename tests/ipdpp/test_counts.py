"""Laws of the tree compared with float64: mass, windows, precision."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lt_jax.ipdpp import counts, rank_one, structure


def laws_of(log_p, k, order="even", **options):
    """Returns the plan, the coins and their complements in slot order, the tables of all stages, and `even`."""
    n = len(log_p)
    size = 1 << max(n - 1, 1).bit_length()
    padded = np.pad(np.asarray(log_p, np.float32), (0, size - n), constant_values=-np.inf)
    plan = rank_one.plan(size, k, order=order, **options)

    @jax.jit
    def compute(log_p):
        s = structure.structure(log_p, jnp.int32(n), jnp.float32(1))
        theta = rank_one.tilt(s.log_d, s.present, s.n, k)
        b, not_b, v, _ = rank_one.coins(s, theta)
        b, not_b, v, _ = rank_one.arrange(b, not_b, v, plan)
        passed, lows = rank_one.up(b, not_b, v, plan)[2], [0, *(s.lows[-1] for s in plan.stages)]
        tables = [
            rank_one.chain(children, stage, low)[:2]
            for (children, _), stage, low in zip(passed, plan.stages, lows, strict=False)
        ]
        return b, not_b, tables, counts.even(b, plan.stages)

    b, not_b, tables, even = compute(padded)
    return plan, np.asarray(b, np.float64), np.asarray(not_b, np.float64), tables, bool(even)


def true_law(b, not_b, count):
    """Returns the weights of 0 .. count heads in float64."""
    law = np.zeros(count + 1)
    law[0] = 1
    for heads, tails in zip(b, not_b, strict=True):
        law[1:] = law[1:] * tails + law[:-1] * heads
        law[0] *= tails
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


def mass_errors(plan, b, not_b, tables):
    """Yields (mass outside the window, absolute error inside it) for some laws of every stage.

    The reference uses the same coins in float64. Entries for more than k heads are never used, so they are ignored.
    """
    for stage, (before, after) in zip(plan.stages, tables, strict=True):
        every = [np.asarray(x, np.float64) for x in [*before[:, 0], after.p]]
        for node in sorted({0, 5 % stage.nodes, stage.nodes // 3, stage.nodes - 1}):
            for j in sorted({1, stage.children // 3, stage.children // 2, stage.children - 1, stage.children}):
                slot = np.arange(len(b))
                mine = (slot % stage.nodes == node) & (slot // stage.nodes % stage.children < j)
                truth = true_law(b[mine], not_b[mine], plan.k)
                table = every[j][:, node]
                truth = truth / truth.sum()
                assert abs(table.sum() - 1) < 1e-6
                low, high = stage.lows[j], min(stage.lows[j] + len(table), plan.k + 1)
                outside = truth[:low].sum() + truth[high:].sum()
                window = table[: high - low]
                yield outside, np.abs(window / window.sum() - truth[low:high]).sum()


@pytest.mark.parametrize("kind", EXTREME)
@pytest.mark.parametrize(
    ("n", "k", "options"), [(3000, 300, {}), (3000, 2990, {}), (1000, 100, {}), (3000, 300, {"chosen": (16, 16, 16)})]
)
def test_mass_of_every_law(kind, n, k, options):
    """The total error of float32 tables: the mass outside the windows, and the error of the entries."""
    with np.errstate(divide="ignore"):
        log_p = np.log(EXTREME[kind](n))
    plan, b, not_b, tables, even = laws_of(log_p, k, **options)
    assert even  # the windows in use are proven for these means
    outside, wrong = np.array(list(mass_errors(plan, b, not_b, tables))).T
    assert outside.max() < counts.TAIL
    assert wrong.max() < 1e-6


def test_uneven_nodes_are_sorted_first():
    """Every 32nd item is hard: unsorted, one node would hold them all, and mass would be outside its window."""
    n, k = 8192, 800
    log_p = np.log(np.where(np.arange(n) % 32 == 5, 1e-38, 1.0))
    plan, b, not_b, tables, even = laws_of(log_p, k, order="given")
    assert not even and max(mass_errors(plan, b, not_b, tables))[0] > 1e-6
    plan, b, not_b, tables, even = laws_of(log_p, k)
    assert even and max(mass_errors(plan, b, not_b, tables))[0] < counts.TAIL


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 40.0, 1000.0])
def test_chernoff_is_above_the_poisson_tail(mean):
    for count in (math.ceil(mean), math.ceil(mean + 5 * mean**0.5), math.ceil(3 * mean)):
        assert stats.poisson.sf(count - 1, mean) <= math.exp(counts.log_tail(mean, count)) + 1e-15
    for count in (math.floor(mean), math.floor(mean / 2)):
        assert stats.poisson.cdf(count, mean) <= math.exp(counts.log_tail(mean, count)) + 1e-15


@pytest.mark.parametrize(
    ("k", "children", "nodes", "items"), [(500, 16, 1, 512), (10_000, 64, 64, 256), (10**5, 32, 2**13, 64)]
)
def test_the_mass_outside_windows_is_bounded(k, children, nodes, items):
    stage = counts.stage(children, nodes, items, k)
    for j, (low, mean, slack) in enumerate(zip(stage.lows, stage.means, stage.slacks, strict=True)):
        most, high = min(j * items, k), low + stage.width - 1
        assert low >= 0 and (slack < math.inf or low == 0 and high >= most)
        if slack < math.inf:
            outside = math.exp(counts.log_tail(mean + slack, high)) if high < most else 0
            outside += math.exp(counts.log_tail(max(mean - slack, 0), low - 1)) if low else 0
            assert outside * nodes * children <= counts.TAIL * 1.01


def test_sorted_coins_are_even_enough():
    """Sorted coins pass the check, for steps and slopes of every length, so they need no check at run time."""
    size, k = 2**12, 200
    plan = rank_one.plan(size, k)
    for hard in (3, 37, 130, 199):
        for easy in (0.0, 1e-3):
            b = np.where(np.arange(size) < hard, 1.0, easy)
            b[hard:] += (k - b.sum()) * np.linspace(2, 0, size - hard) / (size - hard)
            assert bool(counts.even(jnp.asarray(np.sort(b)[::-1], jnp.float32), plan.stages)), (hard, easy)


@pytest.mark.parametrize(("rows", "terms", "start"), [(5, 3, 0), (12, 5, 2), (40, 33, -4)])
def test_multiply(rows, terms, start):
    """Compares with numpy.convolve, at offsets to both sides."""
    rng = np.random.default_rng(0)
    laws, child = (rank_one.Dual(*jnp.asarray(rng.random((2, size, 3)), jnp.float32)) for size in (rows, terms))
    product = rank_one.multiply(laws, child, jnp.int32(start), [-5, start, 3], rows + 2)
    for node in range(3):
        (p1, q1), (p2, q2) = ([np.asarray(x[:, node], np.float64) for x in law] for law in (laws, child))
        p, q = np.convolve(p1, p2), np.convolve(p1, q2) + np.convolve(q1, p2)
        at = np.arange(rows + 2) + start
        inside = (at >= 0) & (at < len(p))
        for actual, truth in ((product.p, p), (product.q, q)):
            expected = np.where(inside, truth[at.clip(0, len(p) - 1)], 0)
            np.testing.assert_allclose(actual[:, node], expected, rtol=1e-5)


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
    # All d have a common factor. Near one, comparing logarithms would hide errors.
    np.testing.assert_allclose(np.exp(np.asarray(s.log_d[:n], np.float64)), d, rtol=1e-5)
    w = np.exp(np.asarray(2 * jnp.log(s.p) + s.log_a - s.log_d, np.float64))[:n]
    np.testing.assert_allclose(w, u2 / d, rtol=1e-5)
