"""Remix by hand: who gets the label of a mixed image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lt_jax import losses, methods
from lt_jax.augment import mix

IMAGES = jnp.ones((2000, 1, 1, 1))


def mixed(counts, first, second, **options):
    """(weights of the first image, weights of its label) where a class is mixed with another, ones with zeros."""
    labels = [jnp.tile(jnp.eye(len(counts))[c], (2000, 1)) for c in (first, second)]
    classes = losses.Classes.of(np.array(counts))
    images, soft = mix.remix(jax.random.key(0), (IMAGES, labels[0]), (0 * IMAGES, labels[1]), classes, **options)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, rtol=1e-6)
    return np.asarray(images[:, 0, 0, 0]), np.asarray(soft[:, first])


def test_a_frequent_class_loses_its_label_below_tau():
    """90 / 30 is kappa: for w < 1/2 the rare partner has all of the label."""
    weights, labels = mixed([90, 30], 0, 1)
    np.testing.assert_allclose(labels, np.where(weights < 0.5, 0.0, weights), atol=1e-6)
    assert 0.4 < (labels == 0).mean() < 0.6


def test_a_rare_class_has_all_of_the_label_above_one_minus_tau():
    weights, labels = mixed([90, 30], 1, 0, tau=0.2)
    np.testing.assert_allclose(labels, np.where(1 - weights < 0.2, 1.0, weights), atol=1e-6)


@pytest.mark.parametrize(("counts", "options"), [([89, 30], {}), ([90, 30], {"kappa": 3.5}), ([1000, 1], {"tau": 0.0})])
def test_classes_of_similar_size_or_tau_zero_share_the_label_as_in_mixup(counts, options):
    for first, second in ((0, 1), (1, 0)):
        weights, labels = mixed(counts, first, second, **options)
        np.testing.assert_allclose(labels, weights, atol=1e-6)


@pytest.mark.parametrize("counts", [[1_000_000, 1], [1, 0]])
def test_extreme_counts(counts):
    """An empty class is half an image, not infinitely rare: beside a class of one image it shares the label."""
    weights, labels = mixed(counts, 0, 1)
    assert np.isfinite(labels).all()
    assert ((labels == 0) == ((weights < 0.5) & (counts[0] > 1))).all()


def test_labels_that_are_mixed_already_count_by_their_shares():
    """Half of 100 and half of 20 is a class of 60: more than 3 * 19, less than 3 * 21."""
    own = jnp.tile(jnp.array([[0.5, 0.5, 0.0]]), (2000, 1))
    for rare, is_moved in ((19, True), (21, False)):
        classes, partner = losses.Classes.of(np.array([100, 20, rare])), jnp.tile(jnp.eye(3)[2], (2000, 1))
        _, soft = mix.remix(jax.random.key(0), (IMAGES, own), (IMAGES, partner), classes)
        assert bool((soft[:, 2] == 1.0).any()) == is_moved


def test_images_are_those_of_mixup():
    batch = (jax.random.normal(jax.random.key(1), (4, 2, 2, 3)), jnp.eye(5)[:4])
    partners, classes = (batch[0][::-1], batch[1][::-1]), losses.Classes.of(np.array([40, 12, 5, 0, 1]))
    images = [methods.MIXES[name](jax.random.key(0), batch, partners, classes)[0] for name in ("mixup", "remix")]
    np.testing.assert_array_equal(*images)
