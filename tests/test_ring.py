"""The BNS loss over a mesh: ring and gathered form compared with one device; the expected form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lt_jax import losses
from lt_jax.losses import negatives

TEMPERATURE = 0.2


def inputs(b=16, m=1, n=5, d=8, seed=0):
    rng = np.random.default_rng(seed)
    queries, keys = rng.normal(size=(b, m + 1, d)), rng.normal(size=(b, d))
    queries, keys = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, keys))
    drawn = rng.integers(-1, b, (b, n))
    return jnp.float32(queries), jnp.float32(keys), jnp.arange(b), jnp.asarray(drawn, jnp.int32)


def mesh_of(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))


def on(devices, arguments):
    """Returns the arguments with their rows split over the devices."""
    return jax.device_put(arguments, NamedSharding(mesh_of(devices), PartitionSpec("data")))


def gather(devices):
    return functools.partial(losses.bns, temperature=TEMPERATURE)  # the compiler gathers the keys


def ring(devices):
    loss = functools.partial(losses.bns_ring, temperature=TEMPERATURE, axis="data")
    split = PartitionSpec("data")
    return jax.shard_map(loss, mesh=mesh_of(devices), in_specs=(split,) * 4, out_specs=split)


def gradient(form):
    """Returns a function of the gradient for queries and keys; each anchor's loss has a different weight."""

    def total(queries, keys, own, drawn):
        weights = jnp.linspace(0.5, 1.5, len(own))
        return (weights * form(queries, keys, own, drawn)).sum()

    return jax.jit(jax.grad(total, argnums=(0, 1)))


@pytest.mark.parametrize("form", [gather, ring])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_loss_and_gradient_equal_those_of_one_device(form, devices):
    arguments = inputs()
    placed, form = on(devices, arguments), form(devices)
    assert len(placed[0].sharding.device_set) == min(devices, len(jax.devices()))
    single = functools.partial(losses.bns, temperature=TEMPERATURE)
    np.testing.assert_allclose(jax.jit(form)(*placed), single(*arguments), rtol=1e-5)
    for actual, expected in zip(gradient(form)(*placed), gradient(single)(*arguments), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_memory_of_the_ring_does_not_grow_with_the_devices():
    """Planned memory of loss and gradient at a fixed local batch: 8 devices need at most 1.1 times that of 2."""

    def planned(form, devices, local=256):
        arguments = on(devices, inputs(b=local * devices, n=16, d=64))
        plan = gradient(form(devices)).lower(*arguments).compile().memory_analysis()
        return plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes

    assert 0 < planned(ring, 8) <= 1.1 * planned(ring, 2)
    assert planned(gather, 8) > 2 * planned(gather, 2)  # the gathered form needs more memory


def test_expected_weights_equal_the_mean_of_draws():
    labels = jnp.array([0, 0, 0, 1, 1, 2])
    weights = negatives.expected(labels, labels, n=4)
    np.testing.assert_allclose(weights.sum(axis=1), 4.0, rtol=1e-6)
    np.testing.assert_allclose(weights[0], [0, 0, 0, 1, 1, 2], rtol=1e-6)
    draws = jax.vmap(lambda key: negatives.sample(key, labels, labels, 4))(jax.random.split(jax.random.key(0), 3000))
    counted = jax.nn.one_hot(draws, 6).sum(axis=2).mean(axis=0)
    assert np.abs(counted - weights).max() < 5 * np.sqrt(4 / 3000)


def test_expected_weights_of_one_class_are_zero():
    assert not negatives.expected(jnp.zeros(3, int), jnp.zeros(3, int), 4).any()


def test_expected_loss_equals_the_mean_over_draws():
    queries, keys, own, _ = inputs(b=6)
    labels = jnp.array([0, 0, 0, 1, 1, 2])
    expected_loss = losses.bns_expected(queries, keys, own, negatives.expected(labels, labels, 4), TEMPERATURE)
    drawn = jax.vmap(lambda key: negatives.sample(key, labels, labels, 4))(jax.random.split(jax.random.key(1), 4000))
    each = jax.vmap(lambda rows: losses.bns(queries, keys, own, rows, TEMPERATURE))(drawn)
    assert (np.abs(each.mean(axis=0) - expected_loss) < 5 * each.std(axis=0) / np.sqrt(4000)).all()
