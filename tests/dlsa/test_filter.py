"""Losses by hand, pairs, the choice of the epoch, and the fitted filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lt_jax import errors
from lt_jax.dlsa import batches
from lt_jax.dlsa import filter as filters


def test_purity_loss_by_hand():
    """Posteriors (3/4, 1/4) and (1/2, 1/2): 3/4 log 1/2 + 1/4 log 1/2 = -log 2; (3/4, 1/4) twice: minus its entropy."""
    three = jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]]))
    other = jnp.log(jnp.array([[1.0, 1.0], [3.0, 1.0]]))
    expected = [-np.log(2), 0.75 * np.log(0.75) + 0.25 * np.log(0.25)]
    np.testing.assert_allclose(filters.purity_loss(three, other), expected, rtol=1e-6)


def test_purity_gradient_reaches_the_negative_alone():
    logits = jnp.array([[0.3, -0.2, 0.1]])
    on_positive, on_negative = jax.grad(lambda p, n: filters.purity_loss(p, n).sum(), argnums=(0, 1))(logits, -logits)
    assert not on_positive.any() and on_negative.any()


def test_balance_loss_by_hand():
    """One batch: log K - H of its mean. Second batch: running (.7 a + .3 b) (.3 / (1 - .49))."""
    first, second = jnp.array([[1.0, 0.0], [0.5, 0.5]]), jnp.array([[0.0, 1.0], [0.0, 1.0]])
    loss, running = filters.balance_loss(first, jnp.zeros(2), jnp.array(1))
    assert float(loss) == pytest.approx(np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25), rel=1e-5)
    loss, _ = filters.balance_loss(second, running, jnp.array(2))
    mean = (0.7 * 0.3 * np.array([0.75, 0.25]) + 0.3 * np.array([0.0, 1.0])) / (1 - 0.49)
    assert float(loss) == pytest.approx(np.log(2) + (mean * np.log(mean)).sum(), rel=1e-5)


def test_class_weights_by_hand():
    """Counts 8, 4, 0, 2 and power 2: 1, 4, 0, 16 over 21."""
    np.testing.assert_allclose(
        filters.class_weights(np.array([8, 4, 0, 2]), 2.0), np.array([1, 4, 0, 16]) / 21, rtol=1e-6
    )


def test_pairs_are_of_two_classes_drawn_alike():
    labels = np.repeat([0, 2, 5], (300, 30, 3))
    pairs = filters.draw_pairs(np.random.default_rng(0), labels, 50)
    assert pairs.shape == (7, 50, 2)
    many = labels[np.concatenate([filters.draw_pairs(np.random.default_rng(s), labels, 50) for s in range(20)])]
    assert (many[..., 0] != many[..., 1]).all()
    share = [(many == c).mean() for c in (0, 2, 5)]
    np.testing.assert_allclose(share, 1 / 3, atol=4 * np.sqrt(2 / 9 / many.size))


def test_pure_clusters_by_hand():
    counts = np.array([[8, 2], [7, 3], [0, 3], [50, 0]])  # purity .8, .7, 1, 1; size 10, 10, 3, 50
    assert filters.pure_clusters(counts, min_purity=0.7, min_size=9, max_size=100) == 2
    assert filters.pure_clusters(counts, min_purity=0.7, min_size=9, max_size=50) == 0


def test_frequencies_are_those_of_all_items_and_likelihood_rises(config, gaussians):
    features, labels, _, _ = gaussians
    config.filter.purity_weight = 0.0
    fitted = filters.fit_flow_filter(jax.random.key(0), features, labels, config.filter)
    assert float(fitted.counts.sum()) == len(labels)
    total = np.asarray(fitted.frequencies()).sum(axis=1)
    np.testing.assert_allclose(total, np.asarray(fitted.counts).sum(axis=1) > 0, rtol=1e-5)
    config.filter.learning_rate = 1e-9
    blank = filters.fit_flow_filter(jax.random.key(0), features, labels, config.filter)
    few = labels == 3
    assert fitted(features[few])[0].mean() > blank(features[few])[0].mean() + 0.5


def test_filter_is_the_same_for_the_same_key_only(config, gaussians):
    features, labels, _, _ = gaussians
    config.filter.epochs = 1
    a, b, c = (
        filters.fit_flow_filter(jax.random.key(s), features, labels, config.filter)(features)[0] for s in (0, 0, 1)
    )
    assert (a == b).all() and (a != c).any()


def test_memory_mapped_features_in_pieces_give_the_same_filter(config, gaussians, tmp_path, monkeypatch):
    features, labels, _, _ = gaussians
    np.save(tmp_path / "f.npy", features)
    config.filter.epochs = 2
    whole = filters.fit_flow_filter(jax.random.key(0), features, labels, config.filter)
    monkeypatch.setattr(batches, "_PIECE_BYTES", 1)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    pieces = filters.fit_flow_filter(jax.random.key(0), mapped, labels, config.filter)
    np.testing.assert_allclose(whole(features)[0], pieces(features)[0], rtol=1e-4, atol=1e-4)


def test_no_array_holds_every_difference_to_every_centre(config):
    """Distances to centres come from one product: nothing in the step has B * K * D numbers."""
    from lt_jax.dlsa import flow as flows

    b, k, d = 32, 50, 16
    flow = flows.create(jax.random.key(0), d, k)
    carry = {
        "params": flow.params,
        "stats": flow.stats,
        "running": jnp.zeros(k),
        "step": jnp.zeros((), int),
        "loss": jnp.zeros(()),
    }
    constants = {"centres": flow.centres, "mean": jnp.zeros(d), "deviation": jnp.ones(d), "weights": jnp.ones(4)}
    batch = (jnp.zeros((b, 2, d)), jnp.zeros(b, int))
    jaxpr = jax.make_jaxpr(lambda c, x: filters._step(filters._static(config.filter), constants, c, x))(carry, batch)
    sizes = [v.aval.size for equation in jaxpr.jaxpr.eqns for v in equation.outvars]
    assert max(sizes) < b * k * d / 4 and len(sizes) > 50


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f, y: (np.where(np.arange(4) == 2, np.nan, f), y), "item 0"),
        (lambda f, y: (f[:, 0], y), "table"),
        (lambda f, y: (f, y[:-1]), "one for each item"),
        (lambda f, y: (f, y * 0), "two classes"),
        (lambda f, y: (f, y.astype(float)), "whole numbers"),
        (lambda f, y: (f[:5], y[118:123]), "at most the number of training items, 5, found 6"),
    ],
)
def test_bad_input_is_one_clear_line(config, gaussians, change, said):
    features, labels = change(*gaussians[:2])
    with pytest.raises(errors.BadInput, match=said):
        filters.fit_flow_filter(jax.random.key(0), features, labels, config.filter)


def test_a_loss_that_is_not_finite_ends_the_fit(config, gaussians):
    config.filter.learning_rate = 1e9
    with pytest.raises(errors.RunFailed, match="not finite"):
        filters.fit_flow_filter(jax.random.key(0), *gaussians[:2], config.filter)
