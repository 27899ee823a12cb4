"""Balanced negative sampling: the law of the draw, and edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from lt_jax.losses import negatives

LABELS = np.array([0, 0, 0, 0, 0, 0, 5, 5, 9, 0])


def test_draws_a_class_then_a_key_of_it():
    drawn = np.asarray(negatives.sample(jax.random.key(0), jnp.asarray(LABELS), jnp.asarray(LABELS), 4000))
    assert drawn.shape == (10, 4000) and drawn.dtype == np.int32
    assert np.all(LABELS[drawn] != LABELS[:, None])
    # An anchor of class 0: classes 5 and 9 with probability 1/2 each, so keys 6 and 7 with 1/4 each and key 8 with 1/2.
    counts = np.bincount(drawn[0], minlength=10)
    assert stats.chisquare(counts[[6, 7, 8]], [1000, 1000, 2000]).pvalue > 1e-6
    # An anchor of class 5: classes 0 and 9 with probability 1/2 each.
    counts = np.bincount(drawn[6], minlength=10)
    zeros = np.flatnonzero(LABELS == 0)
    assert stats.chisquare(counts[[*zeros, 8]], [2000 / 7] * 7 + [2000]).pvalue > 1e-6


def test_no_other_class_gives_minus_one():
    labels = jnp.full(4, 3)
    assert np.all(np.asarray(negatives.sample(jax.random.key(0), labels, labels, 5)) == -1)


def test_an_anchor_of_a_class_without_keys_draws_from_all_classes():
    for label in (-7, 2, 11):  # below, between and above the labels of the keys
        drawn = np.asarray(negatives.sample(jax.random.key(1), jnp.array([label]), jnp.array([1, 5, 5, 9]), 300))
        assert set(drawn.ravel()) == {0, 1, 2, 3}


def test_draws_depend_on_the_random_key():
    labels = jnp.asarray(LABELS)
    draw = jax.jit(negatives.sample, static_argnums=3)
    first, again, other = (draw(jax.random.key(seed), labels, labels, 50) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_key_of_a_class_is_equally_likely():
    """The probability of a key does not depend on its position."""
    labels = jnp.array([1, 0, 0, 1, 0, 1])
    drawn = np.asarray(negatives.sample(jax.random.key(4), labels, labels, 6000))[1]
    assert stats.chisquare(np.bincount(drawn, minlength=6)[[0, 3, 5]]).pvalue > 1e-6
