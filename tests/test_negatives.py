"""Balanced negative gathering: the law of the draw, and its corners."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from lt_jax.losses import negatives

LABELS = np.array([0, 0, 0, 0, 0, 0, 5, 5, 9, 0])


def test_first_a_class_then_a_key():
    found = np.asarray(negatives.sample(jax.random.key(0), jnp.asarray(LABELS), jnp.asarray(LABELS), 4000))
    assert found.shape == (10, 4000) and found.dtype == np.int32
    assert np.all(LABELS[found] != LABELS[:, None])
    # An anchor of class 0: classes 5 and 9 half each, so keys 6, 7 a quarter each and 8 one half.
    counts = np.bincount(found[0], minlength=10)
    assert stats.chisquare(counts[[6, 7, 8]], [1000, 1000, 2000]).pvalue > 1e-6
    # An anchor of class 5: class 0 and 9 half each.
    counts = np.bincount(found[6], minlength=10)
    zeros = np.flatnonzero(LABELS == 0)
    assert stats.chisquare(counts[[*zeros, 8]], [2000 / 7] * 7 + [2000]).pvalue > 1e-6


def test_no_other_class_gives_minus_one():
    labels = jnp.full(4, 3)
    assert np.all(np.asarray(negatives.sample(jax.random.key(0), labels, labels, 5)) == -1)


def test_anchor_whose_class_is_not_among_the_keys_takes_all_classes():
    for label in (-7, 2, 11):  # before, between and behind the labels of the keys
        found = np.asarray(negatives.sample(jax.random.key(1), jnp.array([label]), jnp.array([1, 5, 5, 9]), 300))
        assert set(found.ravel()) == {0, 1, 2, 3}


def test_deterministic_for_a_key_and_new_for_another():
    labels = jnp.asarray(LABELS)
    draw = jax.jit(negatives.sample, static_argnums=3)
    first, again, other = (draw(jax.random.key(seed), labels, labels, 50) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_order_of_the_keys_does_not_favour_any():
    """Every key of one class is as likely, wherever it stands."""
    labels = jnp.array([1, 0, 0, 1, 0, 1])
    found = np.asarray(negatives.sample(jax.random.key(4), labels, labels, 6000))[1]
    assert stats.chisquare(np.bincount(found, minlength=6)[[0, 3, 5]]).pvalue > 1e-6
