"""Augmentation compared with Pillow and NumPy."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from configs import common
from lt_jax.augment import simclr as augment


@pytest.fixture(scope="module")
def images():
    """Returns smooth random images, uint8 (6, 32, 32, 3); unsmoothed noise would test only the rounding."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BICUBIC)) for x in small])


def assert_close(ours, theirs, tolerance=1.01):
    """Compares within one grey level, since Pillow rounds to integers."""
    np.testing.assert_allclose(np.asarray(ours) * 255, theirs, atol=tolerance)


def test_crop_and_resize_is_bilinear_with_clamped_edges(images):
    boxes = [(0, 0, 32, 32), (3, 5, 20, 11), (16, 0, 16, 32), (31, 31, 1, 1), (1, 2, 8, 8), (10, 10, 13, 17)]
    top, left, height, width = (jnp.array(x, jnp.float32) for x in zip(*boxes, strict=True))
    ours = augment.crop_and_resize(augment.to_float(jnp.asarray(images)), top, left, height, width)
    for image, (y, x, h, w), result in zip(images, boxes, ours, strict=True):
        theirs = Image.fromarray(image[y : y + h, x : x + w]).resize((32, 32), Image.Resampling.BILINEAR)
        assert_close(result, np.asarray(theirs, float))


def test_crop_boxes_fit_and_have_the_right_area():
    top, left, height, width = (np.asarray(x) for x in augment.crop_boxes(jax.random.key(0), 4000, (32, 32), 0.08))
    assert (top >= 0).all() and (top + height <= 32).all() and (left >= 0).all() and (left + width <= 32).all()
    assert (height >= 1).all() and np.all(height == np.round(height)) and np.all(left == np.round(left))
    area, ratio = height * width / 1024, width / height
    assert area.min() < 0.12 and area.max() > 0.9
    assert abs(area.mean() - 0.51) < 0.03  # uniform over (.08, 1), without large boxes that do not fit
    assert ratio.min() > 0.6 and ratio.max() < 1.6


def test_crop_boxes_are_the_first_of_ten_draws_that_fits():
    key, b, side, smallest = jax.random.key(3), 200, 8, 0.5
    k_area, k_ratio, k_top, k_left = jax.random.split(key, 4)
    areas = side**2 * jax.random.uniform(k_area, (b, 10), minval=smallest, maxval=1.0)
    ratios = jnp.exp(jax.random.uniform(k_ratio, (b, 10), minval=jnp.log(3 / 4), maxval=jnp.log(4 / 3)))
    widths, heights = np.asarray(jnp.round(jnp.sqrt(areas * ratios))), np.asarray(jnp.round(jnp.sqrt(areas / ratios)))
    top, left = jax.random.uniform(k_top, (b,)), jax.random.uniform(k_left, (b,))
    boxes = np.stack(augment.crop_boxes(key, b, (side, side), smallest), axis=1)
    for i in range(b):
        fitting = [(h, w) for h, w in zip(heights[i], widths[i], strict=True) if max(h, w) <= side]
        h, w = fitting[0] if fitting else (side, side)
        assert tuple(boxes[i]) == (np.floor(top[i] * (side - h + 1)), np.floor(left[i] * (side - w + 1)), h, w)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.9])
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color"])
def test_color_operations_against_pillow(images, name, factor):
    ours = {
        "Brightness": augment.adjust_brightness,
        "Contrast": augment.adjust_contrast,
        "Color": augment.adjust_saturation,
    }
    result = ours[name](augment.to_float(jnp.asarray(images)), jnp.full((1, 1, 1, 1), factor))
    for image, got in zip(images, result, strict=True):
        assert_close(got, np.asarray(getattr(ImageEnhance, name)(Image.fromarray(image)).enhance(factor), float), 2.01)


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.37, 0.5])
def test_hue_against_colorsys(images, shift):
    pixels = np.concatenate([images[0, ::4, ::4].reshape(-1, 3), [[0, 0, 0], [255, 255, 255], [9, 9, 9], [255, 0, 0]]])
    ours = augment.adjust_hue(jnp.asarray(pixels / 255.0, jnp.float32)[None, None], jnp.full((1, 1, 1, 1), shift))
    for pixel, got in zip(pixels, np.asarray(ours)[0, 0], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255.0))
        np.testing.assert_allclose(got, colorsys.hsv_to_rgb((h + shift) % 1.0, s, v), atol=1e-5)


def test_blur_against_pillow_kernel(images):
    key = jax.random.key(3)
    ours = augment.gaussian_blur(key, augment.to_float(jnp.asarray(images)))
    sigma = np.asarray(jax.random.uniform(key, (6, 1, 1, 1), minval=0.1, maxval=2.0)).ravel()
    for image, s, got in zip(images, sigma, ours, strict=True):
        line = np.exp(-0.5 * np.array([-1, 0, 1]) ** 2 / s**2)
        kernel = np.outer(line, line) / line.sum() ** 2
        theirs = Image.fromarray(image).filter(ImageFilter.Kernel((3, 3), kernel.ravel(), scale=1.0))
        assert_close(got[1:-1, 1:-1], np.asarray(theirs, float)[1:-1, 1:-1])
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect").astype(float)
        corner = (padded[:3, :3] * kernel[:, :, None]).sum((0, 1))
        assert_close(got[0, 0], corner, 0.01)


@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (32, 3), (64, 7), (224, 23)])
def test_blur_has_a_kernel_of_a_tenth_of_the_side(side, kernel):
    """A bright pixel spreads over exactly the kernel, in the proportions of the Gaussian."""
    point = jnp.zeros((1, side, side, 1)).at[0, side // 2, side // 2].set(1.0)
    key = jax.random.key(1)
    sigma = float(jax.random.uniform(key, (1, 1, 1, 1), minval=0.1, maxval=2.0)[0, 0, 0, 0])
    line = np.exp(-0.5 * (np.arange(kernel) - kernel // 2) ** 2 / sigma**2)
    expected = np.zeros((side, side))
    middle = slice(side // 2 - kernel // 2, side // 2 + kernel // 2 + 1)
    expected[middle, middle] = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(augment.gaussian_blur(key, point)[0, :, :, 0], expected, atol=1e-6)


def test_share_of_flipped_and_grey_images(images):
    many = jnp.tile(augment.to_float(jnp.asarray(images[:1])), (2000, 1, 1, 1))
    flipped = np.asarray(augment.random_flip(jax.random.key(0), many, 0.5))
    is_flipped = np.abs(flipped - np.asarray(many)[:, :, ::-1]).max((1, 2, 3)) == 0
    assert abs(is_flipped.mean() - 0.5) < 0.06
    grey = np.asarray(augment.random_grey(jax.random.key(1), many, 0.2))
    is_grey = np.ptp(grey, axis=-1).max((1, 2)) == 0
    assert abs(is_grey.mean() - 0.2) < 0.05
    assert_close(grey[is_grey][0, ..., 0], np.asarray(Image.fromarray(images[0]).convert("L"), float))


def test_jitter_leaves_one_fifth_of_images_unchanged(images):
    many = jnp.tile(augment.to_float(jnp.asarray(images[:1])), (2000, 1, 1, 1))
    out = np.asarray(augment.color_jitter(jax.random.key(0), many, 1.0))
    untouched = np.abs(out - np.asarray(many)).max((1, 2, 3)) == 0
    assert abs(untouched.mean() - 0.2) < 0.05
    assert out.min() >= 0 and out.max() <= 1


def test_whole_pipeline_is_pure_and_in_range(images):
    options = common.augment(strength=2.0)
    run = jax.jit(lambda key, x: augment.simclr(key, x, options))
    first, again, other = (np.asarray(run(jax.random.key(s), images)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01
    assert first.dtype == np.float32 and first.min() >= 0 and first.max() <= 1 + 1e-6


def test_without_options_images_stay_unchanged(images):
    options = common.augment(crop_scale=1.0, flip=0.0, strength=0.0, grey=0.0, blur=False)
    assert_close(augment.simclr(jax.random.key(0), jnp.asarray(images), options), images.astype(float), 1e-4)
