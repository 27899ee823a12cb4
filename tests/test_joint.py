"""A contrastive objective beside the loss of the baseline: training, resuming, devices, and what is handed out."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from etils import epath

import lt_jax
from configs import digits_lt
from lt_jax import methods, models, optim
from lt_jax.core import errors
from lt_jax.run import config as config_lib
from lt_jax.run import dependencies, graph
from lt_jax.sampling import orders, partners
from lt_jax.stages import baseline
from lt_jax.stages.experiment import Experiment
from lt_jax.train import checkpoint, sharding, state


def settings_of(objective, **changes):
    config = digits_lt.get_config("smoke")
    config.encoder.width = 4
    config.checkpoint.every_steps = 2
    config.baseline.update(contrastive=objective, contrastive_projector=(16, 8), batch_size=32, steps=6, **changes)
    config_lib.validate(config)
    return config


def trained(config, workdir):
    """The variables of a baseline that is trained, or goes on, in a folder."""
    graph.run(config, epath.Path(workdir), "baseline", {"baseline": baseline.run})
    return checkpoint.load(epath.Path(workdir), "baseline")


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["paco(queue=40)", "proco", "tsc"])
def test_a_run_that_is_resumed_ends_with_the_same_bits(objective, tmp_path, capsys):
    config = settings_of(objective, ema=0.9)
    unbroken = trained(config, tmp_path / "unbroken")
    assert set(unbroken["params"]) == {"encoder", "head"}  # what was trained beside the network is not handed out
    workdir = pathlib.Path(shutil.copytree(tmp_path / "unbroken", tmp_path / "killed"))
    shutil.rmtree(workdir / "checkpoints/baseline/6")
    about = json.loads((workdir / "stages/baseline.json").read_text())
    (workdir / "stages/baseline.json").write_text(json.dumps({**about, "status": "running"}))
    assert_equal(trained(config, workdir), unbroken)
    assert "baseline: resuming from step 4 of 6" in capsys.readouterr().err


@pytest.mark.slow
def test_the_objective_trains_the_encoder_and_is_reported(tmp_path):
    with_it = trained(settings_of("bns(temperature=0.2, m=2)"), tmp_path / "with")
    without = trained(settings_of("bns(temperature=0.2, m=2)", contrastive_weight=0.0), tmp_path / "without")
    kernels = [jax.tree.leaves(variables["params"]["encoder"])[0] for variables in (with_it, without)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    lines = [json.loads(line) for line in (tmp_path / "with/metrics.jsonl").read_text().splitlines()]
    assert all(line["contrastive_loss"] > 0 and 0 <= line["accuracy"] <= 1 for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices")
def test_eight_devices_train_as_one(tmp_path):
    """One step of each: equal losses, and equal memories."""
    experiment = Experiment(settings_of("proco", loss="logit_adjustment"), epath.Path(tmp_path))
    form = baseline.form_of(experiment.config.baseline)
    optimizer = optim.create(experiment.config.baseline, 4, 383)
    variables, memory = form.start(experiment, experiment.initial(experiment.baseline, "baseline"))
    step = form.step(experiment, optimizer)
    order = baseline._order(experiment, form, 32, 0)
    outcomes = []
    for count in (1, 8):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), (sharding.AXIS,))
        train = experiment.dataset.train
        held = {"images": train.images, "labels": train.labels, "classes": experiment.classes}
        current = state.create(variables, optimizer, memory=memory)
        placed = sharding.put_replicated((current, {**held, "key": np.zeros(2, np.uint32)}), mesh)
        new, metrics = jax.jit(step)(*placed, sharding.put_batch(order(0), mesh))
        outcomes.append(jax.device_get((metrics["loss"], metrics["contrastive_loss"], new.memory)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), *outcomes)


def test_rows_are_the_image_the_anchor_and_its_partners():
    labels = np.repeat(np.arange(3), [5, 3, 1])
    order = orders.Order(labels, 9, 0)
    rows = partners.PartnerOrder(labels, 9, 2, 0, order, columns=2)(0)
    np.testing.assert_array_equal(rows[:, 0], order(0))
    np.testing.assert_array_equal(rows[:, 1], order(0))
    assert rows.shape == (9, 4) and (labels[rows] == labels[rows[:, :1]]).all()


def test_a_recipe_from_training_to_the_classifier(tmp_path, run_main, tiny):
    words = ("--config=configs/digits_lt.py:smoke,method=bcl", "--config.baseline.epochs=1")
    small = ("--config.encoder.width=4", "--config.baseline.contrastive_projector=(16,8)", "--config.heads=()")
    assert run_main(tiny[-1], *words, *small, f"--workdir={tmp_path}") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["final"] == "bcl"
    network = models.classifier(settings_of("").encoder, 10, "float32", "cosine")
    shapes = jax.eval_shape(lambda: models.initialise(network, jax.random.key(0), (8, 8, 3)))
    assert result["protocol"]["parameters"] == sum(x.size for x in jax.tree.leaves(shapes["params"]["encoder"]))
    probabilities = lt_jax.load(tmp_path).predict(np.zeros((2, 8, 8, 3), np.uint8))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_settings_of_no_objective_change_no_stage():
    plain, changed = digits_lt.get_config("smoke"), digits_lt.get_config("smoke")
    changed.baseline.update(contrastive_weight=0.3, contrastive_projector=(3,))
    assert dependencies.of_stage(plain, "baseline") == dependencies.of_stage(changed, "baseline")
    plain.baseline.contrastive = changed.baseline.contrastive = "bcl"
    assert dependencies.of_stage(plain, "baseline") != dependencies.of_stage(changed, "baseline")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrastive": "bcll"}, "config.baseline.contrastive: expected one of .*did you mean bcl?"),
        ({"contrastive": "bcl(tau=1)"}, "config.baseline.contrastive: bcl has no option 'tau'"),
        ({"contrastive": "bcl", "accumulate": 2}, "config.baseline.accumulate: expected 1 with baseline.contrastive"),
        ({"contrastive_weight": -1.0}, "config.baseline.contrastive_weight: expected at least 0"),
        ({"contrastive_augment.mix": "mixup"}, "config.baseline.contrastive_augment.mix: expected ''"),
    ],
)
def test_wrong_settings_are_one_line(changes, message):
    config = digits_lt.get_config("smoke")
    config.update_from_flattened_dict({f"baseline.{key}": value for key, value in changes.items()})
    with pytest.raises(errors.BadInput, match=message):
        config_lib.validate(config)


def test_options_reach_what_starts_an_objective():
    objective = methods.entry("CONTRASTIVE", "paco(queue=7, alpha=0.5)", "key")
    params, memory = objective.start(jax.random.key(0), 3, 4)
    assert params["centres"].shape == (3, 4) and memory["keys"].shape == (7, 4)
    assert methods.entry("CONTRASTIVE", "bns(m=3)", "key").partners == 3
    assert methods.CONTRASTIVE["supcon"].partners == 0
