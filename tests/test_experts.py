"""RIDE and GLMC: networks with several heads, their losses, and the classifiers that come of them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import lt_jax
from configs import common, digits_lt
from lt_jax import losses, models
from lt_jax.augment import mix
from lt_jax.core import errors
from lt_jax.run import config as config_lib
from lt_jax.run import dependencies

CLASSES = losses.Classes.of(np.array([6, 3, 1]))
LOGITS = jnp.asarray(2 * np.sin(0.7 * (np.arange(24) + 1.0) ** 2).reshape(4, 2, 3), jnp.float32)
LABELS = jnp.array([0, 2, 1, 0])


def ride(logits, labels=LABELS, classes=CLASSES, diversity=0.5):
    return losses.ride(logits, labels, classes, loss=losses.cross_entropy, diversity=diversity)


def test_ride_by_hand():
    """Of two opposite experts the mean is uniform: KL = -log 3 - mean of the log-probabilities."""
    opposite = jnp.array([[[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]]])
    total = np.log(np.e + 1 + 1 / np.e)
    expected = (total - 1) + (total + 1) - 0.5 * 2 * (total - np.log(3))
    np.testing.assert_allclose(ride(opposite, jnp.array([0])), [expected], rtol=1e-6)
    np.testing.assert_allclose(ride(opposite, jax.nn.one_hot(jnp.array([0]), 3)), [expected], rtol=1e-6)


@pytest.mark.parametrize("is_deferred", [False, True])
def test_ride_against_the_released_code(is_deferred):
    """frank-xwang/RIDE-LongTailRecognition at ab8be5c, RIDELoss before and after re-weighting, on the CPU."""
    weights = losses.effective_number_weights(np.array([6, 3, 1])) if is_deferred else np.ones(3, np.float32)
    classes = losses.Classes(CLASSES.counts, CLASSES.log_prior, weights)
    ldam = functools.partial(losses.ride, LOGITS, LABELS, classes, loss=losses.ldam)
    plain, each = ldam(diversity=0.0), ldam(diversity=0.45)
    base, total = (28.891990661621094, 28.70903205871582) if is_deferred else (25.08746337890625, 24.89435577392578)
    np.testing.assert_allclose((plain * weights[LABELS]).sum() / weights[LABELS].sum(), base, rtol=1e-5)
    np.testing.assert_allclose((each - plain).mean(), total - base, rtol=1e-3)


def test_equal_experts_have_no_diversity():
    equal = jnp.repeat(LOGITS[:, :1], 3, axis=1)
    np.testing.assert_allclose(ride(equal), 3 * losses.cross_entropy(equal[:, 0], LABELS), rtol=1e-6)


def test_gradients_take_the_mean_as_a_constant():
    plain = jax.grad(lambda x: ride(x, diversity=0.0).sum())(LOGITS)
    gradient = jax.grad(lambda x: ride(x).sum())(LOGITS)
    probabilities = jax.nn.softmax(LOGITS)
    mean = jax.nn.softmax(LOGITS.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(gradient - plain, -0.5 * (probabilities - mean), atol=1e-6)
    check_grads(lambda x: ride(x, diversity=0.0), (LOGITS,), order=1, modes=["rev"], rtol=1e-2)


def test_a_class_without_images_is_finite():
    classes = losses.Classes(*(np.asarray(x, np.float32) for x in ([5, 1, 0], [-0.2, -1.8, -3.0], [0.5, 1.0, 2.0])))
    assert np.isfinite(jax.grad(lambda x: ride(x, classes=classes).sum())(LOGITS)).all()


def test_experts_share_the_first_stages():
    network = models.classifier(common.encoder("resnet32", 4), 3, "float32", "cosine", experts=2)
    variables = jax.eval_shape(lambda: models.initialise(network, jax.random.key(0), (16, 16, 3)))
    names = {name.rpartition("_block")[0] for name in variables["params"]["encoder"]} - {""}
    own = {f"expert{e}_stage{i}" for e in (1, 2) for i in (2, 3)}
    assert names == {"stage1"} | own
    assert {x["kernel"].shape for x in variables["params"]["head"].values()} == {(12, 3)}
    each = functools.partial(network.apply, method="each")
    assert jax.eval_shape(each, variables, jnp.zeros((5, 16, 16, 3))).shape == (5, 2, 3)
    assert jax.eval_shape(network.apply, variables, jnp.zeros((5, 16, 16, 3))).shape == (5, 3)


@pytest.mark.slow
def test_a_recipe_from_training_to_the_classifier(tmp_path, run_main, tiny):
    words = ("--config=configs/digits_lt.py:smoke,method=ride", "--config.baseline.epochs=1")
    small = ("--config.encoder.width=4", "--config.heads=('nearest_class_mean','crt','tau_norm')")
    assert run_main(tiny[-1], *words, *small, f"--workdir={tmp_path}") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["methods"]) == ["ride", "nearest_class_mean", "crt"]  # tau-norm needs one linear head
    for method in ("ride", "crt"):
        probabilities = lt_jax.load(tmp_path, method=method).predict(np.zeros((2, 8, 8, 3), np.uint8))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_cumulative_learning_by_hand():
    """Two logits of log 3 and 0 are probabilities 3/4 and 1/4; weights of 3 and 1 images are 1/2 and 3/2."""
    logits, labels = jnp.array([[np.log(3.0), 0.0]]), jnp.array([[0.5, 0.5]])
    classes = losses.Classes.of(np.array([3, 1]))
    plain, reweighted = -0.5 * np.log(3 / 16), -0.25 * np.log(3 / 4) - 0.75 * np.log(1 / 4)
    for progress, expected in [(0.0, plain), (1.0, reweighted), (0.5, 0.75 * plain + 0.25 * reweighted)]:
        value = losses.cumulative(logits, logits, labels, classes, jnp.float32(progress))
        np.testing.assert_allclose(value, [expected], rtol=1e-6)
    with_empty = losses.Classes.of(np.array([3, 1, 0]))
    three, soft = jnp.array([[np.log(3.0), 0.0, -30.0]]), jnp.array([[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(losses.cumulative(three, three, soft, with_empty, 1.0), [reweighted], rtol=1e-5)


def test_cumulative_learning_has_right_gradients():
    labels = jax.nn.softmax(LOGITS[:, 1])
    for argument in (0, 1):
        heads = [LOGITS[:, 0], LOGITS[:, 1]]

        def value(x, heads=heads, argument=argument):
            heads[argument] = x
            return losses.cumulative(*heads, labels, CLASSES, 0.6)

        check_grads(value, (LOGITS[:, argument],), order=1, modes=["rev"], rtol=1e-2)


def test_agreement_by_hand():
    predicted = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    embeddings = jnp.array([[[1.0, 0.0], [0.6, 0.8]]])
    np.testing.assert_allclose(losses.agreement(predicted, embeddings), [-0.6 - 0.0], rtol=1e-6)
    gradient = jax.grad(lambda x: losses.agreement(predicted, x).sum())(embeddings)
    assert np.abs(gradient).max() == 0.0


def test_a_pair_of_mixes_has_equal_shares():
    views = jnp.stack([jnp.full((2, 12, 12, 1), i / 5) for i in range(6)])
    images, labels = mix.both(jax.random.key(0), views, jnp.eye(6))
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(images[:, 0].mean(axis=(1, 2, 3)), labels @ (jnp.arange(6) / 5), atol=1e-5)
    assert (np.asarray([len(np.unique(image)) for image in images[:, 1]]) <= 2).all()


@pytest.mark.slow
def test_a_consistent_recipe_from_training_to_the_classifier(tmp_path, run_main, tiny):
    words = ("--config=configs/digits_lt.py:smoke,method=glmc", "--config.baseline.epochs=1")
    small = ("--config.encoder.width=4", "--config.heads=('tau_norm','logit_adjustment')")
    assert run_main(tiny[-1], *words, *small, f"--workdir={tmp_path}") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["methods"]) == ["glmc", "tau_norm"]  # the prior is not in the logits any more
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(-1 <= line["agreement"] <= 1 for line in lines)
    probabilities = lt_jax.load(tmp_path).predict(np.zeros((2, 8, 8, 3), np.uint8))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_experts_without_their_network_are_one_line():
    config = digits_lt.get_config("smoke")
    config.baseline.update(experts=2, contrastive="bcl")
    with pytest.raises(errors.BadInput, match="config.baseline.experts: expected 1 with baseline.contrastive"):
        config_lib.validate(config)
    with pytest.raises(errors.BadInput, match="config.baseline.experts: expected 1 for vit_small, found 2"):
        models.classifier(common.encoder("vit_small", 8), 3, "float32", experts=2)
    config.baseline.update(experts=1, contrastive="", consistency=1.0, loss="focal")
    with pytest.raises(errors.BadInput, match="config.baseline.loss: expected 'cross_entropy' with baseline.consiste"):
        config_lib.validate(config)
    changed = digits_lt.get_config("smoke")
    changed.baseline.diversity = 0.1
    assert dependencies.of_stage(changed, "baseline") == dependencies.of_stage(
        digits_lt.get_config("smoke"), "baseline"
    )
