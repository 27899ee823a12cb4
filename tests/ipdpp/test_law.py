"""The law of the draws compared with full enumeration; the same test rejects wrong samplers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lt_jax.ipdpp import METHODS, eigen, rank_one, structure

ACCEPT, REJECT = 1e-6, 1e-12  # noise falls below ACCEPT once in a million runs, a wrong sampler below REJECT
SIZES = [(8, 3), (7, 4)]


def by_method(method):
    """Returns a function of many draws. Each call of by_method compiles again, so that a patched fault takes effect."""

    @functools.partial(jax.jit, static_argnames="k")
    def many(keys, log_p, n, k):
        return jax.vmap(lambda key: METHODS[method](key, log_p, n, jnp.float32(1), k))(keys)

    def draw(keys, log_p, k):
        n = len(log_p)
        padded = np.pad(np.asarray(log_p, np.float32), (0, 8 - n), constant_values=-np.inf)
        return many(keys, padded, np.int32(n), k)

    return draw


@pytest.mark.parametrize("method", ["rank_one", "eigen"])
def test_exact_methods_have_the_law(reference, method):
    cases = reference.random_cases(0, SIZES, 4)
    assert reference.enumeration_p_value(by_method(method), cases) > ACCEPT


@pytest.mark.parametrize("method", ["algorithm1", "uniform"])
def test_inexact_methods_are_rejected(reference, method):
    cases = reference.random_cases(0, SIZES[:1], 4)
    assert reference.enumeration_p_value(by_method(method), cases) < REJECT


def test_systematic_sampling_is_rejected(reference):
    """It has exact inclusion probabilities but the wrong law; tests of the marginals alone would accept it."""

    def draw(keys, log_p, k):
        subsets, law = reference.dense_law(log_p, k)
        marginals = np.array([law[(subsets == i).any(axis=1)].sum() for i in range(len(log_p))])
        edges = np.concatenate([[0], np.cumsum(marginals)])
        edges[-1] = k
        starts = np.random.default_rng(0).random(len(keys))
        points = starts[:, None] + np.arange(k)
        drawn = np.searchsorted(edges, points, side="right") - 1
        frequency = (drawn[:, :, None] == np.arange(len(log_p))).any(axis=1).mean(axis=0)
        np.testing.assert_allclose(frequency, marginals, atol=0.02)
        return drawn

    assert reference.enumeration_p_value(draw, reference.random_cases(0, SIZES, 4)) < REJECT


def _without_rank_one_part(s, theta):
    b, not_b, v, log_s = rank_one_coins(s, theta)
    return b, not_b, v, jnp.full_like(log_s, -jnp.inf)


def _diagonal_without_mean(s, theta):
    q = jnp.where(s.present, 1 - s.p, 0)
    return rank_one_coins(s._replace(log_d=jnp.where(s.present, jnp.log(q), -jnp.inf)), theta)


def _special_by_p_instead_of_its_square(s, theta):
    b, not_b, v, log_s = rank_one_coins(s, theta)
    v = jnp.where(s.present, s.p * not_b, 0)
    return b, not_b, v / structure.tree_sum(v), log_s


rank_one_coins = rank_one.coins
FAULTS = [_without_rank_one_part, _diagonal_without_mean, _special_by_p_instead_of_its_square]


def by_stages(chosen, order):
    """Returns a function of many draws through the chosen stages; each call of by_stages compiles again."""

    @functools.partial(jax.jit, static_argnames="k")
    def many(keys, log_p, n, k):
        plan = rank_one.plan(log_p.shape[0], k, chosen, order)
        return jax.vmap(lambda key: rank_one.draw(key, log_p, n, jnp.float32(1), plan))(keys)

    def draw(keys, log_p, k):
        padded = np.pad(np.asarray(log_p, np.float32), (0, math.prod(chosen) - len(log_p)), constant_values=-np.inf)
        return many(keys, padded, np.int32(len(log_p)), k)

    return draw


@pytest.mark.parametrize(("chosen", "order"), [((8,), "given"), ((2, 4), "given"), ((2, 2, 2), "sorted")])
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_rejected(reference, monkeypatch, fault, chosen, order):
    """One chain, blocks of two, and three stages."""
    monkeypatch.setattr(rank_one, "coins", fault)
    cases = reference.random_cases(0, SIZES[:1], 4)
    assert reference.enumeration_p_value(by_stages(chosen, order), cases, draws=100_000) < REJECT


def test_a_fault_in_eigen_is_rejected(reference, monkeypatch):
    """The fault: eigenvectors are chosen by the squares of their eigenvalues."""
    choose = eigen.choose_eigenvectors
    monkeypatch.setattr(eigen, "choose_eigenvectors", lambda key, x, k, tilt: choose(key, x * x, k, tilt))
    assert reference.enumeration_p_value(by_method("eigen"), reference.random_cases(0, SIZES[:1], 4)) < REJECT


# All code paths: one chain; two and three stages; stages with fewer and with more nodes than k; unsorted and sorted
# items; full slots (16 items) and empty ones (5, 9); k = 1 and k = N - 1.
PATHS = {
    "one chain": ((8, 3), {"chosen": (8,)}),
    "blocks of two": ((8, 3), {"chosen": (2, 4)}),
    "two stages, sorted": ((8, 4), {"chosen": (4, 2), "order": "sorted"}),
    "depth three": ((8, 3), {"chosen": (2, 2, 2)}),
    "depth three, sorted": ((10, 4), {"chosen": (2, 2, 4), "order": "sorted"}),
    "three chains": ((10, 4), {"chosen": (3, 3, 3)}),
    "empty slots": ((9, 3), {"chosen": (4, 4)}),
    "few nodes of pairs": ((8, 1), {"chosen": (2, 2, 2)}),
    "few nodes of pairs, then all": ((14, 2), {"chosen": (2, 2, 2, 2), "order": "sorted"}),
    "all nodes of pairs, fewer items": ((13, 3), {"chosen": (2, 2, 2, 2)}),
    "all but one": ((5, 4), {"chosen": (2, 2, 2)}),
    "one of five": ((5, 1), {"chosen": (2, 4), "order": "sorted"}),
    "one of two": ((2, 1), {"chosen": (2,)}),
    "two of three": ((3, 2), {"chosen": (2, 2)}),
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_the_law(reference, path):
    shape, options = PATHS[path]

    def draw(keys, log_p, k):
        return reference.draw_rank_one(keys, log_p, k, **options)

    assert reference.enumeration_p_value(draw, reference.random_cases(1, [shape], 8)) > ACCEPT


@pytest.mark.slow
@pytest.mark.parametrize("order", ["given", "sorted"])
@pytest.mark.parametrize("chosen", [(16,), (2, 8), (8, 2), (4, 4), (2, 2, 4), (2, 4, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("shape", [(10, 5), (6, 2), (10, 9)])
def test_every_combination_has_the_law(reference, shape, chosen, order):
    def draw(keys, log_p, k):
        return reference.draw_rank_one(keys, log_p, k, chosen=chosen, order=order)

    assert reference.enumeration_p_value(draw, reference.random_cases(2, [shape], 12)) > ACCEPT


def test_scale_changes_the_law(reference):
    """With the released code's scale 1 / N^2 the kernel is nearly diagonal, and draws differ from the paper's."""
    log_p, k, n = np.log(np.linspace(0.2, 1, 8)), 3, 8
    keys = jax.random.split(jax.random.key(5), 60_000)
    padded = np.asarray(log_p, np.float32)
    relative = jnp.float32(1 / n)
    drawn = jax.jit(jax.vmap(lambda key: METHODS["rank_one"](key, padded, np.int32(n), relative, k)))(keys)
    codes = (1 << np.asarray(drawn)).sum(axis=1)
    for scale, passes in ((1 / n**2, True), (1 / n, False)):
        subsets, law = reference.dense_law(log_p, k, scale)
        observed = (codes[:, None] == (1 << subsets).sum(axis=1)).sum(axis=0)
        statistic, freedom = reference.chi_square(observed, law * len(keys))
        assert (statistic < freedom + 6 * np.sqrt(2 * freedom)) == passes


@pytest.mark.parametrize(
    "p", [np.full(6, 0.4), np.zeros(6), np.ones(6), np.eye(6)[2], np.full(6, 1e-30), 1 - np.eye(6)[2]]
)
def test_extreme_p_has_the_law(reference, p):
    """All equal, all 0, all 1 (uniform by convention), one 1 among zeros, all 1e-30, one 0 among ones."""
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    # For p = 1 the kernel has rank one, which defines no law for k >= 2; the convention is that of equal p: uniform.
    law_of = np.log(np.full(6, 0.4)) if p.min() == 1 else log_p
    subsets, law = reference.dense_law(law_of, 2)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(reference.draw_rank_one(keys, log_p, 2))
    observed = (drawn[:, None] == subsets).all(axis=2).sum(axis=0)
    assert observed.sum() == len(keys)
    possible = law > 1e-12
    assert observed[~possible].sum() == 0
    statistic, freedom = reference.chi_square(observed[possible], law[possible] * len(keys))
    assert statistic < freedom + 6 * np.sqrt(2 * freedom + 1)
