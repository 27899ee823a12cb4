"""TrivialAugment, on the device."""

import jax
import jax.numpy as jnp

from lt_jax.augment import operations

_BINS = 30  # magnitudes 0..30, as published
_NAMES = tuple(name for name in operations.OPERATIONS if name != "invert")


def trivial(key: jax.Array, images: jax.Array) -> jax.Array:
    """TrivialAugment, wide: one random operation and magnitude for each image (b, h, w, c).

    Shears are around the centre of the image. Translations reach a seventh of the side, 32 of 224 pixels.

    Source: Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation" (ICCV 2021).
    """
    b, h, w, _ = images.shape
    k_operation, k_magnitude, k_sign = jax.random.split(key, 3)
    drawn = jax.random.randint(k_operation, (b,), 0, len(_NAMES))
    magnitude = jax.random.randint(k_magnitude, (b,), 0, _BINS + 1) / _BINS
    signed = magnitude * jnp.where(jax.random.bernoulli(k_sign, 0.5, (b,)), 1.0, -1.0)
    factor = 1.0 + 0.99 * signed
    value_of = {
        "brightness": factor,
        "color": factor,
        "contrast": factor,
        "sharpness": factor,
        "posterize": 8 - jnp.round(6 * magnitude),
        "solarize": 1.0 - magnitude,
        "shear_x": 0.99 * signed,
        "shear_y": 0.99 * signed,
        "translate_x": signed * w / 7,
        "translate_y": signed * h / 7,
        "rotate": 135.0 * signed,
    }
    values = jnp.stack([value_of.get(name, jnp.zeros(b)) for name in _NAMES])
    which = jnp.array([operations.OPERATIONS.index(name) for name in _NAMES])[drawn]
    return operations.apply(images, which, values[drawn, jnp.arange(b)])
