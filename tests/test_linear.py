"""The linear classifier on fixed features, and its log-probabilities."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from configs import common
from lt_jax import heads, losses, optim
from lt_jax.heads import training
from lt_jax.train import extract as features

CONFIG = common.training(epochs=1.0, batch_size=32, base_learning_rate=0.8, warmup_epochs=0.0)
CONFIG.weight_decay = 0.0


def fit(seed, x, labels, config, epochs, **options):
    settings = heads.Settings.of(config, epochs)
    classes = losses.Classes.of(np.bincount(labels))
    return heads.linear(jax.random.key(seed), x, labels, classes, settings=settings, **options)


@pytest.fixture(scope="module")
def clusters():
    """Returns features and labels of three overlapping clusters; the features have very different scales."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [100, 60, 27])
    centres = np.array([[0, 0, 0], [2, 0, 1], [0, 2, -1]])
    x = (centres[labels] + generator.normal(size=(len(labels), 3))) * [1000.0, 1.0, 0.001] + [5000.0, 0.0, 1.0]
    return x.astype(np.float32), labels


def test_fit_matches_logistic_regression(clusters):
    x, labels = clusters
    head = fit(0, x, labels, CONFIG, 150)
    scaled = (x - x.mean(0)) / x.std(0)
    expected = LogisticRegression(C=1e6, max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    logits = head(x)
    ours = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), expected, atol=0.02)


def test_warm_up_takes_at_most_a_quarter_of_a_short_fit(clusters):
    """The head of the first p trains for 5 epochs with the settings of retraining, whose warm-up takes 5."""
    x, labels = clusters
    long, short = CONFIG.copy_and_resolve_references(), CONFIG.copy_and_resolve_references()
    long.warmup_epochs, short.warmup_epochs = 5.0, 1.25
    fitted = [fit(0, x, labels, options, 5) for options in (long, short)]
    np.testing.assert_array_equal(fitted[0].kernel, fitted[1].kernel)


def test_class_aware_fit_approaches_balanced_logistic_regression(clusters):
    x, labels = clusters
    scaled = (x - x.mean(0)) / x.std(0)
    head = fit(0, x, labels, CONFIG, 600, class_balanced=True)
    logits = head(x)
    ours = np.exp(logits - logits.max(1, keepdims=True))
    ours /= ours.sum(1, keepdims=True)
    balanced, plain = (
        LogisticRegression(C=1e6, max_iter=1000, class_weight=weight).fit(scaled, labels).predict_proba(scaled)
        for weight in ("balanced", None)
    )
    assert np.abs(ours - balanced).max() < 0.5 * np.abs(plain - balanced).max()
    assert np.abs(ours - balanced).mean() < 0.2 * np.abs(plain - balanced).mean()


def test_fit_is_deterministic_for_a_key(clusters):
    x, labels = clusters
    first, again, other = (fit(s, x, labels, CONFIG, 2) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.kernel, again.kernel)
    assert not np.array_equal(first.kernel, other.kernel)


def test_constant_features_give_finite_weights():
    x = np.ones((8, 2), np.float32)
    head = fit(0, x, np.arange(8) % 2, CONFIG, 2)
    assert np.isfinite(head.kernel).all() and np.isfinite(head.bias).all()


def test_log_probabilities_do_not_underflow():
    logits = np.array([[40.0, 0.0], [0.0, 0.0], [0.0, 200.0]], np.float32)
    log_p = features.true_log_probabilities(logits, np.array([0, 1, 0]))
    np.testing.assert_allclose(log_p, [0.0, np.log(0.5), -200.0], rtol=1e-6, atol=1e-12)
    assert log_p.dtype == np.float32 and log_p.max() <= 0


@pytest.mark.parametrize(("epochs", "steps", "expected"), [(2.5, 0, 10), (0.25, 0, 1), (9.0, 6, 6), (3.0, 0, 12)])
def test_as_many_steps_as_the_settings_say(epochs, steps, expected):
    """The gradient is one, so that SGD at a constant rate counts its steps."""
    settings = heads.Settings(
        epochs=epochs, steps=steps, batch_size=2, base_learning_rate=128.0, warmup_epochs=0.0, schedule="constant",
        optimizer="sgd", momentum=0.0, weight_decay=0.0,
    )  # fmt: skip
    plan = training.Plan(settings, lambda params, x: params["w"][None, :] + 0 * x, lambda logits, *_: logits[:, 0])
    classes = losses.Classes.of(np.array([8]))
    x, labels = np.zeros((8, 1), np.float32), np.zeros(8, np.int32)
    fitted = training.fit(jax.random.key(0), x, labels, classes, {"w": np.zeros(1, np.float32)}, plan)
    assert -fitted["w"][0] == expected


def test_the_probe_takes_a_duration_in_steps():
    config = common.probe(common.training(100.0, 4, 1e-2, 5.0), common.augment(), per_class=0)
    config.steps = 6
    assert optim.epochs(config, 8) == 3.0
    assert heads.Settings.of(config, optim.epochs(config, 8)).epochs == 3.0
