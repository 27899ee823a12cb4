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
    k_weight, k_row, k_column = jax.random.split(key, 3)
    is_partner = _boxes(k_row, k_column, batch[0].shape, _weight(k_weight, len(batch[0]), alpha))
    images = jnp.where(is_partner, partners[0], batch[0])
    return images, _blend(batch[1], partners[1], 1.0 - is_partner.mean(axis=(1, 2, 3)))


def remix(
    key: jax.Array,
    batch: Batch,
    partners: Batch,
    classes: losses.Classes,
    *,
    alpha: float = 1.0,
    kappa: float = 3.0,
    tau: float = 0.5,
) -> Batch:
    """Remix.

    Images are mixed as by mixup, with weight w. Labels have the weight w too, but where an image of a class of n_i is
    mixed with one of n_j, n_i / n_j >= kappa and w < tau, all of the label goes to the rarer class; and in the same
    way where n_j / n_i >= kappa and 1 - w < tau.

    Source: Chou et al., "Remix: Rebalanced Mixup" (ECCV 2020 workshops).

    Args:
      key: of the weights.
      batch: images and labels.
      partners: of the images.
      classes: of the training set; an empty class counts as half an image.
      alpha: of the Beta law of w.
      kappa: ratio of class sizes from which the rarer class may get all of the label.
      tau: share of the image below which the frequent class has no label.
    """
    weight = _weight(key, len(batch[0]), alpha)
    counts = jnp.maximum(classes.counts, 0.5)[None, :]
    own, partner = ((labels * counts).sum(axis=1) for labels in (batch[1], partners[1]))
    is_partner = (own >= kappa * partner) & (weight < tau)
    is_own = (partner >= kappa * own) & (1.0 - weight < tau)
    of_label = jnp.where(is_partner, 0.0, jnp.where(is_own, 1.0, weight))
    return _blend(batch[0], partners[0], weight), _blend(batch[1], partners[1], of_label)


def both(key: jax.Array, views: jax.Array, labels: jax.Array, *, alpha: float = 0.5) -> tuple[jax.Array, jax.Array]:
    """Two views of each image, mixed with those of another image of the batch in equal shares: by mixup and by CutMix.

    The label has the weight w ~ Beta(alpha, alpha) in both, also where the box of the partner is clipped at the border.

    Source: Du et al., "Global and Local Mixture Consistency Cumulative Learning for Long-Tailed Visual Recognitions"
    (CVPR 2023).

    Args:
      key: of partners, weights and boxes.
      views: (b, 2, h, w, c).
      labels: (b, C) probabilities.
      alpha: of the Beta law of w.

    Returns:
      images (b, 2, h, w, c) and labels (b, C).
    """
    k_partner, k_weight, k_row, k_column = jax.random.split(key, 4)
    partner = jax.random.permutation(k_partner, len(labels))
    weight = _weight(k_weight, len(labels), alpha)
    blended = _blend(views[:, 0], views[partner, 0], weight)
    is_partner = _boxes(k_row, k_column, blended.shape, weight)
    pasted = jnp.where(is_partner, views[partner, 1], views[:, 1])
    return jnp.stack([blended, pasted], axis=1), _blend(labels, labels[partner], weight)


def _boxes(k_row: Any, k_column: Any, shape: tuple[int, ...], weight: Any) -> Any:
    """(b, h, w, 1) bool, boxes with the share 1 - weight of the image, before they are clipped at its border."""
    b, h, w, _ = shape
    side = jnp.sqrt(1.0 - weight)
    row, column = jax.random.randint(k_row, (b,), 0, h), jax.random.randint(k_column, (b,), 0, w)
    height, width = jnp.floor(side * h).astype(jnp.int32), jnp.floor(side * w).astype(jnp.int32)
    return cutout.boxes(row - height // 2, column - width // 2, height, width, (h, w))


def _weight(key: Any, b: Any, alpha: Any) -> Any:
    if alpha == 1.0:  # much cheaper than the general case
        return jax.random.uniform(key, (b,))
    return jax.random.beta(key, alpha, alpha, (b,))


def _blend(x: Any, partner: Any, weight: Any) -> Any:
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1.0 - weight) * partner
