"""Heads of a network, and the network of an encoder and a head."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class Linear(nn.Module):
    """Linear layer from features to float32 logits."""

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        return nn.Dense(self.num_classes, name="dense")(features.astype(jnp.float32))


class Projector(nn.Module):
    """Linear layers with ReLU in between, without BatchNorm; the output is l2-normalised."""

    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        x = features
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype)(x if i == 0 else nn.relu(x))
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


class Network(nn.Module):
    """An encoder and a head, with parameters params["encoder"] and params["head"].

    The input of the encoder is (images - mean) / std for each channel.
    """

    encoder: nn.Module
    head: nn.Module
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    initializer: str = "he"  # for `lt_jax.models.initialise`: "he", or "torch" for PyTorch's default

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.head(self.features(images, train=train))

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Features (b, d) float32, the input of the head."""
        if any(self.mean) or set(self.std) != {1.0}:
            images = (images - jnp.array(self.mean)[None, None, None]) / jnp.array(self.std)[None, None, None]
        return self.encoder(images, train=train)
