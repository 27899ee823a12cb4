"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lt_jax.models import convolution

_init = nn.initializers.truncated_normal(0.02)
_Conv = functools.partial(nn.Conv, padding="VALID", kernel_init=_init, conv_general_dilated=convolution.convolve)


class Block(nn.Module):
    """A 7x7 convolution of each channel, LayerNorm and a two-layer MLP with a LayerScale, beside a shortcut."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        dense = functools.partial(nn.Dense, kernel_init=_init, dtype=self.dtype)
        padding = ((3, 3), (3, 3))
        y = _Conv(channels, (7, 7), padding=padding, feature_group_count=channels, dtype=self.dtype, name="depthwise")(
            x
        )
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(y)
        y = nn.gelu(dense(4 * channels, name="fc1")(y), approximate=False)
        scale = self.param("scale", nn.initializers.constant(1e-6), (channels,))
        return x + dense(channels, name="fc2")(y) * scale.astype(self.dtype)[None, None, None]


class ConvNeXt(nn.Module):
    """Four levels of blocks after patches of 4 pixels, then global average pooling and LayerNorm.

    Pixels on the right and at the bottom that do not fill a patch are not used. The defaults are ConvNeXt-T.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    remat: bool = False  # recompute blocks in the backward pass to save memory
    dtype: Any = jnp.float32

    @property
    def last_block(self) -> tuple[str, ...]:
        """Names of the last block and of what follows it."""
        return f"level{len(self.depths)}_block{self.depths[-1]}", "pooled_norm"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        del train  # neither BatchNorm nor dropout
        norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
        x = _Conv(self.widths[0], (4, 4), (4, 4), dtype=self.dtype, name="level1_down")(images.astype(self.dtype))
        x = norm(name="level1_norm")(x)
        block = nn.remat(Block) if self.remat else Block
        for level, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            if level > 1:
                x = norm(name=f"level{level}_norm")(x)
                x = _Conv(width, (2, 2), (2, 2), dtype=self.dtype, name=f"level{level}_down")(x)
            for number in range(1, depth + 1):
                x = block(self.dtype, name=f"level{level}_block{number}")(x)
        return nn.LayerNorm(epsilon=1e-6, name="pooled_norm")(x.astype(jnp.float32).mean(axis=(1, 2)))
