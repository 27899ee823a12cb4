"""RIDE: experts on one trunk, their loss, and the classifier that comes of it."""

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
from lt_jax.core import errors
from lt_jax.run import config as config_lib

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


def test_a_recipe_from_training_to_the_classifier(tmp_path, run_main, tiny):
    words = ("--config=configs/digits_lt.py:smoke,method=ride", "--config.baseline.epochs=1")
    small = ("--config.encoder.width=4", "--config.heads=('nearest_class_mean','crt','tau_norm')")
    assert run_main(tiny[-1], *words, *small, f"--workdir={tmp_path}") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["methods"]) == ["ldam", "nearest_class_mean", "crt"]  # tau-norm needs one linear head
    for method in ("ldam", "crt"):
        probabilities = lt_jax.load(tmp_path, method=method).predict(np.zeros((2, 8, 8, 3), np.uint8))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_experts_without_their_network_are_one_line():
    config = digits_lt.get_config("smoke")
    config.baseline.update(experts=2, contrastive="bcl")
    with pytest.raises(errors.BadInput, match="config.baseline.experts: expected 1 with baseline.contrastive"):
        config_lib.validate(config)
    with pytest.raises(errors.BadInput, match="config.baseline.experts: expected 1 for vit_small, found 2"):
        models.classifier(common.encoder("vit_small", 8), 3, "float32", experts=2)
    changed = digits_lt.get_config("smoke")
    changed.baseline.diversity = 0.1
    assert config_lib.dependencies(changed, "baseline") == config_lib.dependencies(
        digits_lt.get_config("smoke"), "baseline"
    )
