"""Losses against numbers worked by hand, plain loops in float64, and finite differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lt_jax import losses


@pytest.fixture(autouse=True)
def strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


def unit(generator, *shape):
    x = generator.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def bns_by_loops(queries, keys, own, negatives, t):
    result = []
    for i in range(len(queries)):
        total = 0.0
        for q in queries[i]:
            total += log_sigmoid(q @ keys[own[i]] / t)
            total += sum(log_sigmoid(-q @ keys[j] / t) for j in negatives[i] if j >= 0)
        result.append(-total / len(queries[i]))
    return np.array(result)


def test_bns_by_hand():
    # One anchor on its key, one negative orthogonal, one opposite: log-sigmoids of 1/t = 2, of 0, of 2.
    queries, keys = jnp.array([[[1.0, 0.0]]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    loss = losses.bns(queries, keys, jnp.array([0]), jnp.array([[1, 2, -1]]), 0.5)
    expected = 2 * np.log1p(np.exp(-2.0)) + np.log(2.0)
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


@pytest.mark.parametrize(("m", "n"), [(0, 1), (1, 4), (3, 16)])
def test_bns_against_loops(m, n):
    generator = np.random.default_rng(m)
    queries, keys = unit(generator, 6, m + 1, 5), unit(generator, 9, 5)
    own, negatives = generator.integers(0, 9, 6), generator.integers(-1, 9, (6, n))
    loss = losses.bns(*map(jnp.asarray, (queries.astype("f"), keys.astype("f"), own, negatives)), 0.2)
    np.testing.assert_allclose(loss, bns_by_loops(queries, keys, own, negatives, 0.2), rtol=1e-5)


def test_bns_one_anchor_equals_its_row_of_a_batch():
    generator = np.random.default_rng(1)
    queries, keys = unit(generator, 4, 2, 5).astype("f"), unit(generator, 4, 5).astype("f")
    negatives = generator.integers(0, 4, (4, 3))
    batch = losses.bns(jnp.asarray(queries), jnp.asarray(keys), jnp.arange(4), jnp.asarray(negatives), 0.5)
    alone = losses.bns(jnp.asarray(queries[2:3]), jnp.asarray(keys), jnp.array([2]), jnp.asarray(negatives[2:3]), 0.5)
    np.testing.assert_allclose(alone[0], batch[2], rtol=1e-6)


def test_bns_without_negatives_and_at_small_temperature_is_finite():
    queries = jnp.array([[[1.0, 0.0]], [[-1.0, 0.0]]])
    keys, none = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.full((2, 2), -1)
    loss, gradient = jax.value_and_grad(lambda q: losses.bns(q, keys, jnp.arange(2), none, 1e-3).sum())(queries)
    np.testing.assert_allclose(loss, 1000.0, rtol=1e-6)  # -log sigmoid(-1000), the other is zero
    assert np.isfinite(gradient).all()


def test_bns_gradients():
    generator = np.random.default_rng(2)
    queries, keys = (
        jnp.asarray(unit(generator, 3, 2, 4), jnp.float32),
        jnp.asarray(unit(generator, 5, 4), jnp.float32),
    )
    own, negatives = jnp.array([0, 4, 2]), jnp.array([[1, 2], [-1, 0], [3, 3]])
    check_grads(lambda q, k: losses.bns(q, k, own, negatives, 0.5), (queries, keys), 1, modes=["rev"], rtol=1e-2)


def test_bns_never_gathers_keys():
    """No intermediate of shape (B, n, d) or (B, G, d), or with partners, in the loss or its gradient."""
    b, n, d, g = 8, 7, 5, 9
    shapes = (jnp.zeros((b, 2, d)), jnp.zeros((g, d)), jnp.zeros(b, int), jnp.zeros((b, n), int))

    def total(*arguments):
        return losses.bns(*arguments, 0.5).sum()

    program = str(jax.make_jaxpr(jax.value_and_grad(total, argnums=(0, 1)))(*shapes))
    sizes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\w\[([\d,]+)\]", program)}
    assert (b, 2, g) in sizes
    assert not any(len(shape) >= 3 and d in shape and (n in shape or g in shape) for shape in sizes)


def official_by_loops(z, labels, t):
    n, result = len(z), []
    for i in range(n):
        positive = [np.exp(z[i] @ z[p] / t) for p in range(n) if labels[p] == labels[i] and p != i]
        negative = sum(np.exp(z[i] @ z[j] / t) for j in range(n) if labels[j] != labels[i]) / n
        result.append(-(log_sigmoid(np.mean(positive)) + log_sigmoid(-negative)))
    return np.array(result)


def test_official_against_loops():
    generator = np.random.default_rng(3)
    z, labels = unit(generator, 8, 4), np.array([0, 1, 2, 0, 0, 1, 2, 0])
    loss = losses.bns_official(jnp.asarray(z, jnp.float32), jnp.asarray(labels), 0.5)
    np.testing.assert_allclose(loss, official_by_loops(z, labels, 0.5), rtol=1e-5)


def test_cross_entropy_by_hand_and_at_extremes():
    logits = jnp.array([[0.0, 0.0], [1e4, 0.0], [0.0, 1e4]])
    loss = losses.cross_entropy(logits, jnp.array([0, 0, 0]))
    np.testing.assert_allclose(loss, [np.log(2), 0.0, 1e4], rtol=1e-6)


def test_class_distances_by_hand():
    z = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    intra, inter = losses.class_distances(z, jnp.array([0, 0, 1]))
    np.testing.assert_allclose([intra, inter], [0.0, np.sqrt(2)], atol=1e-6)
    assert np.isnan(losses.class_distances(z, jnp.array([0, 1, 2]))[0])


def supcon_by_loops(z, labels, t):
    per_item = []
    for i in range(len(z)):
        other_items = [j for j in range(len(z)) if j != i]
        total = np.log(sum(np.exp(z[i] @ z[j] / t) for j in other_items))
        positive = [j for j in other_items if labels[j] == labels[i]]
        per_item.append(np.mean([total - z[i] @ z[j] / t for j in positive]))
    return np.array(per_item)


@pytest.mark.parametrize("name", ["supcon", "simclr"])
def test_contrastive_losses_to_compare_with_against_loops(name):
    generator = np.random.default_rng(3)
    z = unit(generator, 10, 4)
    labels = np.tile([0, 0, 1, 2, 2], 2)
    positives = labels if name == "supcon" else np.tile(np.arange(5), 2)  # SimCLR: an image is a class of its own
    loss_of = jax.jit(getattr(losses, name), static_argnums=2)
    values = loss_of(jnp.asarray(z, jnp.float32), jnp.asarray(labels), 0.3)
    np.testing.assert_allclose(values, supcon_by_loops(z, positives, 0.3), rtol=1e-5)
    gradient = jax.grad(lambda z: loss_of(z, jnp.asarray(labels), 0.3).mean())(jnp.asarray(z, jnp.float32))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0.01


CLASSES = losses.Classes.of(np.array([3, 1, 0]))


def test_label_smoothing_by_hand():
    """Equal logits, counts 3, 1, 0: .9 on the label and .1 on the one other class that has images."""
    share = np.array([6, 2, 1]) / 9  # softmax of the log prior: an empty class counts as half an image
    loss = losses.balanced_softmax(jnp.zeros((2, 3)), jnp.array([0, 1]), CLASSES, smoothing=0.1)
    first = np.log(share)
    np.testing.assert_allclose(loss, [-0.9 * first[0] - 0.1 * first[1], -0.9 * first[1] - 0.1 * first[0]], rtol=1e-5)
    one_class = losses.Classes.of(np.array([2, 0, 0]))
    alone = losses.cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), one_class, smoothing=0.1)
    np.testing.assert_allclose(alone, 0.9 * np.log(3), rtol=1e-6)


def test_smoothing_needs_the_classes():
    with pytest.raises(ValueError, match="expected the argument `classes`"):
        losses.cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), smoothing=0.1)


def test_logit_adjustment_by_hand():
    logits = jnp.array([[1.0, 2.0, 0.5]])
    adjusted = np.array([1.0, 2.0, 0.5]) + 2.0 * np.log([3 / 4, 1 / 4, 1 / 8])
    loss = losses.logit_adjustment(logits, jnp.array([1]), CLASSES, tau=2.0)
    np.testing.assert_allclose(loss, [np.log(np.exp(adjusted).sum()) - adjusted[1]], rtol=1e-5)


def test_a_class_without_images_has_a_finite_prior():
    np.testing.assert_allclose(losses.log_prior(np.array([8, 0])), np.log([1, 1 / 16]), atol=1e-7)
