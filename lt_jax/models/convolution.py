"""Convolution for `nn.Conv(conv_general_dilated=...)` whose gradient is fast on a CPU.

The gradient of the kernel reads the input of the convolution in another layout. XLA:CPU fuses the operations that
computed this input into the change of layout, and then runs them many times slower. `convolve` keeps the two apart. The
values are those of `jax.lax.conv_general_dilated`, bit for bit in float32. Programs for accelerators are unchanged: the
choice is made for the platform that a program is lowered for, also where `jax.export` lowers one for several.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any) -> jax.Array:
    """As `jax.lax.conv_general_dilated`, with a fast gradient of the kernel on a CPU."""

    @jax.custom_jvp
    def run(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    @run.defjvp
    def run_jvp(primals, tangents):
        x, kernel = primals
        fenced = jax.lax.platform_dependent(x, kernel, cpu=_fenced, default=lambda x, kernel: x)
        return run(x, kernel), run(tangents[0], kernel) + run(fenced, tangents[1])

    return run(x, kernel)


def _fenced(x, kernel):
    """x, in a buffer of its own before any operation that reads it.

    XLA fuses nothing across a conditional whose predicate it does not know; it does not know whether a number is NaN.
    In jax 0.10.2 it removes an `optimization_barrier` before it fuses operations.
    """
    number = kernel.ravel()[0].astype(x.dtype)
    return jax.lax.cond(number == number, lambda x: x, lambda x: x + number, x)


def convolve_small(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any) -> jax.Array:
    """As `convolve`, without groups or dilation; maps of at most 4x4 are one product of patches and kernel.

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
