"""Image operations that augmentation policies choose from, on the device.

Images are float32 (b, h, w, c) in [0, 1]. Each image has its own operation and its own value of it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lt_jax.augment import simclr

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OPERATIONS = (
    "identity", "brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize",
    "invert", *GEOMETRIC,
)  # fmt: skip


def apply(images: jax.Array, which: jax.Array, values: jax.Array) -> jax.Array:
    """Applies one operation to each image.

    Args:
      images: (b, h, w, c).
      which: (b,) position in `OPERATIONS`.
      values: (b,). Brightness, color, contrast and sharpness: the factor, 1 leaves the image as it is. Posterize: bits
        that are kept. Solarize: the threshold in [0, 1]. Shears: the slope. Translations: pixels. Rotate: degrees. The
        other operations have none.
    """
    moved = affine(images, _matrices(which, values, images.shape[1:3]))
    return jax.vmap(_colored)(which, moved, values)


def _colored(which: Any, image: Any, value: Any) -> Any:
    batch = image[None]
    branches = (
        lambda: batch,
        lambda: simclr.adjust_brightness(batch, value),
        lambda: simclr.adjust_saturation(batch, value),
        lambda: simclr.adjust_contrast(batch, value),
        lambda: sharpness(batch, value),
        lambda: posterize(batch, value),
        lambda: solarize(batch, value),
        lambda: autocontrast(batch),
        lambda: equalize(batch),
        lambda: 1.0 - batch,
    )
    # Geometric operations were already applied and leave the colours unchanged.
    return jax.lax.switch(jnp.where(which < len(branches), which, 0), branches)[0]


def _matrices(which: Any, values: Any, size: Any) -> Any:
    """Affine maps (b, 6), rows a, b, c, d, e, f: output pixel (x, y) is read at (a x + b y + c, d x + e y + f)."""
    h, w = size

    def of(name):
        return jnp.where(which == OPERATIONS.index(name), values, 0.0)

    angle = jnp.deg2rad(of("rotate"))
    a = e = jnp.cos(angle)
    b = jnp.sin(angle) + of("shear_x")
    d = -jnp.sin(angle) + of("shear_y")
    # Around the centre.
    c = w / 2 - a * w / 2 - b * h / 2 + of("translate_x")
    f = h / 2 - d * w / 2 - e * h / 2 + of("translate_y")
    return jnp.stack([a, b, c, d, e, f], axis=1)


def affine(images: jax.Array, matrices: jax.Array) -> jax.Array:
    """Affine transform with nearest neighbours, black outside, like Pillow's Image.transform(AFFINE)."""
    _, h, w, _ = images.shape
    y, x = jnp.meshgrid(jnp.arange(h) + 0.5, jnp.arange(w) + 0.5, indexing="ij")
    a, b, c, d, e, f = (matrices[:, i, None, None] for i in range(6))
    column = jnp.floor(a * x[None] + b * y[None] + c).astype(jnp.int32)
    row = jnp.floor(d * x[None] + e * y[None] + f).astype(jnp.int32)
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    flat = images.reshape(images.shape[0], h * w, -1)
    flat_positions = (jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)).reshape(images.shape[0], h * w, 1)
    pixels = jnp.take_along_axis(flat, flat_positions, axis=1).reshape(images.shape)
    return jnp.where(inside[..., None], pixels, 0.0)


def sharpness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with a smoothed copy (3x3, centre weight 5/13, others 1/13) except at the borders."""
    h, w = images.shape[1:3]
    around = sum(images[:, i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3))
    inner = (around + 4 * images[:, 1:-1, 1:-1]) / 13
    smooth = images.at[:, 1:-1, 1:-1].set(inner)
    return jnp.clip(factor * images + (1 - factor) * smooth, 0.0, 1.0)


def posterize(images: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` of each 8-bit value."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(_levels(images) / step) * step / 255.0


def solarize(images: jax.Array, threshold: jax.Array) -> jax.Array:
    """Inverts the values from the threshold up."""
    return jnp.where(images >= threshold, 1.0 - images, images)


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretches each channel to the range 0..1."""
    low = images.min(axis=(1, 2), keepdims=True)
    high = images.max(axis=(1, 2), keepdims=True)
    return jnp.where(high > low, (images - low) / jnp.where(high > low, high - low, 1.0), images)


def equalize(images: jax.Array) -> jax.Array:
    """Equalizes the histogram of each channel, with Pillow's integer rule."""
    b, h, w, c = images.shape
    levels = _levels(images).astype(jnp.int32).transpose(0, 3, 1, 2).reshape(b * c, h * w)
    return jax.vmap(_equalized)(levels).reshape(b, c, h, w).transpose(0, 2, 3, 1) / 255.0


def _equalized(levels: Any) -> Any:
    histogram = jnp.zeros(256, jnp.int32).at[levels].add(1)
    step = (levels.size - histogram[levels.max()]) // 255
    before = jnp.cumsum(histogram) - histogram
    table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table[levels], levels).astype(jnp.float32)


def _levels(images: Any) -> Any:
    """Values 0..1 as whole numbers 0..255, in float."""
    return jnp.round(images * 255.0)
