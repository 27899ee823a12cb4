"""Mixes of two images and their labels: `f(key, batch, partners, classes, **options) -> (images, labels)`.

A batch is a pair of images float32 (b, h, w, c) and labels (b, C), which are probabilities; so are the mixed labels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lt_jax import losses
from lt_jax.augment import cutout

Batch = tuple[jax.Array, jax.Array]


def mixup(key: jax.Array, batch: Batch, partners: Batch, classes: losses.Classes, *, alpha: float = 1.0) -> Batch:
    """mixup.

    w * image + (1 - w) * partner, and the same of the labels, with w ~ Beta(alpha, alpha) for each image.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018).
    """
    del classes
    weight = _weight(key, len(batch[0]), alpha)
    return _blend(batch[0], partners[0], weight), _blend(batch[1], partners[1], weight)


def cutmix(key: jax.Array, batch: Batch, partners: Batch, classes: losses.Classes, *, alpha: float = 1.0) -> Batch:
    """CutMix.

    A box of the partner replaces that of the image; labels are weighted by area. The share of the box is
    1 - w with w ~ Beta(alpha, alpha), before it is clipped at the border.

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers" (ICCV 2019).
    """
    del classes
    b, h, w, _ = batch[0].shape
    k_weight, k_row, k_column = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - _weight(k_weight, b, alpha))
    row, column = jax.random.randint(k_row, (b,), 0, h), jax.random.randint(k_column, (b,), 0, w)
    height, width = jnp.floor(side * h).astype(jnp.int32), jnp.floor(side * w).astype(jnp.int32)
    is_partner = cutout.boxes(row - height // 2, column - width // 2, height, width, (h, w))
    images = jnp.where(is_partner, partners[0], batch[0])
    return images, _blend(batch[1], partners[1], 1.0 - is_partner.mean(axis=(1, 2, 3)))


def _weight(key: Any, b: Any, alpha: Any) -> Any:
    if alpha == 1.0:  # much cheaper than the general case
        return jax.random.uniform(key, (b,))
    return jax.random.beta(key, alpha, alpha, (b,))


def _blend(x: Any, partner: Any, weight: Any) -> Any:
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1.0 - weight) * partner
