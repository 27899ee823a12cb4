"""N = 5000, too large to enumerate: laws of counts and of pairs compared with exact values in float64."""

import jax
import numpy as np
import pytest
from scipy import stats

from lt_jax.ipdpp import inclusion_probabilities, sample

N, K = 5000, 500


def difficulties(order):
    log_p = np.log(np.random.default_rng(3).beta(2, 1, N))
    return {"sorted": np.sort(log_p), "reversed": np.sort(log_p)[::-1], "shuffled": log_p}[order]


def groups():
    """Yields masks of a random half, the first tenth, one node of the tree, and twenty pairs of items."""
    rng, items = np.random.default_rng(4), np.arange(N)
    yield rng.permutation(N) < N // 2
    yield items < N // 10
    yield items % 8 == 3
    for _ in range(20):
        i = int(rng.integers(N - 1))
        yield (items == i) | (items == i + 1)


def counts_p_value(reference, log_p, drawn):
    chosen = np.zeros((len(drawn), N), bool)
    np.put_along_axis(chosen, drawn, True, axis=1)
    total, freedom = 0.0, 0
    for members in groups():
        law = reference.count_law(log_p, K, members)
        observed = np.bincount(chosen[:, members].sum(axis=1), minlength=K + 1)
        statistic, cells = reference.chi_square(observed, law * len(drawn))
        total, freedom = total + statistic, freedom + cells
    return stats.chi2.sf(total, freedom)


CHAINS = {"chosen": (10, 16, 32)}  # without pairs, as for classes of more than 8,192 slots


@pytest.mark.parametrize(
    ("order", "options"), [("sorted", {}), ("reversed", {}), ("shuffled", {}), ("sorted", CHAINS), ("shuffled", CHAINS)]
)
@pytest.mark.slow
def test_counts_and_pairs(reference, order, options):
    log_p = difficulties(order)
    keys = jax.random.split(jax.random.key(1), 1500)
    drawn = np.asarray(reference.draw_rank_one(keys, log_p, K, **options))
    assert (np.diff(drawn, axis=1) > 0).all() and drawn.min() >= 0 and drawn.max() < N
    assert counts_p_value(reference, log_p, drawn) > 1e-6


def test_wrong_laws_are_rejected(reference):
    """Systematic sampling with exact marginals in file order, and a uniform subset, are rejected."""
    log_p, rng = difficulties("sorted"), np.random.default_rng(0)
    edges = np.cumsum(np.asarray(inclusion_probabilities(None, K, log_probabilities=log_p), np.float64))
    edges *= K / edges[-1]
    systematic = np.searchsorted(edges, rng.random((1500, 1)) + np.arange(K), side="right")
    assert counts_p_value(reference, log_p, systematic.clip(0, N - 1)) < 1e-12
    uniform = np.argsort(rng.random((1500, N)), axis=1)[:, :K]
    assert counts_p_value(reference, log_p, uniform) < 1e-12


def marginals_statistic(drawn, marginals):
    """Returns the sum of squared z-scores of all item frequencies minus its mean, in standard deviations."""
    frequency = np.bincount(drawn.ravel(), minlength=len(marginals)) / len(drawn)
    z = (frequency - marginals) / np.sqrt(marginals * (1 - marginals) / len(drawn))
    return ((z**2).sum() - len(z)) / np.sqrt(2 * len(z))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "n", "k", "draws"),
    [
        ("rank_one", 300, 30, 20_000),
        ("rank_one", 1000, 100, 20_000),
        ("rank_one", 5000, 500, 4000),
        ("eigen", 300, 30, 2000),
        ("eigen", 1000, 100, 150),
    ],
)
def test_marginals_of_draws(method, n, k, draws):
    """Frequencies of all items match the marginals; uniform draws fail the same statistic."""
    log_p = np.log(np.random.default_rng(n).beta(1, 1, n)).astype(np.float32)
    keys = jax.random.split(jax.random.key(n), draws)
    many = jax.jit(lambda keys: jax.lax.map(lambda key: sample(key, None, k, method, log_probabilities=log_p), keys))
    marginals = np.asarray(inclusion_probabilities(None, k, log_probabilities=log_p), np.float64)
    assert abs(marginals_statistic(np.asarray(many(keys)), marginals)) < 6
    uniform = np.argsort(np.random.default_rng(0).random((draws, n)), axis=1)[:, :k]
    assert marginals_statistic(uniform, marginals) > 6
