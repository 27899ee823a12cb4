"""Augmentation families compared with Pillow and NumPy on photographs."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn import datasets

from configs import common
from lt_jax import augment, losses
from lt_jax.augment import autoaugment, cutout, mix, operations, simclr, trivial

CLASSES = losses.Classes.of(np.ones(8))


@pytest.fixture(scope="module")
def images():
    """Returns parts of the photographs that scikit-learn contains, uint8 (8, 32, 32, 3)."""
    china, flower = datasets.load_sample_images().images
    return np.stack([x[i : i + 128 : 4, i : i + 128 : 4] for x in (china, flower) for i in (0, 90, 180, 270)])


def assert_close(ours, theirs, tolerance):
    np.testing.assert_allclose(np.asarray(ours) * 255, np.stack(theirs).astype(float), atol=tolerance)


def scaled(images):
    return simclr.to_float(jnp.asarray(images))


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_posterize(images, bits):
    theirs = [np.asarray(ImageOps.posterize(Image.fromarray(x), bits)) for x in images]
    assert_close(operations.posterize(scaled(images), jnp.float32(bits)), theirs, 0.01)


@pytest.mark.parametrize("threshold", [0, 100, 255])
def test_solarize(images, threshold):
    theirs = [np.asarray(ImageOps.solarize(Image.fromarray(x), threshold)) for x in images]
    assert_close(operations.solarize(scaled(images), jnp.float32((threshold - 0.5) / 255)), theirs, 0.01)


def test_autocontrast(images):
    theirs = [np.asarray(ImageOps.autocontrast(Image.fromarray(x))) for x in images]
    assert_close(operations.autocontrast(scaled(images)), theirs, 1.01)
    flat = np.full((1, 8, 8, 3), 77, np.uint8)
    assert_close(operations.autocontrast(scaled(flat)), flat, 0.01)


def test_equalize(images):
    theirs = [np.asarray(ImageOps.equalize(Image.fromarray(x))) for x in images]
    assert_close(operations.equalize(scaled(images)), theirs, 0.01)
    flat = np.full((1, 8, 8, 3), 77, np.uint8)
    assert_close(operations.equalize(scaled(flat)), flat, 0.01)


@pytest.mark.parametrize("factor", [0.01, 1.0, 1.99])
def test_sharpness(images, factor):
    theirs = [np.asarray(ImageEnhance.Sharpness(Image.fromarray(x)).enhance(factor)) for x in images]
    assert_close(operations.sharpness(scaled(images), jnp.float32(factor)), theirs, 1.6)


@pytest.mark.parametrize("name", operations.GEOMETRIC)
@pytest.mark.parametrize("share", [-0.7, 0.31, 1.0])
def test_geometry(images, name, share):
    value = share * {"rotate": 135.0, "translate_x": 4.6, "translate_y": 4.6}.get(name, 0.99)
    which, values = jnp.full(len(images), operations.OPERATIONS.index(name)), jnp.full(len(images), value)
    row = [float(x) for x in np.asarray(operations._matrices(which, values, (32, 32))[0])]
    expected = {
        "shear_x": (1, value, -16 * value, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, -16 * value),
        "translate_x": (1, 0, value, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value),
    }
    if name in expected:
        np.testing.assert_allclose(row, expected[name], atol=1e-5)
    theirs = [np.asarray(Image.fromarray(x).transform((32, 32), Image.Transform.AFFINE, row)) for x in images]
    ours = np.asarray(operations.apply(scaled(images), which, values)) * 255
    differ = np.abs(ours - np.stack(theirs)).max(-1) > 0.5
    assert differ.mean() < 0.03  # a point on the edge between two pixels may be rounded to either


def test_the_policy_of_autoaugment_is_the_published_one():
    """The digest is that of the CIFAR-10 policy in torchvision 0.28."""
    rows = [[list(operation) for operation in pair] for pair in autoaugment.CIFAR10]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert digest == "88e77ce64cea3a1e832dc30e5db56cf311e588e8883858ee1830d051cf324ca7"


def test_magnitudes_of_autoaugment():
    """Those of torchvision's augmentation space with ten bins, at 32 pixels, and their signs."""
    magnitudes = jnp.arange(10)
    for sign in (1.0, -1.0):
        values = dict(zip(operations.OPERATIONS, autoaugment._values(magnitudes, sign, (32, 32)), strict=True))
        np.testing.assert_allclose(values["shear_x"], sign * np.linspace(0, 0.3, 10), rtol=1e-5)
        np.testing.assert_allclose(values["translate_y"], sign * np.linspace(0, 150 / 331 * 32, 10), rtol=1e-5)
        np.testing.assert_allclose(values["rotate"], sign * np.linspace(0, 30, 10), rtol=1e-5)
        np.testing.assert_allclose(values["color"], 1 + sign * np.linspace(0, 0.9, 10), rtol=1e-5)
        np.testing.assert_allclose(values["solarize"], np.linspace(1, 0, 10), atol=1e-6)
        assert values["posterize"].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]


def test_autoaugment_applies_a_pair_of_operations(images, monkeypatch):
    """One sub-policy with certainty: its two operations after each other, as Pillow applies them."""
    pair = (("invert", 1.0, 0), ("posterize", 1.0, 7))
    names = np.array([[operations.OPERATIONS.index(name) for name, _, _ in pair]] * len(autoaugment.CIFAR10))
    monkeypatch.setattr(autoaugment, "_NAMES", names)
    monkeypatch.setattr(autoaugment, "_PROBABILITIES", np.ones_like(autoaugment._PROBABILITIES))
    monkeypatch.setattr(autoaugment, "_MAGNITUDES", np.full_like(autoaugment._MAGNITUDES, 7))
    ours = autoaugment.autoaugment(jax.random.key(0), scaled(images))
    theirs = [np.asarray(ImageOps.posterize(ImageOps.invert(Image.fromarray(x)), 5)) for x in images]
    assert_close(ours, theirs, 0.01)


def test_autoaugment_draws_a_sub_policy_for_each_image(images):
    many = scaled(np.tile(images[:1], (1000, 1, 1, 1)))
    out = np.asarray(jax.jit(autoaugment.autoaugment)(jax.random.key(0), many))
    assert out.min() >= 0 and out.max() <= 1
    neither = np.mean([(1 - pair[0][1]) * (1 - pair[1][1]) for pair in autoaugment.CIFAR10])
    same = np.abs(out - np.asarray(many)).max((1, 2, 3)) < 1e-6
    assert neither - 0.05 < same.mean() < neither + 0.15  # operations may also leave an image as it is
    assert len({x.tobytes() for x in out}) > 50


def test_trivial_applies_one_operation_per_image(images):
    many = scaled(np.tile(images[:1], (1400, 1, 1, 1)))
    out = np.asarray(jax.jit(trivial.trivial)(jax.random.key(0), many))
    assert out.min() >= 0 and out.max() <= 1
    same = np.abs(out - np.asarray(many)).max((1, 2, 3)) < 1e-6
    assert 1 / 14 < same.mean() < 3 / 14  # identity, and operations at their lowest magnitude
    assert len({x.tobytes() for x in out}) > 250  # 14 operations with up to 61 magnitudes


def test_cutout_by_hand(images):
    key = jax.random.key(4)
    out = np.asarray(cutout.cutout(key, scaled(images), 0.25))
    k_row, k_column = jax.random.split(key)
    rows, columns = jax.random.randint(k_row, (8,), 0, 32), jax.random.randint(k_column, (8,), 0, 32)
    for image, row, column, got in zip(images / np.float32(255), rows, columns, out, strict=True):
        expected = image.copy()
        expected[max(0, row - 4) : row + 4, max(0, column - 4) : column + 4] = 0.5
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize("function", [mix.mixup, mix.cutmix])
def test_mixing_by_hand(images, function, alpha):
    batch = (scaled(images), jnp.eye(8))
    partners = (scaled(images[::-1]), jnp.eye(8)[::-1])
    mixed, labels = (np.asarray(x) for x in function(jax.random.key(1), batch, partners, CLASSES, alpha=alpha))
    weight = np.diag(labels)
    np.testing.assert_allclose(labels, weight[:, None] * np.eye(8) + (1 - weight[:, None]) * np.eye(8)[::-1], atol=1e-6)
    assert weight.min() >= 0 and weight.max() <= 1 and weight.std() > 0.05
    first, second = images / 255.0, images[::-1] / 255.0
    if function is mix.mixup:
        expected = weight[:, None, None, None] * first + (1 - weight[:, None, None, None]) * second
        np.testing.assert_allclose(mixed, expected, atol=1e-5)
        return
    is_first = np.abs(mixed - first).max(-1) < 1e-6
    is_second = np.abs(mixed - second).max(-1) < 1e-6
    assert (is_first | is_second).all()
    differs = np.abs(first - second).max(-1) > 1e-3
    for i in range(8):
        assert abs(is_first[i][differs[i]].mean() - weight[i]) < 0.15


def test_crop_and_flip_is_simclr_without_colours(images):
    options = common.augment(crop_scale=1.0, strength=0.0, grey=0.0, blur=False)
    out = np.asarray(augment.apply(jax.random.key(0), jnp.asarray(images), options))
    for image, got in zip(images / np.float32(255), out, strict=True):
        assert np.allclose(got, image, atol=1e-6) or np.allclose(got, image[:, ::-1], atol=1e-6)
    options.policy, options.cutout = "trivial", 0.5
    more = np.asarray(jax.jit(lambda key, x: augment.apply(key, x, options))(jax.random.key(0), images))
    assert np.abs(more - out).max((1, 2, 3)).min() > 0


def test_cropped_images_are_not_cropped_again(images):
    options = common.augment(crop_scale=0.08, flip=0.0, strength=0.0, grey=0.0, blur=False)
    out = augment.apply(jax.random.key(0), jnp.asarray(images), options, is_cropped=True)
    np.testing.assert_allclose(out, images / np.float32(255), atol=1e-6)


def test_magnitudes_of_trivial_augment(monkeypatch):
    seen = []
    monkeypatch.setattr(operations, "apply", lambda images, which, values: seen.extend((which, values)) or images)
    trivial.trivial(jax.random.key(0), jnp.zeros((20_000, 14, 7, 1)))
    which, values = map(np.asarray, seen)
    drawn = {name: np.unique(values[which == i].round(4)) for i, name in enumerate(operations.OPERATIONS)}
    assert {name for name, x in drawn.items() if not len(x)} == {"invert"}
    grid = np.unique(np.append(np.arange(31), -np.arange(31)) / 30)
    scales = {"rotate": 135.0, "shear_x": 0.99, "shear_y": 0.99, "translate_x": 1.0, "translate_y": 2.0}
    for name, scale in scales.items():
        np.testing.assert_allclose(drawn[name], scale * grid, atol=1e-3)
    for name in ("brightness", "color", "contrast", "sharpness"):
        np.testing.assert_allclose(drawn[name], 1.0 + 0.99 * grid, atol=1e-3)
    assert drawn["posterize"].tolist() == [2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(drawn["solarize"], np.arange(31) / 30, atol=1e-3)
