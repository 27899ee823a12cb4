"""Classifiers, and the recursion: thresholds, the depth of each item, and the end of the recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lt_jax import dlsa
from lt_jax.core import errors
from lt_jax.dlsa import classifiers, sampling


def test_cosine_logits_are_scaled_cosines():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    params = {"a": kernel, "b": kernel, "bias": np.zeros(2), "scale": 2.0}
    cosine = x @ kernel / np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(kernel, axis=0)
    logits = classifiers.raw_logits(jax.tree.map(jnp.float32, params), jnp.float32(x), None, "cosine")
    np.testing.assert_allclose(logits, 4 * cosine, rtol=1e-5)


@pytest.mark.parametrize("kind", classifiers.KINDS)
@pytest.mark.parametrize("loss", classifiers.LOSSES)
@pytest.mark.parametrize("order", sampling.FORMS)
def test_every_classifier_learns_separable_classes(config, gaussians, kind, loss, order):
    features, labels, test, test_labels = gaussians
    config.classifier.update(kind=kind, loss=loss, sampling=order)
    everything = np.arange(len(labels))
    fitted = classifiers.fit(jax.random.key(0), features, labels, everything, np.bincount(labels), config.classifier)
    assert (np.asarray(fitted(test)).argmax(axis=1) == test_labels).mean() > 0.8


def test_a_class_without_training_items_is_never_predicted(config, gaussians):
    features, labels, test, _ = gaussians
    some = np.flatnonzero(labels != 1)
    config.classifier.epochs = 1
    fitted = classifiers.fit(jax.random.key(0), features, labels, some, np.bincount(labels), config.classifier)
    assert 1 not in np.asarray(fitted(test)).argmax(axis=1)


def test_cluster_frequencies_are_used(config):
    """The features hold no information about the label, the cluster frequencies hold all of it."""
    labels = np.repeat([0, 1], 40)
    features, help = np.zeros((80, 3), np.float32), np.eye(2, dtype=np.float32)[labels]
    fitted = classifiers.fit(
        jax.random.key(0), features, labels, np.arange(80), np.array([40, 40]), config.classifier, help
    )
    assert (np.asarray(fitted(features, help)).argmax(axis=1) == labels).all()


def test_division_by_likelihood(config, gaussians):
    features, labels, test, test_labels = gaussians
    model = dlsa.fit(jax.random.key(0), features, labels, config)
    predicted, depth, likelihood = dlsa.predict(model, features)
    first, _ = model.depths[0].filter(features)
    assert abs((depth == 1).mean() - config.share) < 0.02
    np.testing.assert_array_equal(depth == 1, np.asarray(first) >= float(model.depths[0].threshold))
    np.testing.assert_allclose(likelihood[depth == 1], np.asarray(first)[depth == 1], rtol=1e-4, atol=1e-4)
    left = depth != 1
    assert abs((depth[left] == 2).mean() - config.share) < 0.03 and set(depth) == {1, 2, 3}
    assert (dlsa.predict(model, test)[0] == test_labels).mean() > 0.8


def test_prediction_does_not_depend_on_the_other_items(config, gaussians):
    features, labels, test, _ = gaussians
    config.classifier.epochs = config.filter.epochs = 1
    model = dlsa.fit(jax.random.key(0), features, labels, config)
    together, alone = dlsa.scores(model, test)[0], dlsa.scores(model, test[7:8])[0]
    np.testing.assert_allclose(together[7:8], alone, rtol=1e-4, atol=1e-4)


def test_recursion_ends_when_one_class_or_too_few_items_are_left(config, gaussians, capsys):
    features, labels, _, _ = gaussians
    config.update(depth=9, share=0.6)
    config.classifier.epochs = config.filter.epochs = 1
    model = dlsa.fit(jax.random.key(0), features, labels, config)
    stderr = capsys.readouterr().err
    assert 1 <= len(model.depths) < 9 and ("items are left" in stderr or "one class is left" in stderr)
    assert (dlsa.predict(model, features)[1] <= len(model.depths) + 1).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("share", 0.0, "config.dlsa.share"),
        ("share", 1.0, "config.dlsa.share"),
        ("depth", 0, "config.dlsa.depth"),
        ("classifier.kind", "quadratic", "linear, cosine"),
        ("classifier.loss", "hinge", "balanced_softmax"),
        ("classifier.sampling", "none", "class_aware"),
        ("rest_counts", "most", "config.dlsa.rest_counts"),
    ],
)
def test_invalid_settings_raise_a_clear_error(config, gaussians, key, value, message):
    config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.BadInput, match=message):
        dlsa.fit(jax.random.key(0), *gaussians[:2], config)


def test_features_of_another_width_are_refused(config, gaussians):
    config.classifier.epochs = config.filter.epochs = 1
    model = dlsa.fit(jax.random.key(0), *gaussians[:2], config)
    with pytest.raises(errors.BadInput, match="width 4 as in training, found 3"):
        dlsa.predict(model, gaussians[2][:, :3])
    with pytest.raises(errors.BadInput, match="item 2"):
        dlsa.predict(model, np.where(np.arange(len(gaussians[2]))[:, None] == 2, np.inf, gaussians[2]))


@pytest.mark.parametrize("unseen", ["never", "possible"])
def test_the_last_class_may_have_no_training_items(config, gaussians, unseen):
    features, labels, test, _ = gaussians
    num_classes = int(labels.max()) + 2
    config.classifier.unseen = unseen
    model = dlsa.fit(jax.random.key(0), features, labels, config, num_classes=num_classes)
    predicted, _, _ = dlsa.predict(model, test)
    logits = np.asarray(model(jnp.asarray(test))[0])
    assert logits.shape == (len(test), num_classes)
    assert unseen == "possible" or (predicted < num_classes - 1).all()
