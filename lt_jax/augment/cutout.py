"""Cutout, and boxes within images."""

import jax
import jax.numpy as jnp


def cutout(key: jax.Array, images: jax.Array, share: float) -> jax.Array:
    """Fills a square of side share * h with grey, at a uniform centre, clipped (DeVries and Taylor, 2017)."""
    b, h, w, _ = images.shape
    k_row, k_column = jax.random.split(key)
    row, column = jax.random.randint(k_row, (b,), 0, h), jax.random.randint(k_column, (b,), 0, w)
    side = round(share * h)
    return jnp.where(boxes(row - side // 2, column - side // 2, side, side, (h, w)), 0.5, images)


def boxes(
    top: jax.Array, left: jax.Array, height: jax.Array | int, width: jax.Array | int, size: tuple[int, int]
) -> jax.Array:
    """Mask (b, h, w, 1) bool, true inside each box."""
    y, x = jnp.arange(size[0])[None, :, None], jnp.arange(size[1])[None, None, :]
    top, left = top[:, None, None], left[:, None, None]
    height, width = jnp.reshape(height, (-1, 1, 1)), jnp.reshape(width, (-1, 1, 1))
    return ((y >= top) & (y < top + height) & (x >= left) & (x < left + width))[..., None]
