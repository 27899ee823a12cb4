"""Marginals, probabilities and information compared with float64 determinants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lt_jax.ipdpp import expected_information, inclusion_probabilities, kernel, log_probability, sample, structure


def random_log_p(seed, n, a=1.0, b=1.0):
    return np.log(np.clip(np.random.default_rng(seed).beta(a, b, n), 1e-6, 1))


def float64_marginals(reference, log_p, k):
    """Returns marginals from prefix and suffix polynomials, without division or subtraction."""
    n = len(log_p)
    d, u2 = reference.parts(log_p)
    odds = k / (n - k) / d.mean()
    d, u2 = d * odds / (1 + d * odds), u2 * odds / (1 + d * odds)  # coins, so that the numbers stay near one
    tails = 1 - d
    p, q = np.zeros((n + 1, k + 1)), np.zeros((n + 1, k + 1))
    p[0, 0] = 1
    for i in range(n):
        p[i + 1] = tails[i] * p[i] + d[i] * np.append(0, p[i, :-1])
        q[i + 1] = tails[i] * q[i] + d[i] * np.append(0, q[i, :-1]) + u2[i] * np.append(0, p[i, :-1])
    after_p, after_q = np.zeros(k + 1), np.zeros(k + 1)
    after_p[0], marginals = 1, np.zeros(n)
    for i in range(n - 1, -1, -1):
        pp = (p[i, :k] * after_p[k - 1 :: -1][:k]).sum()
        cross = (p[i, :k] * after_q[k - 1 :: -1][:k]).sum() + (q[i, :k] * after_p[k - 1 :: -1][:k]).sum()
        marginals[i] = d[i] * (pp + cross) + u2[i] * pp
        after_q = tails[i] * after_q + d[i] * np.append(0, after_q[:-1]) + u2[i] * np.append(0, after_p[:-1])
        after_p = tails[i] * after_p + d[i] * np.append(0, after_p[:-1])
    return marginals / (p[n, k] + q[n, k])


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 3), (7, 6), (10, 5)])
def test_small_against_determinants(reference, n, k):
    log_p = random_log_p(0, n)
    subsets, law = reference.dense_law(log_p, k)
    marginals = np.array([law[(subsets == i).any(axis=1)].sum() for i in range(n)])
    marginals_float32 = inclusion_probabilities(None, k, log_probabilities=log_p)
    np.testing.assert_allclose(marginals_float32, marginals, rtol=1e-5)
    logs = [log_probability(None, subset, log_probabilities=log_p) for subset in subsets]
    np.testing.assert_allclose(logs, np.log(law), atol=1e-5)
    assert np.exp(np.array(logs, np.float64)).sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel(np.exp(log_p)), reference.dense_kernel(log_p), atol=1e-6)
    np.testing.assert_allclose(np.asarray(kernel(np.exp(log_p))).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(300, 30), (300, 299), (1000, 1), (2000, 500), (5000, 500)])
def test_marginals_against_float64(reference, n, k):
    log_p = random_log_p(n, n)
    marginals_float32 = np.asarray(inclusion_probabilities(None, k, log_probabilities=log_p), np.float64)
    assert marginals_float32.sum() == pytest.approx(k, rel=1e-5)
    np.testing.assert_allclose(marginals_float32, float64_marginals(reference, log_p, k), rtol=3e-5)


def test_marginals_do_not_depend_on_the_order_of_items(reference):
    log_p = random_log_p(1, 5000, 0.2, 0.2)
    order = np.argsort(log_p)
    shuffled, in_order = (
        np.asarray(inclusion_probabilities(None, 700, log_probabilities=x)) for x in (log_p, log_p[order])
    )
    np.testing.assert_allclose(shuffled[order], in_order, rtol=2e-5)


def test_marginals_of_eigen_draws():
    n, k, draws = 300, 30, 400
    log_p = jnp.asarray(random_log_p(2, n), jnp.float32)
    keys = jax.random.split(jax.random.key(0), draws)
    many = jax.jit(lambda keys: jax.lax.map(lambda key: sample(key, None, k, "eigen", log_probabilities=log_p), keys))
    drawn = np.asarray(many(keys))
    marginals = np.asarray(inclusion_probabilities(None, k, log_probabilities=np.asarray(log_p)), np.float64)
    frequency = np.bincount(drawn.ravel(), minlength=n) / draws
    z = (frequency - marginals) / np.sqrt(marginals * (1 - marginals) / draws)
    assert abs((z**2).sum() - n) < 6 * np.sqrt(2 * n)


def test_saturated_p_keeps_its_law(reference):
    """With 1 - p of 1e-9 the law still prefers the harder items; float32 p alone could not distinguish them."""
    q = 1e-9 * np.array([1.0, 2, 4, 8, 16, 32])
    log_p = np.log1p(-q)
    d, u2 = reference.parts(log_p)
    subsets = reference.dense_law(np.log(np.full(6, 0.5)), 3)[0]
    weights = np.prod(d[subsets], axis=1) * (1 + (u2 / d)[subsets].sum(axis=1))
    law = weights / weights.sum()
    logs = [log_probability(None, subset, log_probabilities=log_p) for subset in subsets]
    np.testing.assert_allclose(logs, np.log(law), atol=1e-5)
    assert law.max() / law.min() > 4


def test_order_of_the_subset_does_not_matter_and_whole_sets_are_certain():
    p = np.linspace(0.1, 0.9, 6)
    assert log_probability(p, np.array([4, 1])) == log_probability(p, np.array([1, 4]))
    assert log_probability(p, np.arange(6)) == 0 and log_probability(p, np.zeros(0, int)) == 0
    np.testing.assert_array_equal(inclusion_probabilities(p, 6), 1)
    np.testing.assert_allclose(inclusion_probabilities(p, 3, pad_to=100), inclusion_probabilities(p, 3), rtol=1e-6)
    np.testing.assert_array_equal(inclusion_probabilities(p, 0), 0)


def test_expected_information_is_above_uniform(reference):
    log_p = random_log_p(4, 8)
    subsets, law = reference.dense_law(log_p, 3)
    information = expected_information(None, 3, log_probabilities=log_p)
    assert information.ipdpp == pytest.approx((law * -log_p[subsets].mean(axis=1)).sum(), rel=1e-5)
    assert information.uniform == pytest.approx(-log_p.mean(), rel=1e-5)
    assert information.ipdpp > information.uniform


def test_measures_under_jit():
    p = np.linspace(0.1, 0.9, 6).astype(np.float32)
    marginals = jax.jit(lambda p: inclusion_probabilities(p, 2))
    np.testing.assert_allclose(marginals(p), inclusion_probabilities(p, 2), rtol=1e-5)
    assert np.isnan(marginals(p.at[0].set(2.0) if hasattr(p, "at") else np.where(p < 0.2, 2, p))).all()
    for k in (0, 6):
        assert np.isnan(jax.jit(lambda p, k=k: inclusion_probabilities(p, k))(np.where(p < 0.2, np.nan, p))).all()
        assert np.isnan(jax.jit(lambda p, k=k: log_probability(p, np.arange(k)))(np.where(p < 0.2, np.nan, p)))
        np.testing.assert_array_equal(jax.jit(lambda p, k=k: inclusion_probabilities(p, k))(p), float(k > 0))
    logs = jax.jit(lambda p, subset: log_probability(p, subset))
    assert logs(p, np.array([1, 2])) == pytest.approx(float(log_probability(p, np.array([1, 2]))), abs=1e-5)


@pytest.mark.parametrize("p", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_the_diagonal_of_a_large_scale_is_exact(p, share):
    """With equal p the largest scale is 1 / (N p p), where the diagonal part is 0; a share s of it leaves 1 - s."""
    log_p = np.full(100, np.log(p), np.float32)
    relative_scale = np.float32(share / p**2)
    parts = structure.structure(log_p, np.int32(100), relative_scale)
    np.testing.assert_allclose(np.exp(parts.log_d), 1 - share, atol=2e-5)
    assert bool(parts.valid)
    rows = np.asarray(structure.dense(log_p, relative_scale)).sum(axis=1)
    np.testing.assert_allclose(rows, 1, atol=5e-5)
