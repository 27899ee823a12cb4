"""The flow: its log-determinant against a numerical Jacobian, its inverse, and the integral of its density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from lt_jax.dlsa import flow as flows


def random_flow(dimension, blocks=2, clusters=3, seed=0, scale=0.3):
    """Returns a flow whose parameters and running statistics differ from their initial values."""
    flow = flows.create(jax.random.key(seed), dimension, clusters, blocks, centre_deviation=0.5)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(x.dtype), flow.params)
    stats = tuple(
        {"mean": jnp.asarray(rng.normal(size=dimension)), "variance": jnp.asarray(rng.uniform(0.5, 2, dimension))}
        for _ in range(blocks)
    )
    return flows.Flow(params, stats, flow.centres)


def in_float64(flow, x, function):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), flow)
        return np.asarray(function(wide, jnp.asarray(np.asarray(x), jnp.float64)))


def numerical_log_det(flow, x, step=1e-6):
    """Returns the log-determinant of each item by central differences in float64."""
    log_dets = []
    for item in np.asarray(x, np.float64):
        moves = step * np.eye(len(item))
        points = np.concatenate([item + moves, item - moves])
        z = in_float64(flow, points, lambda f, p: f.forward(p)[0])
        log_dets.append(np.linalg.slogdet((z[: len(item)] - z[len(item) :]).T / (2 * step))[1])
    return np.array(log_dets)


@pytest.mark.parametrize(("dimension", "blocks"), [(1, 1), (2, 1), (3, 2), (7, 3)])
def test_log_determinant_matches_the_numerical_jacobian(dimension, blocks):
    flow = random_flow(dimension, blocks)
    x = np.random.default_rng(1).normal(size=(3, dimension)).astype(np.float32)
    log_det = in_float64(flow, x, lambda f, p: f.forward(p)[1])
    np.testing.assert_allclose(log_det, numerical_log_det(flow, x), rtol=1e-6, atol=1e-7)


def test_log_determinant_in_training_holds_the_batch_statistics_constant():
    flow, x = random_flow(4), np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    log_det = in_float64(flow, x, lambda f, p: flows.transform(f.params, f.stats, p, train=True)[1])
    used, here = [], x.astype(np.float64)  # batch statistics of each block, computed with NumPy
    for number, params in enumerate(flow.params):
        before = flows.Flow(flow.params[:number], tuple(used), flow.centres)
        z = in_float64(before, here, lambda f, p: f.forward(p)[0])
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params["made"])
        with jax.enable_x64(True):
            u = np.asarray(flows._made_forward(wide, jnp.asarray(z, jnp.float64), number % 2 == 1)[0])
        used.append({"mean": u.mean(axis=0), "variance": u.var(axis=0, ddof=1)})
    held = flows.Flow(flow.params, tuple(used), flow.centres)
    np.testing.assert_allclose(log_det, numerical_log_det(held, x), rtol=1e-6, atol=1e-7)


def test_running_statistics_move_a_tenth_towards_the_batch():
    flow = flows.create(jax.random.key(0), 3, 2, blocks=1)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(5, 3)), jnp.float32)
    _, _, (after,) = flows.transform(flow.params, flow.stats, x, train=True)
    u = np.asarray(flows._made_forward(flow.params[0]["made"], x, False)[0])
    np.testing.assert_allclose(after["mean"], 0.1 * u.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["variance"], 0.9 + 0.1 * u.var(axis=0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("dimension", [1, 2, 6])
def test_inverse_of_forward_is_the_identity(dimension):
    flow = random_flow(dimension, blocks=3)
    x = np.random.default_rng(4).normal(size=(8, dimension)).astype(np.float32)
    back = in_float64(flow, x, lambda f, p: f.inverse(f.forward(p)[0]))
    np.testing.assert_allclose(back, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("flipped", [False, True])
def test_each_output_depends_only_on_earlier_inputs(flipped):
    layers = random_flow(5, blocks=1).params[0]["made"]
    x = jnp.asarray(np.random.default_rng(5).normal(size=5), jnp.float32)
    jacobian = np.asarray(
        jax.jacobian(lambda v: jnp.concatenate(flows._shift_and_log_scale(layers, v[None], flipped), 1)[0])(x)
    )
    sees = (np.abs(jacobian) > 0).reshape(2, 5, 5)
    allowed = np.tril(np.ones((5, 5), bool), -1)
    allowed = allowed[::-1, ::-1] if flipped else allowed
    assert not (sees & ~allowed).any()
    assert (flows.masks(5, flipped)[0] @ flows.masks(5, flipped)[1] @ flows.masks(5, flipped)[2] > 0)[
        :, :5
    ].T.tolist() == allowed.tolist()


def test_density_integrates_to_one():
    flow = random_flow(2, scale=0.1)
    grid = np.linspace(-40, 40, 641)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2).astype(np.float32)
    mass = np.exp(np.asarray(flow.log_prob(jnp.asarray(points)), np.float64)).sum() * (grid[1] - grid[0]) ** 2
    assert mass == pytest.approx(1.0, abs=2e-3)


def test_base_density_is_the_mixture():
    z = np.random.default_rng(6).normal(size=(4, 3)).astype(np.float32)
    centres = np.random.default_rng(7).normal(size=(5, 3)).astype(np.float32)
    expected = np.log(np.mean([scipy_stats.multivariate_normal(m).pdf(z) for m in centres], axis=0))
    log_p = flows.base_log_prob(flows.cluster_logits(jnp.asarray(z), jnp.asarray(centres)), jnp.asarray(z))
    np.testing.assert_allclose(log_p, expected, rtol=1e-5)


def test_samples_have_the_density_of_the_flow():
    """The mean log-density of samples is minus the entropy, which a sum over a grid gives too."""
    flow = random_flow(2, scale=0.1)
    drawn = np.asarray(flow.log_prob(flow.sample(jax.random.key(1), 4000)), np.float64)
    grid = np.linspace(-40, 40, 641)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2).astype(np.float32)
    log_p = np.asarray(flow.log_prob(jnp.asarray(points)), np.float64)
    expected = (np.exp(log_p) * log_p).sum() * (grid[1] - grid[0]) ** 2
    assert abs(drawn.mean() - expected) < 5 * drawn.std() / np.sqrt(len(drawn))
