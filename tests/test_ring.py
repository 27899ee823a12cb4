"""The BNS loss over a mesh: ring and gathered form against the formula on one device; the expected form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from lt_jax import losses, negatives

TEMPERATURE = 0.2


def inputs(b=16, m=1, n=5, d=8, seed=0):
    rng = np.random.default_rng(seed)
    queries, keys = rng.normal(size=(b, m + 1, d)), rng.normal(size=(b, d))
    queries, keys = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, keys))
    drawn = rng.integers(-1, b, (b, n))
    return jnp.float32(queries), jnp.float32(keys), jnp.arange(b), jnp.asarray(drawn, jnp.int32)


def ring(devices):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    loss = functools.partial(losses.bns_ring, temperature=TEMPERATURE, axis="data")
    split = PartitionSpec("data")
    return jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=(split,) * 4, out_specs=split))


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_ring_gives_loss_and_gradient_of_one_device(devices):
    queries, keys, own, drawn = inputs()
    weights = jnp.linspace(0.5, 1.5, 16)

    def total(form, queries, keys):
        return (weights * form(queries, keys, own, drawn)).sum()

    single = functools.partial(losses.bns, temperature=TEMPERATURE)
    np.testing.assert_allclose(ring(devices)(queries, keys, own, drawn), single(queries, keys, own, drawn), rtol=1e-5)
    expected = jax.grad(functools.partial(total, single), argnums=(0, 1))(queries, keys)
    found = jax.grad(functools.partial(total, ring(devices)), argnums=(0, 1))(queries, keys)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_memory_of_the_ring_does_not_grow_with_the_devices():
    """Loss and gradient at a fixed local batch: what the compiler plans for 8 devices, at most 1.1 times that for 2."""

    def planned(devices, local=64):
        arguments = inputs(b=local * devices, d=32)
        gradient = jax.jit(jax.grad(lambda q, k, o, n: ring(devices)(q, k, o, n).sum(), argnums=(0, 1)))
        return gradient.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    assert 0 < planned(8) <= 1.1 * planned(2)


def test_expected_weights_are_the_mean_of_the_draw():
    labels = jnp.array([0, 0, 0, 1, 1, 2])
    weights = negatives.expected(labels, labels, n=4)
    np.testing.assert_allclose(weights.sum(axis=1), 4.0, rtol=1e-6)
    np.testing.assert_allclose(weights[0], [0, 0, 0, 1, 1, 2], rtol=1e-6)
    draws = jax.vmap(lambda key: negatives.sample(key, labels, labels, 4))(jax.random.split(jax.random.key(0), 3000))
    counted = jax.nn.one_hot(draws, 6).sum(axis=2).mean(axis=0)
    assert np.abs(counted - weights).max() < 5 * np.sqrt(4 / 3000)


def test_expected_weights_of_one_class_are_zero():
    assert not negatives.expected(jnp.zeros(3, int), jnp.zeros(3, int), 4).any()


def test_expected_loss_is_the_mean_of_the_loss():
    queries, keys, own, _ = inputs(b=6)
    labels = jnp.array([0, 0, 0, 1, 1, 2])
    found = losses.bns_expected(queries, keys, own, negatives.expected(labels, labels, 4), TEMPERATURE)
    drawn = jax.vmap(lambda key: negatives.sample(key, labels, labels, 4))(jax.random.split(jax.random.key(1), 4000))
    each = jax.vmap(lambda rows: losses.bns(queries, keys, own, rows, TEMPERATURE))(drawn)
    assert (np.abs(each.mean(axis=0) - found) < 5 * each.std(axis=0) / np.sqrt(4000)).all()
