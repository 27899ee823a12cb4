"""Augmentation on the device: pure functions of a key and a batch.

Images are float32 (b, h, w, c) in [0, 1]; random numbers are drawn for the whole batch at once.
"""

from typing import Any

import jax

from lt_jax.augment import autoaugment, cutout, simclr, trivial

POLICIES = {"trivial": trivial.trivial, "autoaugment": autoaugment.autoaugment}


def apply(key: jax.Array, images: jax.Array, options: Any, is_cropped: bool = False) -> jax.Array:
    """Augments images as set in `options` (configs/common.py: augment); crop and flip if all else is off.

    Args:
      images: (b, h, w, c) uint8.
      is_cropped: the host already cropped the images during decoding.

    Returns:
      (b, h, w, c) float32 in [0, 1].
    """
    k_simclr, k_policy, k_cutout = jax.random.split(key, 3)
    out = simclr.simclr(k_simclr, images, options, is_cropped)
    if options.policy:
        out = POLICIES[options.policy](k_policy, out)
    if options.cutout > 0.0:
        out = cutout.cutout(k_cutout, out, options.cutout)
    return out
