"""The loop: devices, checkpoints, resuming, and how it ends when something is wrong."""

import dataclasses
import gc
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
from etils import epath

from configs import digits_lt
from lt_jax import data, losses, methods, models, optim
from lt_jax.core import distributed, errors, files
from lt_jax.data import batches
from lt_jax.run import config as config_lib
from lt_jax.run import dependencies
from lt_jax.run import graph as stages
from lt_jax.sampling import partners
from lt_jax.train import checkpoint, sharding, state
from lt_jax.train import loop as train
from lt_jax.train import steps as step


@pytest.fixture(scope="module")
def config():
    settings = digits_lt.get_config("smoke")
    settings.encoder.width = 4
    settings.pretrain.update(projector=(16, 8), batch_size=32)
    settings.checkpoint.every_steps = 2
    return settings


@pytest.fixture(scope="module")
def dataset(config):
    return data.load(config.data)


@pytest.fixture(scope="module")
def classes(dataset):
    return losses.Classes.of(dataset.counts)


@pytest.fixture(scope="module")
def network(config):
    return models.contrastive(config.encoder, config.pretrain.projector, "float32")


@pytest.fixture(scope="module")
def tx(config):
    return optim.create(config.pretrain, 383 // 32, 383)


@pytest.fixture(scope="module")
def parts(config, dataset, classes, network, tx):
    """(job without its length, a function that makes a fresh state)."""
    per_epoch = 383 // 32
    objective = methods.entry("CONTRASTIVE", config.pretrain.loss, "config.pretrain.loss", config.pretrain)
    job = train.Job(
        stage="pretrain",
        seed=0,
        step=step.pretrain(network, tx, objective, config.pretrain.augment),
        feed=batches.feed(dataset.train, partners.PartnerOrder(dataset.train.labels, 32, 1, 0), 32, 0, 0.5),
        steps=6,
        steps_per_epoch=per_epoch,
        batch_size=32,
        learning_rate=optim.schedule(config.pretrain, per_epoch, 383),
        classes=lambda epoch: classes,
    )
    key = state.stream(config.seed, "pretrain/init")
    return job, lambda: state.create(models.initialise(network, key, dataset.image_shape), tx)


def losses_on(devices, parts, steps):
    job, fresh = parts
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), (sharding.AXIS,))
    current, held = sharding.put_replicated(
        (fresh(), {**job.feed.data, "classes": job.classes(0), "key": np.zeros(2, np.uint32)}), mesh
    )
    advance, loss_values = jax.jit(job.step), []
    for number in range(steps):
        current, metrics = advance(current, held, sharding.put_batch(job.feed(number), mesh))
        loss_values.append(float(metrics["loss"]))
    return loss_values


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_one_and_eight_devices_have_the_same_first_losses(parts):
    np.testing.assert_allclose(losses_on(8, parts, 20), losses_on(1, parts, 20), rtol=1e-4)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_keys_sent_round_the_devices_train_like_keys_gathered(parts, config, network, tx):
    job, fresh = parts
    objective = methods.entry("CONTRASTIVE", "bns(ring=True)", "config.pretrain.loss", config.pretrain)
    ring = dataclasses.replace(job, step=step.pretrain(network, tx, objective, config.pretrain.augment))
    np.testing.assert_allclose(losses_on(8, (ring, fresh), 3), losses_on(8, parts, 3), rtol=1e-4)


@pytest.mark.slow
def test_expected_negatives_train(parts, config, network, tx):
    """The loss starts where the drawn one does, since it is its mean, and falls."""
    job, fresh = parts
    objective = methods.entry("CONTRASTIVE", "bns(negatives='expected')", "config.pretrain.loss", config.pretrain)
    expected = dataclasses.replace(job, step=step.pretrain(network, tx, objective, config.pretrain.augment))
    values = losses_on(1, (expected, fresh), 8)
    assert values[0] == pytest.approx(losses_on(1, parts, 1)[0], rel=0.1) and min(values[4:]) < values[0]


@pytest.fixture(scope="module")
def unbroken(parts, config, tmp_path_factory):
    """(final state, work directory) of six steps in one go."""
    job, fresh = parts
    workdir = epath.Path(tmp_path_factory.mktemp("unbroken"))
    return train.train(job, fresh(), workdir, config)[0], workdir


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def steps_of(workdir):
    return sorted(
        int(path.name) for path in pathlib.Path(workdir, "checkpoints/pretrain").iterdir() if path.name.isdigit()
    )


def lines_of(workdir):
    lines = [json.loads(line) for line in pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


@pytest.fixture
def killed(unbroken, tmp_path):
    """As if a run had died after step 4 was saved, and after step 6 had been written."""
    workdir = epath.Path(shutil.copytree(unbroken[1], tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints/pretrain/6")
    return workdir


def test_resumed_run_ends_with_the_same_bits(parts, config, unbroken, killed, capsys):
    job, fresh = parts
    final, _ = train.train(job, fresh(), killed, config)
    assert "pretrain: resuming from step 4 of 6" in capsys.readouterr().err
    assert equal(final, unbroken[0])
    assert lines_of(killed) == lines_of(unbroken[1])
    assert [line["step"] for line in lines_of(killed)] == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def split(parts, config, tmp_path_factory):
    """As `unbroken`, each device with its part of the state."""
    job, fresh = parts
    options = config.copy_and_resolve_references()
    options.host.shard_params = True
    workdir = epath.Path(tmp_path_factory.mktemp("split"))
    return train.train(job, fresh(), workdir, options)[0], workdir


def shardings_of(tree):
    return [x.sharding for x in jax.tree.leaves(tree)]


needs_eight = pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices")


@needs_eight
def test_a_split_state_trains_as_a_whole_one_and_stays_split(parts, unbroken, split):
    split_losses, expected = ([line["loss"] for line in lines_of(workdir)] for _, workdir in (split, unbroken))
    np.testing.assert_allclose(split_losses, expected, rtol=1e-5)
    begun = sharding.put_state(parts[1](), sharding.mesh(32), split=True)
    assert shardings_of(split[0]) == shardings_of(begun)
    for tree in (split[0].params, split[0].opt_state):
        assert any(not x.is_fully_replicated for x in jax.tree.leaves(tree))


@needs_eight
def test_a_device_holds_its_part_of_a_split_state(config, dataset):
    options = config.encoder.copy_and_resolve_references()
    options.width = 16
    network = models.classifier(options, 10, "float32")
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    whole = state.create(variables, optim.create(config.baseline, 10, 383))
    values = jax.device_get(whole)
    placed = sharding.put_state(whole, sharding.mesh(8), split=True)
    assert equal(placed, values)
    assert sharding.held(placed) < 0.25 and sharding.held(placed.params) < 0.25
    kernels = [(x, y) for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(placed), strict=True) if y.size > 2000]
    assert kernels and all(x.is_deleted() and not y.is_fully_replicated for x, y in kernels)
    assert placed.step.is_fully_replicated


def loaded_from(workdir):
    files.write_json(workdir / "stages" / "pretrain.json", {"status": "complete"})
    return checkpoint.load(workdir, "pretrain")


@needs_eight
def test_a_checkpoint_goes_from_split_to_whole_and_back(parts, unbroken, split):
    whole = sharding.put_replicated(parts[1](), sharding.mesh(8))
    in_parts = sharding.put_state(parts[1](), sharding.mesh(8), split=True)
    for like, saved in ((whole, split), (in_parts, unbroken)):
        with checkpoint.Saver(saved[1] / "checkpoints" / "pretrain", keep=2) as saver:
            restored, _ = saver.restore(like)
        assert equal(restored, saved[0])
        assert shardings_of(restored) == [x.sharding for x in jax.tree.leaves(like)]


@needs_eight
def test_variables_of_a_split_state_are_read_whole_on_the_host(unbroken, split):
    """So that a classifier opens on any number of devices; no device holds anything until training places it."""
    variables = loaded_from(split[1])
    assert equal(variables, loaded_from(unbroken[1])) and equal(variables, split[0].variables())
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(variables))


def test_splitting_the_state_changes_no_stage():
    whole, split = digits_lt.get_config("smoke"), digits_lt.get_config("smoke")
    split.host.shard_params = True
    for stage in dependencies.BLOCKS:
        assert dependencies.of_stage(whole, stage) == dependencies.of_stage(split, stage)


def test_what_changes_memory_alone_changes_no_stage():
    plain, lean = digits_lt.get_config("smoke"), digits_lt.get_config("smoke")
    lean.encoder.remat = lean.pretrain.ring = True
    for stage in dependencies.BLOCKS:
        assert dependencies.of_stage(plain, stage) == dependencies.of_stage(lean, stage)


def test_half_written_checkpoint_is_removed_and_the_one_before_is_used(parts, config, unbroken, killed, capsys):
    half = killed / "checkpoints/pretrain/6.orbax-checkpoint-tmp"
    shutil.copytree(killed / "checkpoints/pretrain/4/optimizer", half / "optimizer")
    job, fresh = parts
    final, _ = train.train(job, fresh(), killed, config)
    stderr = capsys.readouterr().err
    assert "removing the half-written checkpoint" in stderr and "resuming from step 4" in stderr
    assert equal(final, unbroken[0]) and not half.exists()


@pytest.mark.parametrize("damage", ["empty file", "missing file"])
def test_broken_checkpoint_is_named_and_passed_over(
    parts, config, unbroken, tmp_path, capsys, caplog, monkeypatch, damage
):
    echoes = []
    monkeypatch.setattr(sys, "unraisablehook", echoes.append)
    workdir = epath.Path(shutil.copytree(unbroken[1], tmp_path / "run"))
    for file in (workdir / "checkpoints/pretrain/6/variables").glob("manifest.ocdbt"):
        file.unlink() if damage == "missing file" else file.write_bytes(b"")
    job, fresh = parts
    final, _ = train.train(job, fresh(), workdir, config)
    stderr = capsys.readouterr().err
    assert "checkpoints/pretrain/6 is broken" in stderr and "resuming from step 4" in stderr
    assert equal(final, unbroken[0]) and steps_of(workdir)[-1] == 6
    gc.collect()
    assert echoes == [] and "asyncio" not in {record.name for record in caplog.records}


def test_a_read_that_fails_once_costs_no_checkpoint(parts, config, unbroken, tmp_path, capsys, monkeypatch):
    restore, failures = checkpoint.ocp.StandardCheckpointHandler.restore, [OSError("the store is away")]

    def fails_once(*arguments, **options):
        if failures:
            raise failures.pop()
        return restore(*arguments, **options)

    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointHandler, "restore", fails_once)
    workdir = epath.Path(shutil.copytree(unbroken[1], tmp_path / "run"))
    job, fresh = parts
    final, _ = train.train(job, fresh(), workdir, config)
    stderr = capsys.readouterr().err
    assert "broken" not in stderr and "resuming from step 6" in stderr and failures == []
    assert equal(final, unbroken[0])


def test_load_takes_a_relative_folder(parts, unbroken, tmp_path, monkeypatch):
    shutil.copytree(unbroken[1], tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert equal(loaded_from(epath.Path("run")), unbroken[0].variables())


def test_load_only_looks(parts, unbroken, tmp_path):
    workdir = epath.Path(shutil.copytree(unbroken[1], tmp_path / "run"))
    about = workdir / "stages" / "pretrain.json"
    files.write_json(about, {"status": "running"})
    with pytest.raises(errors.BadInput, match="no finished pretrain in .*: run --stage=pretrain first"):
        checkpoint.load(workdir, "pretrain")
    assert equal(loaded_from(workdir), unbroken[0].variables())
    for file in (workdir / "checkpoints/pretrain/6/variables").glob("manifest.ocdbt"):
        file.write_bytes(b"")
    with pytest.raises(errors.BadInput, match="the last checkpoint of pretrain in .* cannot be read"):
        loaded_from(workdir)
    assert (workdir / "checkpoints/pretrain/6").exists()


def test_what_another_process_cannot_read_is_passed_over_here_too(parts, unbroken, tmp_path, capsys, monkeypatch):
    folder = epath.Path(shutil.copytree(unbroken[1] / "checkpoints/pretrain", tmp_path / "saved"))
    answers = iter([False, True])
    monkeypatch.setattr(distributed, "all_say", lambda value: value and next(answers))
    with checkpoint.Saver(folder, keep=2) as saver:
        restored, _ = saver.restore(parts[1]())
    assert int(restored.step) == 4 and not (folder / "6").exists()
    assert "6 is broken (another process cannot read it); using step 4" in capsys.readouterr().err


def test_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(parts, config, tmp_path):
    job, fresh = parts

    def poisoned(current, held, batch):
        new, metrics = job.step(current, held, batch)
        is_bad = current.step == 4
        metrics["loss"] = jax.numpy.where(is_bad, jax.numpy.nan, metrics["loss"])
        bad = jax.numpy.where(is_bad & (new.bad_step < 0), current.step, new.bad_step)
        return new.replace(bad_step=bad), metrics

    broken = train.dataclasses.replace(job, step=poisoned)
    with pytest.raises(errors.RunFailed, match=r"not finite at step 4, learning rate 0\.000"):
        train.train(broken, fresh(), epath.Path(tmp_path), config)
    assert steps_of(tmp_path)[-1] == 4


@pytest.mark.slow
def test_a_profile_holds_the_steps_that_are_asked_for(parts, config, tmp_path, capsys):
    job, fresh = parts
    profiled = config.copy_and_resolve_references()
    profiled.profile.steps = "1:3"
    train.train(dataclasses.replace(job, steps=4), fresh(), epath.Path(tmp_path), profiled)
    assert f"the profile is in {tmp_path}/profile/pretrain" in capsys.readouterr().err
    assert list((tmp_path / "profile/pretrain").rglob("*.xplane.pb"))


@pytest.mark.parametrize("text", ["10", "5:5", "a:b"])
def test_wrong_steps_of_a_profile_are_one_line(text):
    config = digits_lt.get_config("smoke")
    config.profile.steps = text
    with pytest.raises(errors.BadInput, match="config.profile.steps: expected FIRST:END such as 10:15"):
        config_lib.validate(config)


def test_sharding_takes_as_many_devices_as_divide_the_batch():
    count = len(jax.devices())
    assert sharding.mesh(count * 3).size == count
    assert sharding.mesh(7).size == (7 if count >= 7 else 1)


def test_load_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(errors.BadInput, match="no finished pretrain in"):
        checkpoint.load(epath.Path(tmp_path / "none"), "pretrain")


def test_a_full_disk_is_said_in_one_line(parts, tmp_path, monkeypatch):
    _, fresh = parts
    with checkpoint.Saver(epath.Path(tmp_path), keep=1) as saver:

        def refuse(*_, **__):
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']")

        monkeypatch.setattr(saver._manager, "save", refuse)
        with pytest.raises(errors.RunFailed, match="could not save step 0 under .*: no space left on the disk"):
            saver.save(fresh(), {})


def test_a_work_directory_that_vanishes_is_said_and_not_made_anew(parts, config, tmp_path):
    job, fresh = parts
    workdir = tmp_path / "run"

    def remove(_, epoch, progress):
        shutil.rmtree(workdir)
        return progress

    with pytest.raises(errors.RunFailed, match="checkpoints/pretrain is gone: the work directory was removed"):
        train.train(dataclasses.replace(job, at_epoch=remove), fresh(), epath.Path(workdir), config)
    assert not (workdir / "checkpoints").exists()


def test_a_stage_whose_work_directory_vanishes_is_not_complete(config, tmp_path):
    workdir = tmp_path / "run"

    def remove(experiment):
        shutil.rmtree(experiment.workdir)
        return {}

    with pytest.raises(errors.RunFailed, match="stages/pretrain.json is gone"):
        stages.run(config, epath.Path(workdir), "pretrain", {"pretrain": remove})
    assert not workdir.exists()
