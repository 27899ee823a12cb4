"""SimCLR augmentation as pure functions of (key, batch), on the device.

Images are float32 (b, h, w, c) in [0, 1]. Random numbers are drawn for the whole batch at once, so that sharding does
not change the result. Unlike the usual pipeline, the order of the four colour operations is drawn once per batch, not
per image, which takes a quarter of the work.
"""

from typing import Any

import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)
_TRIES = 10  # attempts to draw a crop that fits, before the whole image is used


def simclr(key: jax.Array, images: jax.Array, options: Any, is_cropped: bool = False) -> jax.Array:
    """SimCLR augmentation (Chen et al., ICML 2020): crop, flip, colour jitter, grey, blur, without normalisation.

    Args:
      images: (b, h, w, c) uint8.
      options: crop_scale, pad, flip, strength, grey, blur as in configs/common.py.
      is_cropped: the host already cropped the images during decoding.

    Returns:
      (b, h, w, c) float32 in [0, 1].
    """
    keys = jax.random.split(key, 6)
    images = to_float(images)
    if options.pad:
        images = random_shift(keys[5], images, options.pad)
    if options.crop_scale < 1.0 and not is_cropped:
        images = random_resized_crop(keys[0], images, options.crop_scale)
    if options.flip > 0.0:
        images = random_flip(keys[1], images, options.flip)
    if options.strength > 0.0:
        images = color_jitter(keys[2], images, options.strength)
    if options.grey > 0.0:
        images = random_grey(keys[3], images, options.grey)
    if options.blur:
        images = gaussian_blur(keys[4], images)
    return images


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 0..255 to float32 0..1."""
    return images.astype(jnp.float32) / 255.0


def random_resized_crop(key: jax.Array, images: jax.Array, smallest: float) -> jax.Array:
    """Random crop of area U(smallest, 1), aspect ratio log-uniform in 3/4..4/3, resized back bilinearly."""
    top, left, height, width = crop_boxes(key, images.shape[0], (images.shape[1], images.shape[2]), smallest)
    return crop_and_resize(images, top, left, height, width)


def random_shift(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Random crop of the original size after padding with `pad` black pixels on each side (He et al., CVPR 2016)."""
    b, h, w, c = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (b, 2), 0, 2 * pad + 1)
    crop = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (h, w, c)))
    return crop(padded, corners)


def crop_boxes(key: jax.Array, b: int, size: tuple[int, int], smallest: float) -> tuple[jax.Array, ...]:
    """Boxes (top, left, height, width), each (b,) whole numbers in float32: the first of ten draws that fits."""
    h, w = size
    keys = jax.random.split(key, 4)
    # Vectors, of two keys at once: (b, 10) of each key alone has the same values, but takes much longer to compile.
    lows = jnp.array([smallest, jnp.log(3 / 4)])
    highs = jnp.array([1.0, jnp.log(4 / 3)])
    draw = jax.vmap(lambda key, low, high: jax.random.uniform(key, (b * _TRIES,), minval=low, maxval=high))
    shares, log_ratios = draw(keys[:2], lows, highs).reshape(2, b, _TRIES)
    down, across = jax.vmap(lambda key: jax.random.uniform(key, (b,)))(keys[2:])
    area = h * w * shares
    ratio = jnp.exp(log_ratios)
    widths = jnp.round(jnp.sqrt(area * ratio))
    heights = jnp.round(jnp.sqrt(area / ratio))
    fits = (widths <= w) & (heights <= h) & (widths > 0) & (heights > 0)
    first = jnp.argmax(fits, axis=1)[:, None]
    any_fits = fits.any(axis=1)
    height = jnp.where(any_fits, jnp.take_along_axis(heights, first, 1)[:, 0], h)
    width = jnp.where(any_fits, jnp.take_along_axis(widths, first, 1)[:, 0], w)
    top = jnp.floor(down * (h - height + 1))
    left = jnp.floor(across * (w - width + 1))
    return top, left, height, width


def crop_and_resize(
    images: jax.Array, top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    """The box of each image, resized to the whole image by two small matrix products, faster than a gather."""
    b, h, w, c = images.shape
    rows = _bilinear_weights(top, height, h)
    columns = _bilinear_weights(left, width, w)
    images = jnp.matmul(_swap(images).reshape(b, h * c, w), jnp.swapaxes(columns, 1, 2))
    return _swap(jnp.matmul(rows, images.reshape(b, h, c * w)).reshape(b, h, c, w))


def _bilinear_weights(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Weights (b, size, size): row i for the source pixels of output pixel i, clamped at the edge of the box."""
    start, length = start[:, None], length[:, None]
    centre = (jnp.arange(size, dtype=jnp.float32)[None, :] + 0.5) * length / size - 0.5
    source = start + jnp.clip(centre, 0.0, length - 1.0)
    return jnp.maximum(0.0, 1.0 - jnp.abs(source[:, :, None] - jnp.arange(size, dtype=jnp.float32)[None, None, :]))


def random_flip(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Mirrors each image left to right with the given probability."""
    return jnp.where(_coin(key, images, probability), images[:, :, ::-1], images)


def random_grey(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Replaces each image by its luma with the given probability."""
    return jnp.where(_coin(key, images, probability), jnp.broadcast_to(luma(images), images.shape), images)


def color_jitter(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Jitters colours with probability .8, in random order, by strength s.

    Brightness, contrast and saturation change by U(max(0, 1 - .8s), 1 + .8s), hue by U(-.2s, .2s).
    """
    b = images.shape[0]
    k_coin, k_order, k_factor, k_hue = jax.random.split(key, 4)
    reach = 0.8 * strength
    factors = jax.random.uniform(k_factor, (3 * b,), minval=max(0.0, 1 - reach), maxval=1 + reach)
    factors = factors.reshape(3, b, 1, 1, 1)
    shift = jax.random.uniform(k_hue, (b, 1, 1, 1), minval=-1.0, maxval=1.0) * min(0.2 * strength, 0.5)
    operations = (
        lambda x: adjust_brightness(x, factors[0]),
        lambda x: _contrast(x, factors[1]),
        lambda x: _saturation(x, factors[2]),
        lambda x: _hue(x, shift),
    )
    order = jax.random.permutation(k_order, len(operations))
    jittered = jax.lax.fori_loop(0, 4, lambda i, x: jax.lax.switch(order[i], operations, x), _swap(images))
    return jnp.where(_coin(k_coin, images, 0.8), _swap(jittered), images)


def adjust_brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the values by factor."""
    return jnp.clip(images * factor, 0.0, 1.0)


def adjust_contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with the mean luma of the image."""
    return _swap(_contrast(_swap(images), factor))


def adjust_saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with the luma of each pixel."""
    return _swap(_saturation(_swap(images), factor))


def adjust_hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Rotates the hue in HSV by `shift` turns."""
    return _swap(_hue(_swap(images), shift))


def _swap(images: jax.Array) -> jax.Array:
    """Swaps (b, h, w, c) <-> (b, h, c, w): a CPU processes rows of one channel several times faster."""
    return jnp.swapaxes(images, 2, 3)


def _contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    b, h, _, w = images.shape
    # One product with weights for all values: a sum over strided channels is several times slower on a CPU.
    weights = jnp.tile(jnp.repeat(jnp.array(_LUMA), w), h) / (h * w)
    mean = jnp.dot(images.reshape(b, -1), weights, precision=jax.lax.Precision.HIGHEST)[:, None, None, None]
    return jnp.clip(factor * images + (1 - factor) * mean, 0.0, 1.0)


def _saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    grey = sum(weight * images[:, :, i : i + 1] for i, weight in enumerate(_LUMA))
    return jnp.clip(factor * images + (1 - factor) * grey, 0.0, 1.0)


def _hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    r, g, b = (images[:, :, i] for i in range(3))
    high = jnp.maximum(jnp.maximum(r, g), b)
    low = jnp.minimum(jnp.minimum(r, g), b)
    chroma = high - low
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(high == r, (g - b) / safe, jnp.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    turned = sixth + 6 * shift[:, :, 0]

    def channel(n):
        """high - chroma * clip(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6."""
        k = n + turned
        k = k - 6 * jnp.floor(k / 6)  # jnp.mod is several times slower on a CPU
        return high - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=2)


def luma(images: jax.Array) -> jax.Array:
    """ITU-R 601 luma, (b, h, w, 1)."""
    return sum(weight * images[..., i : i + 1] for i, weight in enumerate(_LUMA))  # type: ignore[return-value]


def gaussian_blur(key: jax.Array, images: jax.Array) -> jax.Array:
    """Gaussian blur with sigma U(.1, 2) for each image and reflected borders.

    The kernel is a tenth of the shorter side (Chen et al., ICML 2020): 23x23 at 224 pixels, 3x3 at 32 and below.
    """
    b, h, w, _ = images.shape
    radius = max(1, min(h, w) // 10 // 2)
    sigma = jax.random.uniform(key, (b, 1, 1, 1), minval=0.1, maxval=2.0)
    weights = [jnp.exp(-0.5 * (i / sigma) ** 2) for i in range(1, radius + 1)]  # relative to the middle
    padded = jnp.pad(images, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="reflect")
    rows = padded[:, radius : radius + h]
    for i, weight in enumerate(weights, start=1):
        rows = rows + weight * (padded[:, radius - i : radius - i + h] + padded[:, radius + i : radius + i + h])
    columns = rows[:, :, radius : radius + w]
    for i, weight in enumerate(weights, start=1):
        columns = columns + weight * (rows[:, :, radius - i : radius - i + w] + rows[:, :, radius + i : radius + i + w])
    return columns / (1 + 2 * sum(weights)) ** 2


def _coin(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    return jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
