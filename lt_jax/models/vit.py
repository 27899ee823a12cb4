"""Vision transformers (Dosovitskiy et al., ICLR 2021); DeiT (Touvron et al., ICML 2021) has the same shape.

The image tower of CLIP (Radford et al., ICML 2021) has a LayerNorm before the first block and, as released by OpenAI,
an approximation of GELU. DINOv2 (Oquab et al., TMLR 2024) adds LayerScale (Touvron et al., ICCV 2021), and in one form
registers (Darcet et al., ICLR 2024): tokens beside the class token that hold what belongs to no patch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lt_jax.models import convolution

_init = nn.initializers.truncated_normal(0.02)
_GELU: dict[str, Callable[[jax.Array], jax.Array]] = {
    "exact": functools.partial(nn.gelu, approximate=False),
    "quick": lambda x: x * nn.sigmoid(1.702 * x),
}


class Block(nn.Module):
    """Attention and a two-layer MLP, each with a LayerNorm before it, a shortcut, and with `scaled` a LayerScale."""

    heads: int
    dtype: Any
    scaled: bool = False
    epsilon: float = 1e-6
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, n, d = x.shape
        dense = functools.partial(nn.Dense, kernel_init=_init, dtype=self.dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        parts = dense(3 * d, name="qkv")(norm(name="norm1")(x)).reshape(b, n, 3, self.heads, d // self.heads)
        mixed = jax.nn.dot_product_attention(*(parts[:, :, i] for i in range(3)))
        x = x + self._scaled("scale1", dense(d, name="proj")(mixed.reshape(b, n, d)))
        y = _GELU[self.gelu](dense(4 * d, name="fc1")(norm(name="norm2")(x)))
        return x + self._scaled("scale2", dense(d, name="fc2")(y))

    def _scaled(self, name: str, x: jax.Array) -> jax.Array:
        """x times a learnt factor of each channel, which starts close to zero."""
        if not self.scaled:
            return x
        return x * self.param(name, nn.initializers.constant(1e-5), x.shape[-1:]).astype(x.dtype)[None, None]


class ViT(nn.Module):
    """Vision transformer with a class token and learnt positions; returns the features of the class token.

    With 64 channels per head, 6 heads are ViT-S and DeiT-S, 12 are ViT-B and DeiT-B. Pixels on the right and at the
    bottom that do not fill a patch are not used.
    """

    heads: int
    depth: int = 12
    width: int = 64  # channels of a head
    stem: str = "imagenet"  # patches of 16 pixels; "small": 4 pixels
    stem_stride: int = 1  # factor of the patch size; published ViTs use 1
    patch: int = 0  # side of a patch in pixels, in place of `stem` and `stem_stride`; 0 = by them
    registers: int = 0  # tokens between the class token and the patches, without a position
    scaled: bool = False  # LayerScale after attention and MLP
    norm_before: bool = False  # LayerNorm before the first block, in place of the bias of the patches, as in CLIP
    epsilon: float = 1e-6  # of each LayerNorm
    gelu: str = "exact"  # or "quick": x * sigmoid(1.702 x)
    remat: bool = False  # recompute blocks in the backward pass to save memory
    dtype: Any = jnp.float32

    @property
    def last_block(self) -> tuple[str, ...]:
        """Names of the last block and of what follows it."""
        return f"block{self.depth}", "norm"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        side = self.patch or (16 if self.stem == "imagenet" else 4) * self.stem_stride
        d = self.heads * self.width
        embed = nn.Conv(
            d,
            (side, side),
            (side, side),
            padding=0,
            use_bias=not self.norm_before,
            kernel_init=_init,
            conv_general_dilated=convolution.convolve,
            dtype=self.dtype,
            name="patches",
        )
        x = embed(images.astype(self.dtype)).reshape(images.shape[0], -1, d)
        token = self.param("token", nn.initializers.zeros_init(), (1, 1, d)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, d)), x], axis=1)
        x = x + self.param("positions", _init, (1, x.shape[1], d)).astype(self.dtype)
        if self.registers:
            registers = self.param("registers", _init, (1, self.registers, d)).astype(self.dtype)
            registers = jnp.broadcast_to(registers, (x.shape[0], self.registers, d))
            x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
        if self.norm_before:
            x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm_before")(x)
        block = nn.remat(Block) if self.remat else Block
        for i in range(self.depth):
            x = block(self.heads, self.dtype, self.scaled, self.epsilon, self.gelu, name=f"block{i + 1}")(x)
        return nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x[:, 0]).astype(jnp.float32)
