"""What only an accelerator can get wrong: its matrix units, its convolutions, its random draws, its bfloat16.

    JAX_PLATFORMS=cuda,cpu python -m pytest -m accelerator

LT_JAX_REHEARSE=1 runs the same tests on a CPU, to see that they work.
"""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from lt_jax import ipdpp, losses, methods, models, optim
from lt_jax.models import convolution
from lt_jax.train import state
from lt_jax.train import steps as step

pytestmark = pytest.mark.accelerator


@pytest.fixture(autouse=True)
def device():
    """Skips the test unless JAX computes on an accelerator."""
    if jax.default_backend() == "cpu" and not os.environ.get("LT_JAX_REHEARSE"):
        pytest.skip("needs a GPU or TPU: JAX_PLATFORMS=cuda,cpu python -m pytest -m accelerator")


def relative_error(value, reference):
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


def unit(generator, *shape):
    x = generator.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def bns_in_float64(queries, keys, own, drawn, temperature):
    """The mean BNS loss and its gradient by the queries, in float64."""
    positive = np.einsum("bmd,bd->bm", queries, keys[own]) / temperature
    negative = np.einsum("bmd,bnd->bmn", queries, keys[drawn]) / temperature
    each = np.logaddexp(0, -positive) + np.logaddexp(0, negative).sum(2)
    slope = -1 / (1 + np.exp(positive)), 1 / (1 + np.exp(-negative))
    gradient = slope[0][..., None] * keys[own][:, None] + np.einsum("bmn,bnd->bmd", slope[1], keys[drawn])
    return each.mean(), gradient / (temperature * each.size)


def test_bns_loss_and_gradient_have_float32_accuracy():
    generator = np.random.default_rng(0)
    queries, keys = unit(generator, 256, 2, 128), unit(generator, 256, 128)
    own, drawn = np.arange(256), generator.integers(0, 256, (256, 16))

    def loss_of(queries):
        return losses.bns(queries, jnp.asarray(keys, jnp.float32), own, drawn, 0.1).mean()

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(jnp.asarray(queries, jnp.float32))
    expected, expected_gradient = bns_in_float64(queries, keys, own, drawn, 0.1)
    assert abs(loss / expected - 1) < 1e-5  # products in TF32 are wrong by 3e-4
    assert relative_error(gradient, expected_gradient) < 1e-5


@pytest.mark.parametrize("method", ["rank_one", "eigen"])
def test_ipdpp_draws_have_the_law(method):
    """Counts of all subsets of six items against determinants in float64: chi-square, far beyond chance at 60."""
    p, k, draws = np.array([0.9, 0.8, 0.6, 0.5, 0.3, 0.1]), 3, 1000
    s = np.outer(p, p) / len(p)
    np.fill_diagonal(s, 0)
    np.fill_diagonal(s, 1 - s.sum(axis=1))
    subsets = list(itertools.combinations(range(len(p)), k))
    law = np.array([np.linalg.det(s[np.ix_(subset, subset)]) for subset in subsets])
    law /= law.sum()
    keys = jax.random.split(jax.random.key(7), draws)
    drawn = np.asarray([ipdpp.sample(key, p.astype(np.float32), k, method) for key in keys])
    observed = np.array([(np.sort(drawn, axis=1) == subset).all(axis=1).sum() for subset in subsets])
    assert observed.sum() == draws
    assert ((observed - draws * law) ** 2 / (draws * law)).sum() < 60  # 19 degrees of freedom: p = 4e-6


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_convolution_gradients_equal_those_of_a_cpu(dtype, error, strides):
    generator = np.random.default_rng(1)
    x, kernel = generator.normal(size=(8, 16, 16, 32)), generator.normal(size=(3, 3, 32, 64)) / 17

    def loss_of(x, kernel):
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
        y = convolution.convolve(x, kernel, strides, ((1, 1), (1, 1)), **options)
        return jnp.sin(y.astype(jnp.float32)).sum()

    def gradients(dtype, device):
        arrays = [jax.device_put(jnp.asarray(a, jnp.float32), device).astype(dtype) for a in (x, kernel)]
        return jax.device_get(jax.jit(jax.grad(loss_of, (0, 1)))(*arrays))

    on_cpu = gradients("float32", jax.devices("cpu")[0])
    for value, reference in zip(gradients(dtype, jax.devices()[0]), on_cpu, strict=True):
        assert relative_error(value.astype(np.float32), reference) < error


def test_bns_steps_in_bfloat16_are_finite_and_learn():
    generator = np.random.default_rng(2)
    images = generator.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(64, dtype=np.int32) % 4
    images[..., 0] = 60 * labels[:, None, None]  # the class shows
    network = models.contrastive(common.encoder("resnet18", width=8), (64, 32), "bfloat16")
    objective = methods.entry("CONTRASTIVE", "bns", "pretrain.loss", {"temperature": 0.5, "n": 8})
    tx = optim.create(common.training(10, 32, 8e-3, 0), 20, len(images))
    current = state.create(models.initialise(network, jax.random.key(0), images.shape[1:]), tx)
    advance = jax.jit(step.pretrain(network, tx, objective, common.augment(strength=0.2, grey=0.0, blur=False)))
    held = {"images": images, "labels": labels, "key": np.zeros(2, np.uint32)}
    held["classes"] = losses.Classes.of(np.bincount(labels))
    batch = np.stack([np.arange(32), np.arange(32) + 32], axis=1)  # the second of a pair is of the same class
    values = []
    for _ in range(20):
        current, metrics = advance(current, held, batch)
        values.append(float(metrics["loss"]))
    assert np.isfinite(values).all() and int(current.bad_step) == -1
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(current.params))
    assert np.mean(values[-5:]) < np.mean(values[:5])
