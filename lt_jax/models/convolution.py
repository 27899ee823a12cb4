"""Convolutions of the networks, in a form whose gradient is fast on a CPU. Accelerators get the plain operation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` with a fast gradient on a CPU, bit-equal; for `nn.Conv(conv_general_dilated=...)`.

    On a CPU the gradient of the kernel reads a transposed copy of x. XLA fuses the producers of x into that copy, here
    the backward pass of BatchNorm and ReLU, and then computes them once more with strided access: more than half of
    the time of a training step. A conditional around x keeps them apart, in programs that are lowered for a CPU.
    """

    @jax.custom_jvp
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    @run.defjvp
    def run_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        x, kernel = primals
        apart = jax.lax.platform_dependent(x, kernel, cpu=_apart, default=lambda x, kernel: x)
        return run(x, kernel), run(tangents[0], kernel) + run(apart, tangents[1])

    return run(x, kernel)


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
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width, _, features = kernel.shape
    rows = x.shape[1] - height + 1
    columns = x.shape[2] - width + 1
    patches = [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]] for i in range(height) for j in range(width)
    ]
    return jnp.matmul(jnp.concatenate(patches, -1), kernel.reshape(-1, features), precision=options["precision"])
