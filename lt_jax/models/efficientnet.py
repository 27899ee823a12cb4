"""EfficientNet-Lite (Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020).

These are the EfficientNets of Tan and Le (ICML 2019) without squeeze-and-excitation and with ReLU6 for SiLU, made for
small devices. Padding, and the constant of BatchNorm, are those of the TensorFlow weights, which everybody converts.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lt_jax.models import convolution

_Conv = functools.partial(
    nn.Conv,
    use_bias=False,
    padding="SAME",
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    conv_general_dilated=convolution.convolve,
)
# (blocks, channels, side of the kernel, stride, widening) of each stage, before scaling.
LITE = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)


class Block(nn.Module):
    """Inverted bottleneck: 1x1 convolution that widens, one per channel with the stride, 1x1 that narrows."""

    channels: int
    side: int
    stride: int
    widening: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(_norm, train=train, dtype=self.dtype)
        wide, y = x.shape[-1] * self.widening, x
        if self.widening > 1:
            y = jax.nn.relu6(norm("expand_norm")(_Conv(wide, (1, 1), dtype=self.dtype, name="expand")(y)))
        depthwise = _Conv(
            wide,
            (self.side, self.side),
            (self.stride, self.stride),
            feature_group_count=wide,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),  # a channel has one input
            dtype=self.dtype,
            name="depthwise",
        )
        y = jax.nn.relu6(norm("depthwise_norm")(depthwise(y)))
        y = norm("project_norm")(_Conv(self.channels, (1, 1), dtype=self.dtype, name="project")(y))
        return x + y if x.shape == y.shape else y


class EfficientNet(nn.Module):
    """Stages of inverted bottlenecks, then a 1x1 convolution to 1280 channels and global average pooling.

    Lite0 is not scaled, Lite1 is deeper by 1.1, Lite2 wider by 1.1 and deeper by 1.2. The first and the last stage and
    convolution keep their sizes.
    """

    wider: float = 1.0  # factor of the channels, rounded to multiples of 8
    deeper: float = 1.0  # factor of the blocks of a stage, rounded up
    stages: tuple[tuple[int, ...], ...] = LITE
    first: int = 32  # channels of the first convolution
    last: int = 1280  # channels of the last convolution, and of the features
    remat: bool = False  # recompute blocks in the backward pass to save memory
    dtype: Any = jnp.float32

    @property
    def last_block(self) -> tuple[str, ...]:
        """Names of the last block and of what follows it."""
        return f"stage{len(self.stages)}_block{self.stages[-1][0]}", "last", "last_norm"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        norm = functools.partial(_norm, train=train, dtype=self.dtype)
        x = _Conv(self.first, (3, 3), (2, 2), dtype=self.dtype, name="first")(images.astype(self.dtype))
        x = jax.nn.relu6(norm("first_norm")(x))
        run = nn.remat(_run, static_argnums=(2,)) if self.remat else _run
        for i, (blocks, channels, side, stride, widening) in enumerate(self.stages):
            is_scaled = 0 < i < len(self.stages) - 1
            for j in range(math.ceil(blocks * self.deeper) if is_scaled else blocks):
                name, step = f"stage{i + 1}_block{j + 1}", stride if j == 0 else 1
                width = _rounded(channels * self.wider)
                x = run(Block(width, side, step, widening, self.dtype, name=name), x, train)
        x = jax.nn.relu6(norm("last_norm")(_Conv(self.last, (1, 1), dtype=self.dtype, name="last")(x)))
        return x.astype(jnp.float32).mean(axis=(1, 2))


def _run(block: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    return block(x, train)


def _norm(name: str, train: bool, dtype: Any) -> nn.Module:
    return nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, dtype=dtype, name=name)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
