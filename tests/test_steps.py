"""Training steps: frozen parts, accumulated gradients, the loss, and steps that are not finite."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from configs import common, digits_lt
from lt_jax import data, losses, models, optim
from lt_jax.core import errors
from lt_jax.run import config as config_lib
from lt_jax.train import state
from lt_jax.train import steps as step


@pytest.fixture(scope="module")
def config():
    settings = digits_lt.get_config("smoke")
    settings.encoder.width = 4
    return settings


@pytest.fixture(scope="module")
def dataset(config):
    return data.load(config.data)


@pytest.fixture
def held(dataset):
    """Returns what a step reads besides its batch."""
    arrays = {"images": dataset.train.images, "labels": dataset.train.labels, "key": np.zeros(2, np.uint32)}
    return {**arrays, "classes": losses.Classes.of(dataset.counts)}


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_step_marks_the_first_bad_step(config, held):
    tx = optim.create(config.baseline, 10, 383)
    network = models.classifier(config.encoder, 10, "float32")
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    current = state.create(variables, tx)
    broken = jax.tree.map(lambda x: x * np.nan, current.params)
    advance = jax.jit(step.classify(network, tx, config.baseline.augment))
    good, _ = advance(current.replace(step=current.step + 3), held, np.arange(8))
    bad, _ = advance(current.replace(params=broken, step=current.step + 3), held, np.arange(8))
    assert int(good.bad_step) == -1 and int(bad.bad_step) == 3
    worse, _ = advance(bad, held, np.arange(8))
    assert int(worse.bad_step) == 3


def test_frozen_encoder_rests_and_the_head_learns(config, held):
    tx = optim.create(config.probe, 10, 383)
    network = models.classifier(config.encoder, 10, "float32")
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    current = state.create(variables, tx, trainable=("head",))
    for moving in (False, True):
        advance = jax.jit(step.classify(network, tx, config.probe.augment, moving=moving))
        new, _ = advance(current, held, np.arange(16))
        assert set(new.params) == {"head"} and equal(new.frozen, current.frozen)
        assert not equal(new.params, current.params)
        assert equal(new.batch_stats, current.batch_stats) is not moving


@pytest.mark.slow
@pytest.mark.parametrize("is_weighted", [False, True])
def test_accumulated_gradients_are_those_of_the_whole_batch(config, held, is_weighted):
    """Of a network without BatchNorm, whose statistics would be those of a part."""
    tx = optax.sgd(1.0)
    network = models.projectors.Network(models.vit.ViT(1, 1, 4, "small"), models.projectors.Linear(10))
    current = state.create(models.initialise(network, jax.random.key(0), (8, 8, 3)), tx)
    if is_weighted:
        weights = losses.effective_number_weights(np.asarray(held["classes"].counts))
        held = {**held, "classes": dataclasses.replace(held["classes"], weights=weights)}
    outputs = []
    for count in (1, 4):
        advance = jax.jit(step.classify(network, tx, config.baseline.augment, accumulate=count))
        outputs.append(advance(current, held, np.arange(0, 300, 25)))
    (whole, one), (parts, four) = outputs
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.params, parts.params)
    assert not equal(whole.params, current.params)
    np.testing.assert_allclose([one["loss"], one["accuracy"]], [four["loss"], four["accuracy"]], rtol=1e-5)
    with pytest.raises(errors.BadInput, match="accumulate: expected a divisor of the batch of 12, found 5"):
        step.classify(network, tx, config.baseline.augment, accumulate=5)(current, held, np.arange(12))


def test_a_step_minimises_the_loss_that_it_is_given(config, dataset, held):
    network = models.projectors.Network(models.vit.ViT(1, 1, 4, "small"), models.projectors.Linear(10))
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    current = state.create(variables, optax.sgd(1.0))
    as_is = common.augment(crop_scale=1.0, flip=0.0, strength=0.0, grey=0.0, blur=False)
    log_prior = np.log(dataset.counts / dataset.counts.sum()).astype(np.float32)
    one_step = step.classify(network, optax.sgd(1.0), as_is, losses.balanced_softmax)
    loss = jax.jit(one_step)(current, held, np.arange(0, 300, 25))[1]["loss"]
    logits = np.asarray(network.apply(variables, dataset.train.images[:300:25].astype(np.float32) / 255)) + log_prior
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(12), dataset.train.labels[:300:25]]
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


def test_accumulation_is_refused_in_pretraining():
    config = digits_lt.get_config("smoke")
    config.pretrain.accumulate = 2
    with pytest.raises(errors.BadInput, match="config.pretrain.accumulate: expected 1, found 2"):
        config_lib.validate(config)
