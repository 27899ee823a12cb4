"""The convolution of the networks: values and gradients by definition, and which programs it changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

from lt_jax.models import convolution

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def taps(x_shape, kernel_shape, strides, padding):
    """(i, j, index into the padded input) of every tap of the kernel."""
    rows, columns = (
        (size + sum(pads) - side) // stride + 1
        for size, pads, side, stride in zip(x_shape[1:3], padding, kernel_shape[:2], strides, strict=True)
    )
    ends = rows * strides[0], columns * strides[1]
    for i, j in np.ndindex(*kernel_shape[:2]):
        yield i, j, (slice(None), slice(i, i + ends[0], strides[0]), slice(j, j + ends[1], strides[1]))


def reference(x, kernel, cotangent_of, strides, padding, groups):
    """Output and the gradients of x and kernel, in float64 by sums over the taps of the kernel."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    padded = padded.reshape(*padded.shape[:3], groups, -1)
    weights = kernel.reshape(*kernel.shape[:3], groups, -1)
    every = list(taps(x.shape, kernel.shape, strides, padding))
    y = sum(np.einsum("bhwgc,cgf->bhwgf", padded[index], weights[i, j]) for i, j, index in every)
    g = cotangent_of(y.reshape(*y.shape[:3], -1)).reshape(y.shape)
    d_padded, d_weights = np.zeros_like(padded), np.zeros_like(weights)
    for i, j, index in every:
        d_padded[index] += np.einsum("bhwgf,cgf->bhwgc", g, weights[i, j])
        d_weights[i, j] = np.einsum("bhwgc,bhwgf->cgf", padded[index], g)
    (top, _), (left, _) = padding
    d_x = d_padded.reshape(*d_padded.shape[:3], -1)[:, top : top + x.shape[1], left : left + x.shape[2]]
    return y.reshape(*y.shape[:3], -1), d_x, d_weights.reshape(kernel.shape)


def cotangent_of(y):
    return np.cos(np.arange(y.size)).reshape(y.shape)


def both_gradients(convolve, x, kernel, strides, padding, groups):
    def loss(x, kernel):
        options = {"dimension_numbers": DIMENSIONS, "feature_group_count": groups, "precision": "highest"}
        y = convolve(x, kernel, strides, padding, **options)
        return (y.astype(jnp.float32) * cotangent_of(y)).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)
    return y, *gradients


CASES = [  # size, channels, features, side, strides, padding, groups
    ((6, 5), 3, 4, 3, (1, 1), ((1, 1), (1, 1)), 1),
    ((6, 5), 3, 4, 3, (2, 2), ((1, 1), (1, 1)), 1),
    ((7, 6), 4, 6, 3, (1, 2), ((0, 1), (2, 0)), 2),
    ((6, 6), 4, 4, 3, (1, 1), ((1, 1), (1, 1)), 4),
    ((7, 9), 6, 6, 5, (2, 1), ((2, 2), (1, 2)), 6),
    ((5, 5), 3, 6, 5, (2, 2), ((2, 2), (2, 2)), 3),
    ((6, 6), 3, 5, 1, (2, 2), ((0, 0), (0, 0)), 1),
    ((8, 8), 3, 5, 4, (4, 4), ((0, 0), (0, 0)), 1),
    ((9, 9), 3, 4, 7, (2, 2), ((3, 3), (3, 3)), 1),
]


def arrays(size, channels, features, side, groups, dtype="float32"):
    normal = np.random.default_rng(0).normal
    x, kernel = normal(size=(2, *size, channels)), normal(size=(side, side, channels // groups, features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize(("size", "channels", "features", "side", "strides", "padding", "groups"), CASES)
def test_values_and_gradients(size, channels, features, side, strides, padding, groups, dtype, tolerance):
    x, kernel = arrays(size, channels, features, side, groups, dtype)
    expected = reference(x, kernel, cotangent_of, strides, padding, groups)
    computed = both_gradients(convolution.convolve, x, kernel, strides, padding, groups)
    for ours, right in zip(computed, expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.asarray(ours, np.float64), right, rtol=0, atol=tolerance * np.abs(right).max())
    if groups == 1:
        plain = both_gradients(jax.lax.conv_general_dilated, x, kernel, strides, padding, groups)
        jax.tree.map(np.testing.assert_array_equal, computed, plain)


def gradient_program(platforms, groups=1, channels=3):
    """The lowered gradient of a network of two convolutions, as text."""
    options = {"dimension_numbers": DIMENSIONS, "feature_group_count": groups}

    def loss(kernels, x):
        for kernel in kernels:
            x = nn.relu(convolution.convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **options))
        return x.sum()

    x, kernel = arrays((6, 6), channels, channels, 3, groups)
    return export.export(jax.jit(jax.grad(loss)), platforms=platforms)([kernel, kernel], x).mlir_module()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_for_accelerators_are_plain(platform):
    program = gradient_program([platform])
    assert program.count("stablehlo.convolution(") == 5  # two forward, two of the kernels, one of the input
    assert "compare EQ" not in program and "stablehlo.add" not in program  # the parts of a fence


def test_the_input_is_fenced_in_programs_for_the_cpu():
    assert gradient_program(["cpu"]).count("compare EQ") == 2
    assert gradient_program(["cpu", "cuda", "tpu"]).count("compare EQ") == 2


@pytest.mark.parametrize(("groups", "on_cpu"), [(6, 0), (2, 10)])
def test_groups_are_split_in_programs_for_the_cpu_alone(groups, on_cpu):
    for platform in ("cuda", "tpu"):
        program = gradient_program([platform], groups, 6)
        assert program.count("stablehlo.convolution(") == 5
    assert gradient_program(["cpu"], groups, 6).count("stablehlo.convolution(") == on_cpu


def test_padding_by_name():
    x, kernel = arrays((7, 6), 4, 4, 3, 4)
    options = {"dimension_numbers": DIMENSIONS, "feature_group_count": 4}
    for strides, padding in (((2, 2), "SAME"), ((1, 1), "VALID")):
        plain = jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
        computed = convolution.convolve(x, kernel, strides, padding, **options)
        np.testing.assert_allclose(computed, plain, rtol=1e-5, atol=1e-5)


def test_forward_mode_and_vmap():
    x, kernel = arrays((6, 6), 3, 4, 3, 1)

    def run(convolve, x, kernel):
        return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)

    def tangent(convolve):
        return jax.jvp(lambda x, kernel: run(convolve, x, kernel), (x, kernel), (x + 1, kernel + 1))

    def many(convolve):
        gradient = jax.grad(lambda kernel, x: (run(convolve, x, kernel) ** 2).sum())
        return jax.vmap(gradient)(jnp.stack([kernel, 2 * kernel]), jnp.stack([x, 3 * x]))

    for function in (tangent, many):
        ours, plain = function(convolution.convolve), function(jax.lax.conv_general_dilated)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, plain)


def test_a_kernel_that_is_not_a_number_gives_such_gradients():
    x, kernel = arrays((6, 6), 3, 4, 3, 1)
    _, _, gradient = both_gradients(convolution.convolve, x, kernel * np.nan, (1, 1), ((1, 1), (1, 1)), 1)
    assert np.isnan(gradient).all()
