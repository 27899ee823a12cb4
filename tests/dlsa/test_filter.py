"""Hand-worked losses, pairs, the choice of the epoch, and the fitted filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lt_jax import dlsa
from lt_jax.core import errors
from lt_jax.dlsa import batches, objective, scaling
from lt_jax.dlsa import filter as filters


def test_purity_loss_by_hand():
    """Posteriors (3/4, 1/4) and (1/2, 1/2): 3/4 log 1/2 + 1/4 log 1/2 = -log 2; equal posteriors: minus the entropy."""
    three = jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]]))
    other = jnp.log(jnp.array([[1.0, 1.0], [3.0, 1.0]]))
    expected = [-np.log(2), 0.75 * np.log(0.75) + 0.25 * np.log(0.25)]
    np.testing.assert_allclose(objective.purity_loss(three, other), expected, rtol=1e-6)


def test_purity_gradient_reaches_only_the_negative():
    logits = jnp.array([[0.3, -0.2, 0.1]])
    on_positive, on_negative = jax.grad(lambda p, n: objective.purity_loss(p, n).sum(), argnums=(0, 1))(logits, -logits)
    assert not on_positive.any() and on_negative.any()


def test_balance_loss_by_hand():
    """First batch: log K - H of its mean. Second batch: running (.7 a + .3 b) (.3 / (1 - .49))."""
    first, second = jnp.array([[1.0, 0.0], [0.5, 0.5]]), jnp.array([[0.0, 1.0], [0.0, 1.0]])
    loss, running = objective.balance_loss(first, jnp.zeros(2), jnp.array(1))
    assert float(loss) == pytest.approx(np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25), rel=1e-5)
    loss, _ = objective.balance_loss(second, running, jnp.array(2))
    mean = (0.7 * 0.3 * np.array([0.75, 0.25]) + 0.3 * np.array([0.0, 1.0])) / (1 - 0.49)
    assert float(loss) == pytest.approx(np.log(2) + (mean * np.log(mean)).sum(), rel=1e-5)


def test_class_weights_by_hand():
    """Counts 8, 4, 0, 2 and power 2: 1, 4, 0, 16 over 21."""
    np.testing.assert_allclose(
        objective.class_weights(np.array([8, 4, 0, 2]), 2.0), np.array([1, 4, 0, 16]) / 21, rtol=1e-6
    )


def test_pairs_are_of_two_classes_drawn_uniformly():
    labels = np.repeat([0, 2, 5], (300, 30, 3))
    pairs = objective.draw_pairs(np.random.default_rng(0), labels, 50)
    assert pairs.shape == (7, 50, 2)
    many = labels[np.concatenate([objective.draw_pairs(np.random.default_rng(s), labels, 50) for s in range(20)])]
    assert (many[..., 0] != many[..., 1]).all()
    share = [(many == c).mean() for c in (0, 2, 5)]
    np.testing.assert_allclose(share, 1 / 3, atol=4 * np.sqrt(2 / 9 / many.size))


def test_pure_clusters_by_hand():
    counts = np.array([[8, 2], [7, 3], [0, 3], [50, 0]])  # purity .8, .7, 1, 1; size 10, 10, 3, 50
    assert filters.pure_clusters(counts, min_purity=0.7, min_size=9, max_size=100) == 2
    assert filters.pure_clusters(counts, min_purity=0.7, min_size=9, max_size=50) == 0


def test_frequencies_count_all_items_and_likelihood_rises(config, gaussians):
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


def test_only_the_same_key_gives_the_same_filter(config, gaussians):
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


def test_no_array_holds_all_differences_to_all_centres(config):
    """Distances to centres come from one matrix product: no array of the step has B * K * D numbers."""
    from lt_jax.dlsa import flow as flows

    b, k, d = 32, 50, 16
    flow = flows.create(jax.random.key(0), d, k)
    carry = objective.start(jax.random.key(1), flow, k)
    scaled = (jnp.zeros(d), jnp.ones(d), None)
    constants = {"centres": flow.centres, "scaling": scaled, "weights": jnp.ones(4)}
    batch = (jnp.zeros((b, 2, d)), jnp.zeros(b, int))
    jaxpr = jax.make_jaxpr(lambda c, x: objective.step(objective.static(config.filter), constants, c, x))(carry, batch)
    sizes = [v.aval.size for equation in jaxpr.jaxpr.eqns for v in equation.outvars]
    assert max(sizes) < b * k * d / 4 and len(sizes) > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, y: (np.where(np.arange(4) == 2, np.nan, f), y), "item 0"),
        (lambda f, y: (f[:, 0], y), "table"),
        (lambda f, y: (f, y[:-1]), "one for each item"),
        (lambda f, y: (f, y * 0), "two classes"),
        (lambda f, y: (f, y.astype(float)), "whole numbers"),
        (lambda f, y: (f[:5], y[118:123]), "at most the number of training items, 5, found 6"),
    ],
)
def test_invalid_input_raises_a_clear_error(config, gaussians, change, message):
    features, labels = change(*gaussians[:2])
    with pytest.raises(errors.BadInput, match=message):
        filters.fit_flow_filter(jax.random.key(0), features, labels, config.filter)


def wide_gaussians():
    """Returns features (807, 256), skewed as pooled features are, and labels: ten classes of 300 to 4 items."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(10), (300, 190, 120, 77, 48, 30, 19, 12, 7, 4))
    items = rng.normal(size=(10, 256))[labels] + rng.normal(size=(len(labels), 256))
    return np.maximum(items, 0.0).astype(np.float32) ** 1.5, labels


def test_divergence_at_the_released_learning_rate_is_reported(config):
    """A learning rate of .2 suits a thousand classes; with ten, the likelihood term is a hundred times larger."""
    config.filter.update(learning_rate=0.2, batch_size=256, epochs=2, likelihood_weight=2.0)
    with pytest.raises(errors.RunFailed) as caught:
        filters.fit_flow_filter(jax.random.key(0), *wide_gaussians(), config.filter)
    message = str(caught.value)
    assert "\n" not in message and "diverged in epoch" in message and "not finite" in message
    assert "config.dlsa.filter.learning_rate, found 0.2" in message


def test_divergence_with_finite_numbers_is_reported(config):
    """Small unscaled features, released rate: without the check the likelihood is -5e5 nats per coordinate, finite."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), (200, 132, 88, 58, 38, 25, 17, 11, 7, 5))
    items = rng.normal(size=(10, 64))[labels] + rng.normal(size=(len(labels), 64))
    features = 0.01 * np.maximum(0.0, items - 0.8).astype(np.float32) ** 2
    with config.unlocked():
        config.filter.update(
            standardise="none", learning_rate=0.2, epochs=6, likelihood_weight=2.0, clusters=20, batch_size=64
        )
    with pytest.raises(
        errors.RunFailed, match=r"diverged in epoch \d+: the median log-likelihood fell from .*found 0.2"
    ):
        filters.fit_flow_filter(jax.random.key(0), features, labels, config.filter)


def test_a_converging_fit_raises_no_error(config):
    config.filter.update(learning_rate=0.05, batch_size=256, epochs=2, likelihood_weight=2.0)
    features, labels = wide_gaussians()
    fitted = filters.fit_flow_filter(jax.random.key(0), features, labels, config.filter)
    assert np.isfinite(fitted(features)[0]).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stats": {"variance": jnp.array([1.0, jnp.inf])}}, "not finite"),
        ({"params": {"kernel": jnp.array([jnp.nan])}}, "not finite"),
        ({"loss": jnp.array(jnp.nan)}, "not finite"),
        ({"likelihood": np.array([-1.0, -np.inf])}, "not finite"),
        ({"likelihood": np.array([-3.0, -24.1, -1e4])}, "fell from -4 to -24.1 nats"),
        ({"likelihood": np.array([-3.0, -23.9, -1e4])}, None),
    ],
)
def test_signs_of_divergence_by_hand(config, change, reason):
    """Two coordinates, reference -4: the median may fall by 10 nats per coordinate, a single item by any number."""
    carry = {"loss": jnp.zeros(()), "params": {"kernel": jnp.ones(1)}, "stats": {"variance": jnp.ones(2)}}
    carry |= {name: value for name, value in change.items() if name in carry}
    arguments = (3, carry, change.get("likelihood", np.array([-3.0, -5.0])), -4.0, config.filter, 2)
    if reason is None:
        return filters.check_converges(*arguments)
    with pytest.raises(errors.RunFailed, match=reason):
        filters.check_converges(*arguments)


def pure_clusters_of(now, features, labels, positions):
    counts = np.zeros((len(now.flow.centres), labels.max() + 1), int)
    np.add.at(counts, (np.asarray(now(features[positions])[1]), labels[positions]), 1)
    return filters.pure_clusters(counts, 0.7, 3, 1000)


def test_the_epoch_is_chosen_by_the_fitted_items(config, gaussians):
    """The fit uses items of two classes. They choose another epoch than all items would, and their choice counts."""
    features, labels, _, _ = gaussians
    positions = np.flatnonzero((labels == 1) | (labels == 2))[::2]

    def fit(**options):
        config.filter.update(learning_rate=0.05, purity_weight=2.0, **options)
        return dlsa.fit_flow_filter(jax.random.key(0), features, labels, config.filter, positions)

    after = [fit(epochs=n, min_size=1000) for n in range(1, 9)]  # no cluster is so large: the last epoch is kept
    on_fitted = [pure_clusters_of(now, features, labels, positions) for now in after]
    on_all = [pure_clusters_of(now, features, labels, np.arange(len(labels))) for now in after]
    best = int(np.argmax(on_fitted))
    assert max(on_fitted) > 0 and best != int(np.argmax(on_all)), "the two choices must differ for this test"
    chosen = fit(epochs=8, min_size=3)
    np.testing.assert_array_equal(chosen(features)[0], after[best](features)[0])
    assert float(chosen.counts.sum()) == len(labels), "P(class | cluster) is counted over all items"


def test_noise_and_decay_change_the_fit_and_are_off_by_default(config, gaussians):
    features, labels, _, _ = gaussians
    config.filter.epochs = 1

    def likelihood(**options):
        changed = config.filter.copy_and_resolve_references()
        with changed.unlocked():
            changed.update(options)
        return np.asarray(filters.fit_flow_filter(jax.random.key(0), features, labels, changed)(features)[0])

    plain = likelihood()
    np.testing.assert_array_equal(plain, likelihood(noise=0.0, weight_decay=0.0, standardise="coordinates"))
    assert (plain != likelihood(noise=0.3)).any() and (plain != likelihood(weight_decay=0.1)).any()


def test_weight_decay_applies_only_to_matrices():
    """One step at rate .1 and decay 2 without a loss: matrices times .8, biases and norms unchanged."""
    from lt_jax.dlsa import flow as flows

    flow = flows.create(jax.random.key(0), 4, 3)
    before = jax.tree.map(np.asarray, flow.params)
    carry = objective.start(jax.random.key(1), flow, 3)
    scaled = (jnp.zeros(4), jnp.ones(4), None)
    constants = {"centres": flow.centres, "scaling": scaled, "weights": jnp.ones(2)}
    batch = (jax.random.normal(jax.random.key(2), (5, 2, 4)), jnp.zeros(5, int))
    after = jax.jit(objective.step, static_argnums=0)((0.1, 0.0, 0.0, 0.0, 0.0, 2.0), constants, carry, batch)["params"]
    jax.tree.map(lambda b, a: np.testing.assert_allclose(a, 0.8 * b if b.ndim == 2 else b, rtol=1e-5), before, after)


def test_scaling_by_hand():
    """Two items (3, 0) and (-1, 0): standardised, unchanged, and centred with length 1 or the root of 2."""
    features, x = np.array([[3.0, 0.0], [-1.0, 0.0]], np.float32), jnp.array([[4.0, 4.0]])
    expected = {"coordinates": [[1.5, 4.0]], "none": [[4.0, 4.0]], "unit": [[0.6, 0.8]]}
    expected["sphere"] = [[0.6 * 2**0.5, 0.8 * 2**0.5]]
    for form, row in expected.items():
        scaled = scaling.fit(features, np.arange(2), form, "filter.standardise")
        np.testing.assert_allclose(scaling.apply(x, *scaled), row, rtol=1e-6)


def test_components_by_hand():
    """Items on two axes at 45 degrees, of variances 8 and 2: the components are coordinates on them, of variance 1."""
    along = np.array([[4.0, 0.0], [-4.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    axes = np.array([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    features = (along @ axes + [3.0, 5.0]).astype(np.float32)
    scaled = (jnp.array([3.0, 5.0]), jnp.ones(2), None)
    matrix = scaling.principal(features, np.arange(4), scaled, 2, "filter.components")
    coordinates = np.asarray(scaling.apply(jnp.asarray(features), *scaled, matrix))
    np.testing.assert_allclose(np.abs(coordinates), np.abs(along) / np.sqrt([8.0, 2.0]), atol=1e-5)
    first = scaling.principal(features, np.arange(4), scaled, 1, "filter.components")
    np.testing.assert_allclose(first, matrix[:, :1])
    flat = np.repeat(features[:, :1], 2, axis=1)
    with pytest.raises(errors.BadInput, match="dimensions of the features, 1, found 2"):
        scaling.principal(flat, np.arange(4), (flat.mean(axis=0), np.ones(2), None), 2, "filter.components")


def test_a_flow_of_components_is_the_flow_of_projected_features(config, gaussians):
    """Likelihoods of a flow that sees two components are those of a flow on these components."""
    features, labels, test, _ = gaussians
    with config.unlocked():
        config.filter.update(components=2, epochs=2)
    fitted = dlsa.fit_flow_filter(jax.random.key(0), features, labels, config.filter)
    assert fitted.components.shape == (4, 2) and fitted.flow.centres.shape[1] == 2
    deviation = features.std(axis=0)
    centred, of_test = ((x - features.mean(axis=0)) / deviation for x in (features, test))
    projected = centred @ np.asarray(fitted.components)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(2), atol=1e-4)
    with config.unlocked():
        config.filter.update(components=0, standardise="none")
    on_projected = dlsa.fit_flow_filter(jax.random.key(0), projected, labels, config.filter)
    np.testing.assert_allclose(
        fitted(test)[0], on_projected(of_test @ np.asarray(fitted.components))[0], rtol=1e-3, atol=1e-3
    )


def test_an_unknown_scaling_is_refused(config, gaussians):
    with config.unlocked():
        config.filter.standardise = "whitened"
    with pytest.raises(
        errors.BadInput, match=r"config.dlsa.filter.standardise: expected one of coordinates, none, unit"
    ):
        dlsa.fit_flow_filter(jax.random.key(0), *gaussians[:2], config.filter)
