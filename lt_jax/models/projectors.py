"""Heads of a network, and the network of an encoder and a head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class Linear(nn.Module):
    """Linear layer from features to float32 logits."""

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        return nn.Dense(self.num_classes, name="dense")(features.astype(jnp.float32))


class Cosine(nn.Module):
    """Float32 logits: cosines of the features and a vector of each class, times `scale`. It has no bias."""

    num_classes: int
    scale: float = 30.0

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        features = features.astype(jnp.float32)
        shape = (features.shape[-1], self.num_classes)
        kernel = self.param("kernel", nn.initializers.variance_scaling(1.0, "fan_in", "uniform"), shape)
        cosines = jnp.matmul(_unit(features, 1), _unit(kernel, 0), precision=jax.lax.Precision.HIGHEST)
        return self.scale * cosines


class UnitKernel(nn.Module):
    """Float32 logits of a linear layer whose vector of each class has unit length. The bias is free."""

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        features = features.astype(jnp.float32)
        shape = (features.shape[-1], self.num_classes)
        kernel = self.param("kernel", nn.initializers.variance_scaling(1.0, "fan_in", "uniform"), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[1:])
        return jnp.matmul(features, _unit(kernel, 0), precision=jax.lax.Precision.HIGHEST) + bias[None]


def _unit(x: Any, axis: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis, keepdims=True), 1e-12))


HEADS = {"linear": Linear, "cosine": Cosine, "unit_kernel": UnitKernel}


class Experts(nn.Module):
    """Mean logits of experts, each with a head of its own on its part of the features."""

    num_classes: int
    experts: int
    kind: str  # a key of HEADS

    def setup(self):
        self.heads = [HEADS[self.kind](self.num_classes) for _ in range(self.experts)]

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.each(features).mean(axis=1)

    def each(self, features: jax.Array) -> jax.Array:
        """Logits (b, experts, num_classes)."""
        parts = jnp.split(features, self.experts, axis=-1)
        return jnp.stack([head(part) for head, part in zip(self.heads, parts, strict=True)], axis=1)


class Projector(nn.Module):
    """Linear layers with ReLU in between, without BatchNorm; the output is l2-normalised."""

    widths: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        x = features
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype)(x if i == 0 else nn.relu(x))
        return _unit(x.astype(jnp.float32), -1)


class Network(nn.Module):
    """An encoder and a head, with parameters params["encoder"] and params["head"].

    The input of the encoder is (images - mean) / std for each channel. Images whose shorter side is below `input_size`
    are enlarged to it first.
    """

    encoder: nn.Module
    head: nn.Module
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    initializer: str = "he"  # for `lt_jax.models.initialise`: "he", or "torch" for PyTorch's default
    input_size: int = 0  # pixels; 0 enlarges nothing
    resample: str = "bilinear"  # or "bicubic"
    mirrored: bool = False  # the encoder sees mirror images

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.head(self.features(images, train=train))

    def each(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits (b, experts, C) of all experts; the head is `Experts`."""
        return self.head.each(self.features(images, train=train))

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Features (b, d) float32, the input of the head."""
        images = images[:, :, ::-1] if self.mirrored else images
        shape = self.input_shape(images.shape[1:])
        if shape != images.shape[1:]:
            images = jax.image.resize(images, (len(images), *shape), self.resample).clip(0.0, 1.0)
        if any(self.mean) or set(self.std) != {1.0}:
            images = (images - jnp.array(self.mean)[None, None, None]) / jnp.array(self.std)[None, None, None]
        return self.encoder(images, train=train)

    def input_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(h, w, c) of what the encoder sees of images of this shape."""
        h, w, c = image_shape
        factor = max(1.0, self.input_size / min(h, w))
        return round(h * factor), round(w * factor), c
