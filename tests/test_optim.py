"""Optimizers and schedules against PyTorch's rules worked out in NumPy, moving averages, and the standard recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from configs import cifar10_lt, cifar100_lt, common
from lt_jax import augment, optim
from lt_jax.augment import simclr
from lt_jax.train import checkpoint, fit, state


def settings(**changes):
    config = common.training(epochs=10, batch_size=256, base_learning_rate=0.1, warmup_epochs=0)
    config.update(schedule="constant", **changes)
    return config


def run(config, gradients, start):
    """Parameters after each of the gradients, which do not depend on them."""
    optimizer = optim.create(config, 5, 1280)
    params = start
    opt_state = optimizer.init(params)
    for gradient in gradients:
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_sgd_is_that_of_pytorch(nesterov, decay_norms):
    config = settings(optimizer="sgd", momentum=0.9, nesterov=nesterov, weight_decay=0.5, decay_norms=decay_norms)
    generator = np.random.default_rng(0)
    start = {"kernel": generator.normal(size=(2, 3)).astype(np.float32), "bias": np.ones(3, np.float32)}
    gradients = [jax.tree.map(lambda x: generator.normal(size=x.shape).astype(np.float32), start) for _ in range(4)]
    ours = run(config, gradients, jax.tree.map(jnp.asarray, start))
    for name, value in start.items():
        decay = 0.5 if name == "kernel" or decay_norms else 0.0
        buffer = 0.0
        for gradient in gradients:  # torch.optim.SGD: g += wd p; v = momentum v + g; p -= lr (g + momentum v, or v)
            g = gradient[name] + decay * value
            buffer = 0.9 * buffer + g
            value = value - 0.1 * (g + 0.9 * buffer if nesterov else buffer)
        np.testing.assert_allclose(ours[name], value, rtol=1e-5)


def test_gradients_are_clipped_to_their_global_norm():
    config = settings(optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    start = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    params = run(config, [{"a": jnp.array([3.0]), "b": jnp.array([4.0])}], start)
    np.testing.assert_allclose([params["a"][0], params["b"][0]], [-0.06, -0.08], rtol=1e-6)
    params = run(config, [{"a": jnp.array([0.3]), "b": jnp.array([0.4])}], start)
    np.testing.assert_allclose([params["a"][0], params["b"][0]], [-0.03, -0.04], rtol=1e-6)


def test_the_rate_is_that_of_the_batch_that_is_there():
    options = common.training(epochs=10, batch_size=1024, base_learning_rate=1e-3, warmup_epochs=0)
    rates = [float(optim.schedule(options, 5, items)(0)) for items in (64, 1024, 10_000)]
    np.testing.assert_allclose(rates, [0.25e-3, 4e-3, 4e-3], rtol=1e-6)


def test_processes_divide_a_batch_that_is_cut(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    options = common.training(epochs=10, batch_size=128, base_learning_rate=1e-3, warmup_epochs=0)
    sizes = [fit.schedule(options, items) for items in (97, 3, 128, 1000)]
    assert [(x.batch_size, x.steps_per_epoch) for x in sizes] == [(100, 1), (4, 1), (128, 1), (128, 8)]


def test_warm_up_starts_at_zero_and_is_linear():
    options = common.training(epochs=10, batch_size=256, base_learning_rate=1e-3, warmup_epochs=2)
    rates = [float(optim.schedule(options, 5, 1280)(step)) for step in (0, 1, 5, 10, 50)]
    np.testing.assert_allclose(rates, [0.0, 1e-4, 5e-4, 1e-3, 0.0], atol=1e-9)


def test_the_step_schedule_warms_up_and_falls_at_its_epochs():
    config = common.standard_cifar()
    rates = optim.schedule(config, 85, 10_847)
    steps = [0, 85, 425, 13_599, 13_600, 15_299, 15_300, 16_999]
    np.testing.assert_allclose([rates(s) for s in steps], [0, 0.02, 0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5], rtol=1e-5)
    config.warmup_epochs = 0.0
    assert float(optim.schedule(config, 85, 10_847)(0)) == pytest.approx(0.1)


def test_epochs_that_round_to_one_step_both_lower_the_rate():
    options = common.training(epochs=4, batch_size=8, base_learning_rate=32.0, warmup_epochs=0)
    options.update(schedule="step", decay_epochs=(1.6, 1.8), decay_factor=0.1)
    rates = [float(optim.schedule(options, 3, 24)(step)) for step in (4, 5)]
    np.testing.assert_allclose(rates, [1.0, 0.01], rtol=1e-5)


def test_the_moving_average_has_weights_and_batch_statistics():
    optimizer = optax.sgd(1.0)
    variables = {"params": {"head": jnp.array([0.0])}, "batch_stats": {"mean": jnp.array([0.0])}}
    current = state.create(variables, optimizer, ema_decay=0.5)
    moved = current.replace(
        average=state.moved_average(current, {"head": jnp.array([10.0])}, {"mean": jnp.array([20.0])})
    )
    np.testing.assert_allclose(moved.averaged()["params"]["head"], [9.0])  # decay of the first step: 1/10
    np.testing.assert_allclose(moved.averaged()["batch_stats"]["mean"], [18.0])
    np.testing.assert_allclose(moved.variables()["params"]["head"], [0.0])
    late = moved.replace(step=jnp.array(1000, jnp.int32))
    average = state.moved_average(late, {"head": jnp.array([10.0])}, {"mean": jnp.array([0.0])})
    np.testing.assert_allclose(average["params"]["head"], [9.5])
    np.testing.assert_allclose(average["batch_stats"]["mean"], [9.0])
    assert state.create(variables, optimizer).averaged() == state.create(variables, optimizer).variables()


def test_a_save_keeps_the_average_and_the_values_being_trained(tmp_path):
    optimizer = optax.sgd(1.0, momentum=0.9)
    variables = {"params": {"encoder": jnp.ones(2), "head": jnp.ones(3)}, "batch_stats": {"encoder": jnp.zeros(2)}}
    fresh = state.create(variables, optimizer, trainable=("head",), ema_decay=0.9)
    average = {"params": {"head": jnp.full(3, 5.0)}, "batch_stats": {"encoder": jnp.full(2, 6.0)}}
    saved = fresh.replace(average=average, params={"head": jnp.full(3, 7.0)}, step=jnp.array(4, jnp.int32))
    with checkpoint.Saver(epath.Path(tmp_path), keep=2) as saver:
        saver.save(saved, {"seconds": 1.0})
        saver.wait()
        restored, _ = saver.restore(fresh)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    assert restored.ema_decay == 0.9


def test_a_part_of_the_encoder_is_trained_and_restored(tmp_path):
    encoder = {
        "block1": {"kernel": jnp.ones(2)},
        "block2": {"kernel": jnp.full(2, 2.0)},
        "norm": {"scale": jnp.ones(1)},
    }
    variables = {"params": {"encoder": encoder, "head": {"bias": jnp.zeros(3)}}, "batch_stats": {}}
    fresh = state.create(variables, optax.sgd(1.0, momentum=0.9), ("encoder/block2", "encoder/norm", "head"))
    assert {name: sorted(part) for name, part in fresh.params.items()} == {
        "encoder": ["block2", "norm"], "head": ["bias"],
    }  # fmt: skip
    assert sorted(fresh.frozen["encoder"]) == ["block1"] and "head" not in fresh.frozen
    assert jax.tree.structure(fresh.variables()) == jax.tree.structure(variables)
    moved = fresh.replace(params=jax.tree.map(lambda x: x + 1.0, fresh.params))
    np.testing.assert_array_equal(moved.variables()["params"]["encoder"]["block1"]["kernel"], [1.0, 1.0])
    np.testing.assert_array_equal(moved.variables()["params"]["encoder"]["block2"]["kernel"], [3.0, 3.0])
    with checkpoint.Saver(epath.Path(tmp_path), keep=2) as saver:
        saver.save(moved, {})
        saver.wait()
        restored, _ = saver.restore(fresh)
    jax.tree.map(np.testing.assert_array_equal, restored, moved)


def test_padded_crops_are_windows_of_the_padded_image():
    images = np.random.default_rng(0).random((64, 5, 6, 2)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    crops = np.asarray(simclr.random_shift(jax.random.key(0), jnp.asarray(images), 2))
    corners = set()
    for image, crop in zip(padded, crops, strict=True):
        windows = {(i, j): image[i : i + 5, j : j + 6] for i in range(5) for j in range(5)}
        equal = [corner for corner, window in windows.items() if np.array_equal(window, crop)]
        assert len(equal) == 1
        corners.update(equal)
    assert len(corners) > 20  # of 25


def test_padding_is_an_augmentation_of_its_own():
    options = common.augment(crop_scale=1.0, flip=0.0, strength=0.0, grey=0.0, blur=False)
    images = np.full((8, 6, 6, 3), 255, np.uint8)
    np.testing.assert_array_equal(augment.apply(jax.random.key(0), images, options), 1.0)
    options.pad = 2
    shifted = np.asarray(augment.apply(jax.random.key(0), images, options))
    assert set(np.unique(shifted)) == {0.0, 1.0}


@pytest.mark.parametrize("module", [cifar10_lt, cifar100_lt])
def test_the_standard_recipe_is_the_published_one(module):
    config = module.get_config("100,standard")
    baseline = config.baseline
    assert (config.encoder.name, config.encoder.width, config.stages[0]) == ("resnet32", 16, "baseline")
    assert (baseline.epochs, baseline.batch_size, baseline.optimizer, baseline.momentum) == (200.0, 128, "sgd", 0.9)
    assert (baseline.weight_decay, baseline.decay_norms, baseline.decay_epochs) == (2e-4, True, (160.0, 180.0))
    assert (baseline.augment.pad, baseline.augment.flip, baseline.augment.crop_scale) == (4, 0.5, 1.0)
    assert float(optim.schedule(baseline, 85, 10_847)(1000)) == pytest.approx(0.1)
    assert module.get_config("100,standard,epochs=30").baseline.decay_epochs == (24.0, 27.0)
