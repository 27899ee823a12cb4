"""Convolutions of the networks, in a form whose gradient is fast on a CPU. Accelerators get the plain operation."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` that is fast on a CPU; for `nn.Conv(conv_general_dilated=...)`.

    On a CPU the gradient of the kernel reads a transposed copy of x. XLA fuses the producers of x into that copy, here
    the backward pass of BatchNorm and ReLU, and then computes them once more with strided access: more than half of
    the time of a training step. A conditional around x keeps them apart, in programs that are lowered for a CPU. Its
    values and gradients are bit-equal to those of the plain operation.

    A convolution in groups is computed there by a sum over the taps of the kernel (one channel a group) or group by
    group: the plain operation takes up to 20 times as long, and its gradient up to 100 times.
    """

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    groups = options.get("feature_group_count", 1)
    if groups > 1:
        form = _by_taps if groups == x.shape[-1] == kernel.shape[-1] else _by_group
        on_cpu = functools.partial(form, strides=strides, padding=padding, options=options)

    @jax.custom_jvp
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if groups == 1:
            return plain(x, kernel)
        return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)

    @run.defjvp
    def run_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        x, kernel = primals
        apart = x if groups > 1 else jax.lax.platform_dependent(x, kernel, cpu=_apart, default=lambda x, kernel: x)
        return run(x, kernel), run(tangents[0], kernel) + run(apart, tangents[1])

    return run(x, kernel)


def _by_taps(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, options: dict[str, Any]) -> jax.Array:
    """The convolution of each channel with its own kernel: shifted copies of x times the taps, summed in float32."""
    height, width, _, channels = kernel.shape
    taps = kernel.reshape(height * width, 1, 1, 1, channels).astype(jnp.float32)
    shifted = _shifted(x.astype(jnp.float32), (height, width), strides, padding)
    products = [view * taps[number] for number, view in enumerate(shifted)]
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _by_group(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, options: dict[str, Any]) -> jax.Array:
    """A convolution for each group of channels."""
    groups = options["feature_group_count"]
    one = {**options, "feature_group_count": 1}
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([jax.lax.conv_general_dilated(*part, strides, padding, **one) for part in parts], -1)


def _shifted(x: jax.Array, window: tuple[int, int], strides: Any, padding: Any) -> list[jax.Array]:
    """x (n, h, w, c) as each tap of a window sees it: a list of (n, rows, columns, c), row by row."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (x.shape[axis + 1] - window[axis] + 1 for axis in (0, 1))
    return [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(window[0])
        for j in range(window[1])
    ]


def _apart(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x, in a buffer of its own before any operation that reads it.

    XLA fuses nothing across a conditional whose predicate it does not know, and it does not know whether a number is
    NaN. `jax.lax.optimization_barrier` would do, but jax 0.10 drops it before fusion.
    """
    weight = kernel.reshape(-1)[0].astype(x.dtype)
    return jax.lax.cond(weight == weight, lambda x: x, lambda x: x + weight, x)


def unfolded(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence, **options: Any) -> jax.Array:
    """`convolve`, but maps of at most 4x4 are one product of patches and kernel. Without groups or dilation.

    On a CPU it is up to six times faster for such maps, and halves the time of a step of `resnet_small` on 8x8 images.
    """
    if max(x.shape[1:3]) > 4:
        return convolve(x, kernel, strides, padding, **options)
    height, width, _, features = kernel.shape
    patches = jnp.concatenate(_shifted(x, (height, width), strides, padding), -1)
    return jnp.matmul(patches, kernel.reshape(-1, features), precision=options["precision"])
