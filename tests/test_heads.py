"""Heads on frozen features, against the formulas and scikit-learn."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from scipy import optimize
from sklearn.neighbors import NearestCentroid

from configs import digits_lt
from lt_jax import heads as heads_lib
from lt_jax import losses, methods, metrics
from lt_jax.core import errors
from lt_jax.heads import cosine, scaling
from lt_jax.stages import heads

COUNTS = np.array([300, 60, 10])


def clusters(counts, seed=0):
    """(features, labels) of three clusters in four dimensions."""
    rng = np.random.default_rng(seed)
    centres = np.array([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    labels = np.repeat(np.arange(3), counts)
    return (centres[labels] + rng.normal(size=(len(labels), 4))).astype(np.float32), labels


@pytest.fixture(scope="module")
def experiment():
    dataset = types.SimpleNamespace(train=types.SimpleNamespace(labels=np.repeat(np.arange(3), COUNTS)))
    return types.SimpleNamespace(
        config=digits_lt.get_config(),
        dataset=dataset,
        classes=losses.Classes.of(COUNTS),
        stream=lambda name: jax.random.key(0),
    )


@pytest.fixture(scope="module")
def initial():
    rng = np.random.default_rng(1)
    return heads_lib.Linear(rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32))


@pytest.mark.parametrize("name", ["crt", "balanced_linear", "nearest_class_mean", "whitened_class_mean"])
def test_balanced_heads_recognise_the_rare_class(experiment, initial, name):
    features, _ = clusters(COUNTS)
    test, test_labels = clusters([200] * 3, seed=2)
    head = heads.fit(experiment, name, features, initial)
    predicted = np.asarray(head(test)).argmax(axis=1)
    assert (predicted == 2)[test_labels == 2].mean() > 0.6  # a plain fit reaches about .4 here


def test_nearest_class_mean_is_nearly_the_nearest_centroid(experiment, initial):
    features, labels = clusters(COUNTS)
    test, _ = clusters([200] * 3, seed=2)
    head = heads.fit(experiment, "nearest_class_mean", features, initial)
    centroid = NearestCentroid().fit(features, labels).predict(test)
    assert (np.asarray(head(test)).argmax(axis=1) == centroid).mean() > 0.8


def test_a_constant_coordinate_is_only_centred():
    features = np.full((383, 2), 3.3, np.float32)  # whose float32 deviation is a rounding error above 1e-6
    features[:, 0] = np.arange(383) % 2
    centre, deviation = scaling.measure(features, "standard")
    np.testing.assert_allclose(centre, [191 / 383, 3.3], rtol=1e-5)
    np.testing.assert_allclose(deviation, [0.5, 1.0], rtol=1e-4)


def test_nearest_class_mean_by_hand():
    features = np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]])
    classes = losses.Classes.of(np.array([1, 0, 1, 1]))
    head = heads_lib.nearest_class_mean(None, features, np.array([0, 2, 3]), classes)
    scores = head(np.array([[1.0, 0.2], [0.1, 1.0]]))
    assert scores.argmax(axis=1).tolist() == [0, 2]
    assert (scores[:, 1] == -2 * 16).all()  # an absent class; the scale is the default, since no class has two items

    np.testing.assert_allclose(head(jnp.array([[1.0, 0.2], [0.1, 1.0]])), scores, atol=1e-6)


def test_the_scale_of_cosines_is_the_likeliest_for_items_that_are_left_out():
    rng = np.random.default_rng(0)
    counts = np.array([60, 12, 3, 1, 0])
    labels = rng.permutation(np.repeat(np.arange(5), counts))
    x = (1.5 * np.eye(5)[labels] + rng.normal(size=(len(labels), 5))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)

    def loss(scale):
        """Mean over the classes of the cross-entropy of each item, with the class means computed without it."""
        by_class = [[] for _ in counts]
        for i, label in enumerate(labels):
            if counts[label] > 1:
                is_other = np.arange(len(labels)) != i
                sums = np.array([x[is_other & (labels == c)].sum(axis=0) for c in range(4)])
                cosines = x[i] @ (sums / np.linalg.norm(sums, axis=1, keepdims=True)).T
                by_class[label].append(np.log(np.exp(scale * cosines).sum()) - scale * cosines[label])
        return np.mean([np.mean(losses_of_class) for losses_of_class in by_class if losses_of_class])

    scale = cosine.cosine_scale(x, labels, cosine.class_sums(x, labels, losses.Classes.of(counts)))
    assert 1.1 < scale < 90
    assert loss(scale) == pytest.approx(optimize.minimize_scalar(loss, bounds=(1, 100), method="bounded").fun, abs=1e-5)
    assert loss(scale) < min(loss(0.9 * scale), loss(1.1 * scale), loss(1.0))


def test_confidence_of_the_nearest_class_mean_is_near_its_accuracy():
    features, labels = clusters(COUNTS)
    test, test_labels = clusters([300, 300, 300], seed=1)
    classes = losses.Classes.of(COUNTS)
    for fit in (heads_lib.nearest_class_mean, heads_lib.whitened_class_mean):
        head = fit(None, features, labels, classes)
        plain = dataclasses.replace(head, scale=np.float32(1.0))
        ece = [metrics.expected_calibration_error(test_labels, x(test), 15) for x in (head, plain)]
        assert ece[0] < min(0.08, ece[1] / 3)
        np.testing.assert_array_equal(head(test).argmax(axis=1), plain(test).argmax(axis=1))


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_logit_adjustment_subtracts_the_log_prior(experiment, initial, tau):
    features, _ = clusters(COUNTS)
    head = heads.fit(experiment, f"logit_adjustment(tau={tau})", features, initial)
    expected = initial(features) - tau * np.log(COUNTS / COUNTS.sum())
    np.testing.assert_allclose(head(features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"), [("loss", "balanced_softmax"), ("sampling", "class_balanced"), ("reweight", "effective_number")]
)
def test_logits_without_the_prior_are_not_adjusted_again(key, value):
    config = digits_lt.get_config()
    assert list(heads.names(config)) == list(config.heads) and "logit_adjustment" in config.heads
    config.baseline[key] = value
    assert list(heads.names(config)) == [name for name in config.heads if name != "logit_adjustment"]


def test_heads_that_change_the_network_s_own_need_a_linear_one():
    config = digits_lt.get_config()
    config.baseline.head = "cosine"
    assert not {"logit_adjustment", "tau_norm", "lws"} & set(heads.names(config))
    assert {"crt", "nearest_class_mean"} <= set(heads.names(config))


def test_tau_norm_by_hand():
    initial = heads_lib.Linear(np.array([[3.0, 0.0], [4.0, 0.5]]), np.array([1.0, 2.0]))
    head = heads_lib.tau_norm(None, None, None, None, initial=initial, tau=1.0)
    np.testing.assert_allclose(head(np.array([[1.0, 1.0]])), [[1.4, 1.0]])
    half = heads_lib.tau_norm(None, None, None, None, initial=initial, tau=0.5)
    np.testing.assert_allclose(half(np.array([[1.0, 1.0]])), [[7 / 5**0.5, 0.5**0.5]])


def test_lws_scales_the_classes_of_the_network_s_head(experiment, initial):
    features, _ = clusters(COUNTS)
    head = heads.fit(experiment, "lws", features, initial)
    scale = head.kernel / initial.kernel
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:1], scale.shape), rtol=1e-5)
    np.testing.assert_allclose(head.bias, initial.bias * scale[0], rtol=1e-5)
    assert np.abs(scale - 1).max() > 0.05


def test_whitening_makes_the_covariance_the_identity():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3))).astype(np.float32)
    labels = np.arange(500) % 3
    classes = losses.Classes.of(np.bincount(labels))
    head = heads_lib.whitened_class_mean(None, features, labels, classes, shrinkage=1e-6)
    whitened = (features - head.mean) @ head.whitening
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(3), atol=1e-3)
    full = heads_lib.whitened_class_mean(None, features, labels, classes, shrinkage=1.0)
    plain = heads_lib.nearest_class_mean(None, features, labels, classes)
    np.testing.assert_allclose(full(features), plain(features), atol=1e-3)


def test_the_balanced_linear_head_moves_with_tau(experiment, initial):
    features, _ = clusters(COUNTS)
    rare = {}
    for tau in (0.0, 1.0):
        head = heads.fit(experiment, f"balanced_linear(tau={tau})", features, initial)
        rare[tau] = (np.asarray(head(features)).argmax(axis=1) == 2).mean()
    assert rare[1.0] > 2 * rare[0.0]


@pytest.mark.parametrize("name", methods.HEADS)
def test_every_head_is_saved_and_loaded(experiment, initial, name, tmp_path):
    features, _ = clusters(COUNTS)
    head = heads.fit(experiment, name, features, initial)
    heads.save(epath.Path(tmp_path), "baseline", name, head)
    loaded = heads.load(epath.Path(tmp_path), "baseline", name)
    np.testing.assert_array_equal(loaded(features), head(features))
    with pytest.raises(errors.BadInput, match="no .*other.npz: run --stage=heads first"):
        heads.load(epath.Path(tmp_path), "baseline", "other")
