"""Residual networks (He et al., CVPR 2016), with a 3x3 stem for small images or a 7x7 stem and max-pool."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lt_jax.models import convolution

_Conv = functools.partial(
    nn.Conv,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    conv_general_dilated=convolution.convolve,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, "project" (1x1) or "pad" if the shape changes."""

    width: int
    stride: int
    shortcut: str
    dtype: Any
    convolve: Callable[..., jax.Array] = convolution.convolve

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = functools.partial(_Conv, dtype=self.dtype, conv_general_dilated=self.convolve)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        strides = (self.stride, self.stride)
        y = nn.relu(norm(name="norm1")(conv(self.width, (3, 3), strides, padding=1, name="conv1")(x)))
        y = norm(name="norm2")(conv(self.width, (3, 3), padding=1, name="conv2")(y))
        if x.shape != y.shape and self.shortcut == "project":
            x = norm(name="norm_shortcut")(conv(self.width, (1, 1), strides, padding=0, name="conv_shortcut")(x))
        elif x.shape != y.shape:
            missing = self.width - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 with the stride (as in torchvision) and optional groups, 1x1 to four times the width."""

    width: int
    stride: int
    shortcut: str
    dtype: Any
    groups: int = 1
    inner: float = 1.0  # channels of the 3x3, as a multiple of the width

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = functools.partial(_Conv, dtype=self.dtype)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        inner = round(self.width * self.inner)
        strides = (self.stride, self.stride)
        middle = functools.partial(conv, feature_group_count=self.groups, padding=1)
        y = nn.relu(norm(name="norm1")(conv(inner, (1, 1), name="conv1")(x)))
        y = nn.relu(norm(name="norm2")(middle(inner, (3, 3), strides, name="conv2")(y)))
        y = norm(name="norm3")(conv(4 * self.width, (1, 1), name="conv3")(y))
        if x.shape != y.shape:
            x = norm(name="norm_shortcut")(conv(4 * self.width, (1, 1), strides, padding=0, name="conv_shortcut")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stages of blocks, each twice as wide and half the resolution of the previous, then global average pooling.

    At width 64 (2, 2, 2, 2) and (3, 4, 6, 3) are ResNet-18 and -34, with bottlenecks (3, 4, 6, 3) and (3, 8, 36, 3) are
    ResNet-50 and -152; (5, 5, 5) at width 16 with padded shortcuts is the ResNet-32 of the CIFAR experiments.

    With several experts the last two stages exist once for each of them, with three quarters of the channels, as in
    RIDE (Wang et al., ICLR 2021); their features are concatenated.
    """

    stages: tuple[int, ...]
    width: int = 64
    block: Callable[..., nn.Module] = BasicBlock
    shortcut: str = "project"
    stem_stride: int = 1  # of the small stem
    stem: str = "small"  # or "imagenet": 7x7 with stride 2, then max-pool
    remat: bool = False  # recompute blocks in the backward pass to save memory
    dtype: Any = jnp.float32
    experts: int = 1

    @property
    def last_block(self) -> tuple[str, ...]:
        """Name of the last block, after which nothing has parameters."""
        return (f"stage{len(self.stages)}_block{self.stages[-1]}",)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        x = images.astype(self.dtype)
        is_large = self.stem == "imagenet"
        side, stride = (7, 2) if is_large else (3, self.stem_stride)
        stem = functools.partial(_Conv, padding=side // 2, dtype=self.dtype)
        x = stem(self.width, (side, side), (stride, stride), name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, name="stem_norm")(x))
        if is_large:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        count = len(self.stages)
        shared = count if self.experts == 1 else count - 2
        x = self._run(x, train, range(shared))
        branches = [x]
        if self.experts > 1:
            own = range(shared, count)
            branches = [self._run(x, train, own, f"expert{e + 1}_", 0.75) for e in range(self.experts)]
        return jnp.concatenate([x.astype(jnp.float32).mean(axis=(1, 2)) for x in branches], axis=-1)

    def _run(self, x: jax.Array, train: bool, stages: range, prefix: str = "", share: float = 1.0) -> jax.Array:
        """The output of these stages, with this share of their channels."""
        run = nn.remat(_run, static_argnums=(2,)) if self.remat else _run
        for i in stages:
            width = round(share * self.width * 2**i)
            for j in range(self.stages[i]):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"{prefix}stage{i + 1}_block{j + 1}"
                x = run(self.block(width, stride, self.shortcut, self.dtype, name=name), x, train)
        return x


def _run(block: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    return block(x, train)
