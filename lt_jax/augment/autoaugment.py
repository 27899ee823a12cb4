"""AutoAugment with its policy for CIFAR-10, on the device."""

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.augment import operations

_LEVELS = 9  # the highest magnitude
# Sub-policies of two operations each: (name, probability, magnitude). Magnitudes of operations without a value are 0.
CIFAR10 = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
_NAMES = np.array([[operations.OPERATIONS.index(name) for name, _, _ in pair] for pair in CIFAR10])
_PROBABILITIES = np.array([[probability for _, probability, _ in pair] for pair in CIFAR10], np.float32)
_MAGNITUDES = np.array([[magnitude for _, _, magnitude in pair] for pair in CIFAR10])


def autoaugment(key: jax.Array, images: jax.Array) -> jax.Array:
    """AutoAugment for CIFAR: a random sub-policy for each image (b, h, w, c), whose operations have probabilities.

    Colour and geometric operations have a random sign. Translations reach 150 of 331 parts of the side. Shears are
    around the centre of the image.

    Source: Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data" (CVPR 2019), the policy for CIFAR-10.
    """
    b = images.shape[0]
    k_policy, *keys = jax.random.split(key, 3)
    policy = jax.random.randint(k_policy, (b,), 0, len(CIFAR10))
    for number, k_operation in enumerate(keys):
        k_applied, k_sign = jax.random.split(k_operation)
        is_applied = jax.random.bernoulli(k_applied, jnp.asarray(_PROBABILITIES)[policy, number])
        which = jnp.where(is_applied, jnp.asarray(_NAMES)[policy, number], 0)
        sign = jnp.where(jax.random.bernoulli(k_sign, 0.5, (b,)), 1.0, -1.0)
        values = _values(jnp.asarray(_MAGNITUDES)[policy, number], sign, images.shape[1:3])
        images = operations.apply(images, which, values[which, jnp.arange(b)])
    return images


def _values(magnitude: jax.Array, sign: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """What each operation does at a magnitude (b,): (operations, b)."""
    share = magnitude / _LEVELS
    factor = 1.0 + 0.9 * share * sign
    value_of = {
        "brightness": factor,
        "color": factor,
        "contrast": factor,
        "sharpness": factor,
        "posterize": 8.0 - jnp.round(4 * share),
        "solarize": 1.0 - share,
        "shear_x": 0.3 * share * sign,
        "shear_y": 0.3 * share * sign,
        "translate_x": 150 / 331 * size[1] * share * sign,
        "translate_y": 150 / 331 * size[0] * share * sign,
        "rotate": 30.0 * share * sign,
    }
    return jnp.stack([value_of.get(name, jnp.zeros(magnitude.shape)) for name in operations.OPERATIONS])
