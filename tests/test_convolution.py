"""The convolution of the networks: values and gradients of the plain operation, and the CPU form on a CPU alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from lt_jax.models import convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")


def plain(x, kernel, strides, padding, **options):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def example(groups=1, dtype=np.float32, side=9, kernel_side=3):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, side, side, 4))
    kernel = generator.normal(size=(kernel_side, kernel_side, 4 // groups, 8))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def gradients(convolve, x, kernel, **options):
    def total(x, kernel):
        y = convolve(x, kernel, dimension_numbers=NUMBERS, **options)
        weight = jnp.arange(y.size).reshape(y.shape) % 7 / 7.0
        return (y * weight.astype(y.dtype)).astype(jnp.float32).sum()

    return jax.jit(jax.value_and_grad(total, (0, 1)))(x, kernel)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0))])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients_are_those_of_the_plain_operation(strides, padding, groups):
    x, kernel = example(groups)
    options = {"strides": strides, "padding": padding, "feature_group_count": groups}
    ours, theirs = (gradients(f, x, kernel, **options) for f in (convolution.convolve, plain))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (jnp.bfloat16, 3e-2)])
@pytest.mark.parametrize("kernel_side", [1, 3, 7])
def test_gradients_against_float64(dtype, tolerance, kernel_side):
    x, kernel = example(dtype=dtype, kernel_side=kernel_side)
    options = {"strides": (2, 2), "padding": "SAME"}
    _, ours = gradients(convolution.convolve, x, kernel, **options)
    with jax.enable_x64(True):
        wide = (jnp.asarray(np.asarray(a, np.float64)) for a in (x, kernel))
        _, exact = gradients(plain, *wide, **options)
    for gradient, reference in zip(ours, exact, strict=True):
        difference = np.asarray(gradient, np.float64) - np.asarray(reference)
        assert np.abs(difference).max() < tolerance * np.abs(reference).max()


@pytest.mark.parametrize("side", [2, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_unfolded_form_is_a_convolution(side, stride):
    x, kernel = example(side=side)
    options = {"strides": (stride, stride), "padding": ((1, 1), (1, 1)), "precision": None}
    ours, theirs = (gradients(f, x, kernel, **options) for f in (convolution.unfolded, plain))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def conditionals(platforms):
    """Conditionals in the lowered gradient."""
    x, kernel = example()

    def gradient(x, kernel):
        return gradients(convolution.convolve, x, kernel, strides=(1, 1), padding="SAME")[1]

    text = export.export(jax.jit(gradient), platforms=platforms)(x, kernel).mlir_module()
    return text.count("stablehlo.case") + text.count("stablehlo.if")


def test_the_cpu_form_is_used_on_a_cpu_alone():
    """Each has the conditionals that choose by platform, whose index is a constant; a CPU has one that stays."""
    assert conditionals(["cuda"]) == conditionals(["tpu"]) == conditionals(["cpu"]) - 1


def test_one_export_serves_all_platforms():
    assert conditionals(["cpu", "cuda", "tpu"]) >= conditionals(["cpu"])


def test_vectorised_and_recomputed():
    x, kernel = example()
    options = {"strides": (1, 1), "padding": "SAME", "dimension_numbers": NUMBERS}

    def total(kernel, x):
        return jax.checkpoint(lambda k: convolution.convolve(x, k, **options))(kernel).sum()

    together = jax.vmap(jax.grad(total), (None, 0))(kernel, x[:, None])
    alone = jnp.stack([jax.grad(total)(kernel, row[None]) for row in x])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
