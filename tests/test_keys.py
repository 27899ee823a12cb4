"""Every random key is used once: training steps and augmentations pass the key reuse check of JAX."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from lt_jax import augment, losses, methods, models
from lt_jax.train import state, steps

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
EVERYTHING = {"crop_scale": 0.5, "flip": 0.5, "strength": 1.0, "grey": 0.2, "blur": True}


@pytest.fixture
def checked():
    """Makes a second use of a key an error within the test."""
    with jax.debug_key_reuse(True):
        yield


def options(**changes):
    settings = common.augment(**EVERYTHING)
    settings.update(policy="trivial", cutout=0.4, **changes)
    return settings


def test_the_check_detects_a_key_that_is_used_twice(checked):
    def twice(key):
        return jax.random.uniform(key) + jax.random.normal(key)

    with pytest.raises(Exception, match="already consumed"):
        jax.jit(twice)(jax.random.key(0))


def test_every_augmentation_uses_its_own_key(checked):
    augmented = jax.jit(lambda key, images: augment.apply(key, images, options()))(jax.random.key(0), IMAGES)
    assert augmented.shape == IMAGES.shape


@pytest.mark.parametrize("mix", ["", *methods.MIXES])
def test_a_supervised_step(checked, mix):
    config = common.every_key()
    config.encoder.update(name="resnet_small", width=4)
    network = models.classifier(config.encoder, 3, "float32")
    optimizer = optax.sgd(0.1)
    current = state.create(models.initialise(network, jax.random.key(0), (8, 8, 3)), optimizer)
    mix_function = methods.MIXES[mix] if mix else None
    step = steps.classify(network, optimizer, options(), mix=mix_function)
    assert np.isfinite(loss_of(step, current, np.arange(8)))


@pytest.mark.parametrize("loss", methods.CONTRASTIVE)
def test_a_contrastive_step(checked, loss):
    config = common.every_key()
    config.encoder.update(name="resnet_small", width=4)
    objective = methods.CONTRASTIVE[loss]
    network = models.contrastive(config.encoder, (8,), "float32")
    optimizer = optax.sgd(0.1)
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    own, memory = objective.start(jax.random.key(2), 3, 8)
    variables = {**variables, "params": {**variables["params"], "objective": own}}
    current = state.create(variables, optimizer, memory=memory)
    partners = np.stack([np.arange(8), np.arange(8)], axis=1) if objective.one_pass else np.arange(8)[:, None]
    assert np.isfinite(loss_of(steps.pretrain(network, optimizer, objective, options()), current, partners))


def test_a_joint_step(checked):
    config = common.every_key()
    config.encoder.update(name="resnet_small", width=4)
    network, beside = (
        models.classifier(config.encoder, 3, "float32"),
        models.contrastive(config.encoder, (8,), "float32"),
    )
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    projector = models.initialise_head(beside, jax.random.key(2), (8, 8, 3))
    variables = {**variables, "params": {**variables["params"], "projector": projector}}
    optimizer = optax.sgd(0.1)
    contrast = steps.Contrast(methods.CONTRASTIVE["bns"], beside.head, 0.1, options())
    mix = methods.MIXES["mixup"]
    step = steps.joint(network, optimizer, options(), losses.cross_entropy, mix, contrast)
    batch = np.tile(np.arange(8)[:, None], (1, 3))
    assert np.isfinite(loss_of(step, state.create(variables, optimizer), batch))


def loss_of(step, current, batch):
    data = {"images": jnp.asarray(IMAGES), "labels": jnp.asarray(LABELS)}
    data["classes"] = jax.tree.map(jnp.asarray, losses.Classes.of(np.bincount(LABELS, minlength=3)))
    data["key"] = jax.random.key_data(jax.random.key(1))
    _, metrics = jax.jit(step)(current, data, jnp.asarray(batch))
    return metrics["loss"]


def test_augmentations_split_their_keys():
    """split(key, n)[i] equals fold_in(key, i), so using both on one key would repeat random numbers."""
    folder = pathlib.Path(augment.__file__).parent
    assert not [file.name for file in folder.glob("*.py") if "fold_in" in file.read_text()]
