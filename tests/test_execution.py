"""Several training steps as one program: where such a program ends, what is written, and that it trains the same."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from configs import common, digits_lt
from lt_jax import data, losses, models, optim
from lt_jax.core import errors, interrupt
from lt_jax.data import batches
from lt_jax.sampling import orders
from lt_jax.train import execution, loop, state, steps

LABELS = np.arange(20) % 4


def lines_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


def toy(begun, **changes):
    """A job of 12 steps, 5 an epoch, that adds the positions of each batch; `begun` collects what epochs begin with."""

    def step(current, data, batch):
        total = current.params["total"] + batch.sum() * (current.step + 1)
        return current.replace(step=current.step + 1, params={"total": total}), {"loss": total}

    def at_epoch(current, epoch, progress):
        begun.append((epoch, int(current.step)))
        return progress

    classes = losses.Classes.of(np.bincount(LABELS))
    feed = batches.Held(types.SimpleNamespace(images=np.zeros(0), labels=LABELS), orders.Order(LABELS, 4, 0))
    job = loop.Job("toy", 0, step, feed, 12, 5, 4, lambda step: 0.1 * step, lambda epoch: classes, at_epoch)
    return dataclasses.replace(job, **changes)


def run_toy(workdir, together, **options):
    begun, counts = [], []
    config = common.base()
    config.log.every_steps = 3
    config.host.steps_per_execution = together
    config.checkpoint.update(options)
    fresh = state.create({"params": {"total": jnp.zeros((), jnp.int32)}}, optax.identity())
    original = execution.Executor.__call__

    def counted(self, current, data, first, count):
        counts.append((first, count))
        return original(self, current, data, first, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution.Executor, "__call__", counted)
        final, _ = loop.train(toy(begun), fresh, epath.Path(workdir), config)
    return int(final.params["total"]), begun, counts, lines_of(epath.Path(workdir))


def test_programs_end_with_epochs_and_saves(tmp_path):
    total, begun, counts, lines = run_toy(tmp_path / "one", 1)
    assert counts == [(number, 1) for number in range(12)]
    assert begun == [(0, 0), (1, 5), (2, 10)] and [line["step"] for line in lines] == [3, 6, 9, 12]
    several = run_toy(tmp_path / "several", 4)
    assert several == (total, begun, [(0, 4), (4, 1), (5, 4), (9, 1), (10, 2)], lines)
    by_saves = run_toy(tmp_path / "saves", 200, every_steps=4)
    assert by_saves == (total, begun, [(0, 4), (4, 1), (5, 3), (8, 2), (10, 2)], lines)


def test_the_default_is_one_step_on_a_cpu_and_for_decoded_images(monkeypatch):
    held = types.SimpleNamespace(is_local=False)
    assert execution.steps_together(0, held, False) == 1
    assert execution.steps_together(7, held, False) == 7
    assert execution.steps_together(7, held, True) == 1
    assert execution.steps_together(7, types.SimpleNamespace(is_local=True), False) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert execution.steps_together(0, held, False) == 200


@pytest.fixture(scope="module")
def dataset():
    return data.load(digits_lt.get_config("smoke").data)


def train(network, trainable, dataset, workdir, together):
    """(final state, lines of metrics.jsonl) of four supervised steps."""
    config = digits_lt.get_config("smoke")
    config.host.steps_per_execution = together
    config.baseline.augment.update(crop_scale=1.0, strength=0.0, grey=0.0, blur=False)
    config.baseline.optimizer = "sgd"  # Adam divides by the gradient, which is mere rounding where it should be zero
    tx = optim.create(config.baseline, 4, 383)
    labels = dataset.train.labels
    classes = losses.Classes.of(dataset.counts)
    feed = batches.feed(dataset.train, orders.Order(labels, 16, 0), 16, 0, 1.0)
    step = steps.classify(network, tx, config.baseline.augment)
    job = loop.Job("baseline", 0, step, feed, 4, 11, 16, lambda step: 0.1, lambda epoch: classes)
    fresh = state.create(models.initialise(network, jax.random.key(0), dataset.image_shape), tx, trainable)
    return loop.train(job, fresh, epath.Path(workdir), config)[0], lines_of(epath.Path(workdir))


def test_several_steps_in_one_program_train_as_one_by_one(dataset, tmp_path):
    """To rounding: inside a loop XLA fuses, and computes gradients of convolutions, in another way."""
    network = models.projectors.Network(models.vit.ViT(1, 1, 4, "small"), models.projectors.Linear(10))
    one = train(network, state.ALL, dataset, tmp_path / "one", 1)
    several = train(network, state.ALL, dataset, tmp_path / "several", 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), one[0], several[0])
    assert [line["step"] for line in one[1]] == [line["step"] for line in several[1]] == [1, 2, 3, 4]
    np.testing.assert_allclose(*([line["loss"] for line in lines] for _, lines in (one, several)), rtol=1e-6)


def test_a_stop_is_saved_and_the_resumed_run_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    """The stop is requested before step 7, inside the second epoch."""
    unbroken = run_toy(tmp_path / "unbroken", 1)
    answers = iter([False] * 7 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "requested", lambda: next(answers))
        with pytest.raises(errors.Stopped, match="toy stopped at step 7 and saved; run the same command again"):
            run_toy(tmp_path / "stopped", 1)
    assert [line["step"] for line in lines_of(tmp_path / "stopped")] == [3, 6]
    total, begun, counts, lines = run_toy(tmp_path / "stopped", 1)
    assert (total, lines) == (unbroken[0], unbroken[3])
    assert begun == [(1, 7), (2, 10)] and counts[0] == (7, 1)


def test_a_save_is_due_by_time_and_the_newest_are_kept(tmp_path):
    run_toy(tmp_path, 1, every_seconds=0.0, keep=3)
    folder = tmp_path / "checkpoints" / "toy"
    assert sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) == [10, 11, 12]


def test_measures_are_written_after_each_so_many_steps(tmp_path):
    seen = []

    def evaluate(variables):
        seen.append(int(variables["params"]["total"]))
        return {"validation_balanced": len(seen) / 4}

    config = common.base()
    fresh = state.create({"params": {"total": jnp.zeros((), jnp.int32)}}, optax.identity())
    loop.train(toy([], evaluate=evaluate, evaluate_every=5), fresh, epath.Path(tmp_path), config)
    lines = [(line["step"], line.get("validation_balanced")) for line in lines_of(tmp_path)]
    assert lines == [(5, 0.25), (10, 0.5), (12, None)] and 0 < seen[0] < seen[1]
