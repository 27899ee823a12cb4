"""The options of DLSA: hand-worked values, their effect on the model, and that all are off by default."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from etils import epath

from lt_jax import dlsa
from lt_jax.core import errors
from lt_jax.dlsa import batches, classifiers, divide, heads, sampling, share
from lt_jax.dlsa import filter as filters
from lt_jax.run import config as config_lib
from lt_jax.stages import dlsa as stages


def changed(config, **flat):
    """Returns the config with nested keys set, also new ones; filter__noise=.1 sets filter.noise."""
    result = config.copy_and_resolve_references()
    with result.unlocked():
        for key, value in flat.items():
            *above, name = key.split("__")
            part = result
            for step in above:
                part = part[step]
            part[name] = value
    return result


def fit_classifier(config, gaussians, help=None, initial=None):
    features, labels, _, _ = gaussians
    everything, counts = np.arange(len(labels)), np.bincount(labels)
    key = jax.random.key(0)
    return classifiers.fit(key, features, labels, everything, counts, config.classifier, help, initial)


def test_released_cosine_by_hand():
    """x = (3, 4): 16 * 5/6 * cosine. Columns (1, 0) and (0, 2): cosines .6 and .8; equal A and B double them."""
    kernel = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    logits = classifiers.raw_logits({"a": kernel, "b": kernel}, jnp.array([[3.0, 4.0]]), None, "cosine_released")
    np.testing.assert_allclose(logits, [[2 * 16 * 5 / 6 * 0.6, 2 * 16 * 5 / 6 * 0.8]], rtol=1e-6)
    params = heads.create(jax.random.key(0), 2, 3, helped=True, kind="cosine_released")
    assert set(params) == {"a", "b"}, "expected neither a learnt scale nor a bias"


def test_released_cosine_has_a_finite_gradient_at_zero():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    gradient = jax.grad(lambda x: classifiers.raw_logits(params, x, None, "cosine_released").sum())(jnp.zeros((1, 2)))
    assert np.isfinite(gradient).all()


def test_hidden_layer_by_hand():
    """Hidden units max(0, x1 - 1) and max(0, -x2) of A and B; at x = (3, -2): 2 and 2."""
    hidden, bias = jnp.array([[1.0, 0.0], [0.0, -1.0]]), jnp.array([-1.0, 0.0])
    params = {
        "hidden_a": hidden, "hidden_a_bias": bias, "hidden_b": hidden, "hidden_b_bias": bias,
        "a": jnp.array([[1.0], [0.0]]), "b": jnp.array([[0.0], [3.0]]), "bias": jnp.array([0.5]),
    }  # fmt: skip
    x = jnp.array([[3.0, -2.0], [0.0, 5.0]])
    np.testing.assert_allclose(classifiers.raw_logits(params, x, None, "linear"), [[2 + 6 + 0.5], [0.5]])


def test_class_cycles_use_every_item_once_per_cycle():
    labels = np.repeat([0, 2, 5], (7, 3, 2))
    config = types.SimpleNamespace(sampling="class_cycles", epochs=20, batch_size=5)
    orders = list(sampling.epochs(np.random.default_rng(0), labels, config))
    assert all(order.shape == (3, 5) for order in orders)
    drawn = np.concatenate(orders).reshape(-1)
    by_class = labels[drawn].reshape(-1, 3)
    assert (np.sort(by_class, axis=1) == [0, 2, 5]).all(), "expected each class once in every three draws"
    assert len({tuple(row) for row in by_class}) > 1, "expected the order of the classes to change"
    for c, size in ((0, 7), (2, 3), (5, 2)):
        of_class = drawn[labels[drawn] == c]
        rounds = of_class[: len(of_class) // size * size].reshape(-1, size)
        assert (np.sort(rounds, axis=1) == np.flatnonzero(labels == c)).all()
        assert len({tuple(row) for row in rounds}) > 1


@pytest.mark.parametrize("sampler", ["instance", "class_aware"])
def test_epochs_of_the_other_samplings(sampler):
    labels = np.repeat([0, 1], (90, 10))
    config = types.SimpleNamespace(sampling=sampler, epochs=3, batch_size=100)
    orders = np.concatenate(list(sampling.epochs(np.random.default_rng(0), labels, config)))
    if sampler == "instance":
        assert (np.sort(orders, axis=1) == np.arange(100)).all()
    else:
        assert abs((labels[orders] == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(300)


def test_threshold_forms_by_hand():
    """Values 0 to 9 and share .25: np.quantile at .75 is 6.75; the value of rank floor(7.5) is 7."""
    values = np.random.default_rng(0).permutation(10).astype(np.float32)
    assert share.threshold(values, 0.25, "interpolated") == 6.75
    assert share.threshold(values, 0.25, "order_statistic") == 7.0
    assert share.threshold(np.arange(4, dtype=np.float32), 0.5, "order_statistic") == 2.0


def test_threshold_form_is_used_by_fit(config, gaussians):
    features, labels, _, _ = gaussians
    config.update(depth=1)
    config.filter.epochs = config.classifier.epochs = 1
    thresholds = {}
    for form in share.THRESHOLDS:
        model = dlsa.fit(jax.random.key(0), features, labels, changed(config, threshold=form))
        likelihood = np.asarray(
            batches.over_all(filters.score_all, model.depths[0].filter, features, np.arange(188))[0]
        )
        thresholds[form] = float(model.depths[0].threshold)
    assert thresholds["order_statistic"] == np.sort(likelihood)[int(188 * 0.7)]
    assert thresholds["interpolated"] == np.float32(np.quantile(likelihood, 0.7)) != thresholds["order_statistic"]


def test_a_missing_key_equals_its_default_bit_for_bit(config, gaussians):
    features, labels, test, _ = gaussians
    config.filter.epochs = config.classifier.epochs = 2
    defaults = config_lib.from_command_line(["lt_jax", "--config=configs/dlsa_features.py:smoke"])[0].dlsa
    full = defaults.copy_and_resolve_references().unlock()
    full.update(config)
    bare, explicit = (dlsa.fit(jax.random.key(0), features, labels, c) for c in (config, full))
    assert jax.tree.structure(bare) == jax.tree.structure(explicit)
    jax.tree.map(np.testing.assert_array_equal, dlsa.scores(bare, test), dlsa.scores(explicit, test))


@pytest.mark.parametrize("form", ["none", "unit", "sphere"])
def test_unscaled_and_unit_length_features(config, gaussians, form):
    features, labels, test, _ = gaussians
    config.update(depth=1)
    config.filter.epochs = config.classifier.epochs = 1
    config = changed(config, filter__standardise=form, classifier__standardise=form)
    model = dlsa.fit(jax.random.key(0), features, labels, config)
    part = model.depths[0].filter
    if form == "none":
        x = test
        assert not np.asarray(part.mean).any() and (np.asarray(part.deviation) == 1).all()
    else:
        x = test - features.mean(axis=0)
        x = x / np.linalg.norm(x, axis=1, keepdims=True) * (2.0 if form == "sphere" else 1.0)
    np.testing.assert_allclose(part(test)[0], part.flow.log_prob(x), rtol=1e-4, atol=1e-4)


def head_of(features, labels):
    """Returns a random linear head on the unscaled features."""
    rng = np.random.default_rng(0)
    return {"kernel": rng.normal(size=(features.shape[1], labels.max() + 1)), "bias": rng.normal(size=labels.max() + 1)}


@pytest.mark.parametrize("form", ["coordinates", "none"])
def test_a_classifier_starts_from_a_trained_head(config, gaussians, form):
    """At a learning rate of 0 the logits are those of the head plus B x, where B is random."""
    features, labels, test, _ = gaussians
    head = head_of(features, labels)
    config = changed(config, classifier__learning_rate=0.0, classifier__epochs=1, classifier__standardise=form)
    without = fit_classifier(config, gaussians)
    fitted = fit_classifier(changed(config, classifier__start="backbone"), gaussians, initial=head)
    x = (test - np.asarray(fitted.mean)) / np.asarray(fitted.deviation)
    expected = test @ head["kernel"] + head["bias"] + x @ np.asarray(without.params["b"])
    np.testing.assert_allclose(fitted(test), expected, rtol=1e-3, atol=1e-3)


def test_all_classifiers_of_the_model_start_from_the_head(config, gaussians):
    features, labels, _, _ = gaussians
    config = changed(config, classifier__learning_rate=0.0, filter__epochs=1, classifier__epochs=1, depth=1)
    model = dlsa.fit(jax.random.key(0), features, labels, config, initial=head_of(features, labels))
    for part in (model.depths[0].classifier, model.rest):
        kernel = head_of(features, labels)["kernel"] * np.asarray(part.deviation)[:, None]
        np.testing.assert_allclose(part.params["a"], kernel, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"classifier__start": "backbone"}, "'backbone' needs a trained linear head"),
        ({"classifier__hidden": 4}, "config.dlsa.classifier.hidden: expected 0"),
        ({"classifier__standardise": "unit"}, "config.dlsa.classifier.standardise: expected coordinates or none"),
        ({}, r"initial: expected kernel \(4, 4\) and bias \(4,\), found \(3, 4\)"),
    ],
)
def test_an_unusable_initial_head_is_a_one_line_error(config, gaussians, options, reason):
    features, labels, _, _ = gaussians
    head = None if "classifier__start" in options else head_of(features, labels)
    if head and not options:
        head["kernel"] = head["kernel"][:3]
    with pytest.raises(errors.BadInput, match=reason) as caught:
        fit_classifier(changed(config, classifier__epochs=1, **options), gaussians, initial=head)
    assert "\n" not in str(caught.value)


def test_unseen_possible_masks_no_class(config, gaussians):
    """Released form: counts are those of the whole set, so an unseen class has a prior, and no logit is masked."""
    features, labels, test, _ = gaussians
    some = np.flatnonzero(labels != 1)
    config = changed(config, classifier__epochs=1, classifier__unseen="possible")
    fitted = classifiers.fit(jax.random.key(0), features, labels, some, np.bincount(labels), config.classifier)
    assert np.asarray(fitted.seen).all() and (np.asarray(fitted(test)) > -1e6).all()


@pytest.mark.parametrize("options", [{"hidden": 8}, {"label_smoothing": 0.1}, {"hidden": 8, "kind": "cosine_released"}])
def test_optional_classifiers_learn_separable_classes(config, gaussians, options):
    _, _, test, test_labels = gaussians
    plain = np.asarray(fit_classifier(config, gaussians)(test))
    config = changed(config, **{f"classifier__{name}": value for name, value in options.items()})
    logits = np.asarray(fit_classifier(config, gaussians)(test))
    assert (logits.argmax(axis=1) == test_labels).mean() > 0.8 and not np.allclose(logits, plain)


@pytest.mark.parametrize("number", [2, 5])
def test_folds_are_even_in_every_class(number):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], (40, 13, 5, 1)))
    fold = share.folds(np.random.default_rng(1), labels, number)
    sizes = np.bincount(fold, minlength=number)
    assert sizes.max() - sizes.min() <= 1
    for c in range(4):
        sizes = np.bincount(fold[labels == c], minlength=number)
        assert sizes.max() - sizes.min() <= 1


def test_out_of_fold_share_by_hand(monkeypatch, config):
    """Two folds of four with likelihoods 0 to 3 and 10 to 13: half of each is taken; test items use the mean."""
    likelihood, fold = np.array([0, 1, 2, 3, 10, 11, 12, 13], np.float32), np.repeat([0, 1], 4)
    monkeypatch.setattr(share, "out_of_fold", lambda *_: (likelihood, fold))
    monkeypatch.setattr(batches, "over_all", lambda *_: (np.full(8, 99.0), np.arange(8)))
    config = changed(config, share=0.5, share_at="out_of_fold", folds=2, threshold="order_statistic")
    taken, clusters, threshold = share.decide(None, None, 1, None, None, np.arange(8), config)
    assert taken.tolist() == [False, False, True, True] * 2 and threshold == (2 + 12) / 2
    assert clusters.tolist() == list(range(8)), "expected the clusters of the flow that is fitted on all items"


def test_out_of_fold_likelihoods_come_from_flows_of_other_folds(monkeypatch, config, gaussians):
    features, labels, _, _ = gaussians
    config = changed(config, share_at="out_of_fold", folds=5)
    left, seen = np.arange(3, 180), []

    def fit_for(key, features, labels, options, positions, epochs, pairs):
        assert pairs == 177, "expected as many pairs as for the flow of all items"
        seen.append((positions, epochs))
        return len(seen) - 1

    monkeypatch.setattr(filters, "fit_for", fit_for)
    monkeypatch.setattr(
        batches, "over_all", lambda _, number, features, positions: [np.full(len(positions), number, np.float32)]
    )
    likelihood, fold = share.out_of_fold(jax.random.key(0), features, labels, left, config, epochs=7)
    assert len(seen) == 5 and {epochs for _, epochs in seen} == {7}
    for position, number in zip(left, likelihood.astype(int), strict=True):
        assert position not in seen[number][0]
    assert all(set(positions) <= set(left) for positions, _ in seen)


def test_out_of_fold_share_treats_training_items_like_test_items(config):
    """A flow memorises few items in many dimensions; out-of-fold shares of training and test items are closer."""
    rng = np.random.default_rng(0)
    labels, test_labels = np.repeat(np.arange(4), (150, 60, 20, 10)), np.repeat(np.arange(4), 100)
    means = rng.normal(size=(4, 24))
    features, test = ((means[y] + rng.normal(size=(len(y), 24))).astype(np.float32) for y in (labels, test_labels))
    config = changed(config, depth=1, classifier__epochs=1, filter__epochs=20, filter__likelihood_weight=8.0)
    as_in_training = (np.bincount(labels) / len(labels) / 100)[test_labels]
    gaps = {}
    for form in share.FORMS:
        model, train_depth = dlsa.divide.fit_and_divide(
            jax.random.key(0), features, labels, changed(config, share_at=form)
        )
        depth = dlsa.predict(model, test)[1]
        gaps[form] = (train_depth[labels == 3] == 1).mean() - (depth[test_labels == 3] == 1).mean()
        assert abs((train_depth == 1).mean() - 0.3) < 0.03
        assert abs((as_in_training * (depth == 1)).sum() - 0.3) < 0.1, "expected a similar share of test items"
    assert gaps["fitted"] > 0.3 and abs(gaps["out_of_fold"]) < gaps["fitted"] / 2


def test_too_few_items_for_the_folds_is_a_one_line_error(config, gaussians):
    config = changed(config, share_at="out_of_fold", filter__clusters=100, folds=2)
    with pytest.raises(errors.BadInput, match="at most the number of training items, 94, found 100"):
        dlsa.fit(jax.random.key(0), *gaussians[:2], config)


def test_the_last_classifier_can_be_trained_on_everything(monkeypatch, config, gaussians):
    """If a depth takes a whole class, the last classifier sees it only when it is trained on all items."""
    features, labels, _, _ = gaussians

    def take_the_tail(key, fitted, epochs, features, labels, left, config):
        return labels[left] == 3, np.zeros(len(left), int), np.float32(0.0)

    monkeypatch.setattr(share, "decide", take_the_tail)
    config.filter.epochs = config.classifier.epochs = config.depth = 1
    seen = {}
    for last in ("left", "everything"):
        model, depth = dlsa.divide.fit_and_divide(jax.random.key(0), features, labels, changed(config, last=last))
        seen[last] = np.asarray(model.rest.seen).tolist()
        np.testing.assert_array_equal(depth, np.where(labels == 3, 1, 2))
    assert seen == {"left": [True, True, True, False], "everything": [True] * 4}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"classifier__kind": "cosine"},
        {"classifier__kind": "cosine_released", "filter__standardise": "unit", "classifier__standardise": "unit"},
        {"classifier__hidden": 5, "filter__standardise": "none", "classifier__unseen": "possible"},
    ],
)
def test_a_saved_model_gives_the_same_scores(config, gaussians, tmp_path, options):
    features, labels, test, _ = gaussians
    config.filter.epochs = config.classifier.epochs = 1
    config = changed(config, **options)
    model = dlsa.fit(jax.random.key(0), features, labels, config)
    stages.save(epath.Path(tmp_path), model)
    loaded = stages.load(epath.Path(tmp_path), config.classifier.kind)
    jax.tree.map(np.testing.assert_array_equal, dlsa.scores(model, test), dlsa.scores(loaded, test))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("share_at", "test", "one of fitted, out_of_fold, found 'test'"),
        ("threshold", "median", "one of interpolated, order_statistic"),
        ("folds", 1, "a whole number, at least 2, found 1"),
        ("last", "all", "one of left, everything"),
        ("filter.standardise", "rows", "one of coordinates, none, unit, sphere"),
        ("filter.noise", -0.1, "a number, at least 0, found -0.1"),
        ("filter.noise", float("nan"), "a number, at least 0, found nan"),
        ("filter.weight_decay", float("inf"), "a number, at least 0"),
        ("filter.epochs", 0, "a whole number, at least 1"),
        ("filter.learning_rate", float("nan"), "a number, at least 0"),
        ("classifier.standardise", "rows", "one of coordinates, none, unit, sphere"),
        ("classifier.start", "weights", "one of random, backbone"),
        ("classifier.unseen", "maybe", "one of never, possible"),
        ("classifier.label_smoothing", 1.0, "a number from 0 to below 1"),
        ("classifier.hidden", -1, "a whole number, at least 0"),
        ("classifier.momentum", 1.0, "a number from 0 to below 1"),
        ("classifier.epochs", 0, "a whole number, at least 1"),
    ],
)
def test_an_invalid_option_is_a_one_line_error(config, gaussians, key, value, expected):
    config = changed(config, **{key.replace(".", "__"): value})
    with pytest.raises(errors.BadInput) as caught:
        dlsa.fit(jax.random.key(0), *gaussians[:2], config)
    assert f"config.dlsa.{key}: expected {expected}" in str(caught.value) and "\n" not in str(caught.value)


def test_the_backbone_head_is_reproducible():
    """A second fit with the same key and features gives the same head, bit for bit."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 3
    config = config_lib.from_command_line(["lt_jax", "--config=configs/dlsa_digits.py:smoke"])[0].unlock()
    assert stages.backbone_head(config, features, labels, 3) is None
    config.dlsa.classifier.start = "backbone"
    first, again = (stages.backbone_head(config, features, labels, 3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (features @ first["kernel"] + first["bias"]).shape == (40, 3)


def test_baselines_use_the_settings_of_the_classifiers(config, gaussians):
    features, labels, test, _ = gaussians
    settings = changed(config, classifier__epochs=1, classifier__kind="cosine_released", classifier__hidden=3)
    whole = ml_collections.ConfigDict({"seed": 0, "dlsa": settings})
    scores = stages.baselines(whole, features, labels, test, 4)
    released, ours = (
        scores["cosine"],
        stages.baselines(changed(whole, dlsa__classifier__kind="cosine"), features, labels, test, 4)["cosine"],
    )
    assert (released != ours).any() and np.isfinite(released).all()


def test_the_last_classifier_is_fitted_on_everything_where_nothing_is_left(gaussians):
    features, labels, _, _ = gaussians
    config = config_lib.from_command_line(["lt_jax", "--config=configs/dlsa_features.py:smoke"])[0].dlsa
    nothing = np.zeros(0, int)
    last = divide._fit_last(jax.random.key(0), features, labels, nothing, config, None, labels.max() + 1)
    assert np.isfinite(np.asarray(last.mean)).all()


def test_counts_of_the_last_classifier(config, gaussians, monkeypatch):
    _, labels, _, _ = gaussians
    left, seen = np.flatnonzero(labels != 3)[::2], []
    monkeypatch.setattr(classifiers, "fit", lambda key, x, y, positions, counts, *more: seen.append(counts.tolist()))
    for form in ("all", "left"):
        divide._fit_last(jax.random.key(0), None, labels, left, changed(config, rest_counts=form), None, 4)
    assert seen == [np.bincount(labels).tolist(), np.bincount(labels[left], minlength=4).tolist()]
