"""The one training loop."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from lt_jax import losses
from lt_jax.core import distributed, errors, interrupt, log
from lt_jax.train import checkpoint, execution, profile, sharding, state, steps, tensorboard


@dataclasses.dataclass(frozen=True)
class Job:
    """What one stage trains."""

    stage: str
    seed: int  # of the random numbers of its steps
    step: steps.Step
    feed: Any  # batches.Held or Streamed: step -> batch; its `data` are arrays that stay on the device
    steps: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: Callable[[int], Any]
    classes: Callable[[int], losses.Classes]  # epoch -> what steps find in their data about the classes
    # Before the first step of each epoch, and of a resumed run: (state, epoch, progress) -> progress. Must be
    # idempotent: after a resume it may run again for an epoch already seen.
    at_epoch: Callable[[state.TrainState, int, dict[str, Any]], dict[str, Any]] | None = None
    # (variables) -> measures, which go to metrics.jsonl after each so many steps; 0 = never.
    evaluate: Callable[[dict[str, Any]], dict[str, float]] | None = None
    evaluate_every: int = 0


def train(
    job: Job, current: state.TrainState, workdir: epath.Path, config: Any
) -> tuple[state.TrainState, dict[str, Any]]:
    """Trains to the last step, from the newest checkpoint where there is one.

    The order is: what an epoch begins with, save, batch, step, write. A save therefore holds the subset that the next
    batch is drawn from, and a line of metrics is never ahead of the step that it names.

    Returns:
      The final state, and its progress: `seconds` spent, over all restarts, and what `at_epoch` has put there.

    Raises:
      RunFailed: a loss or gradient that is not finite, or a disk that refuses a save.
      Stopped: SIGTERM, after a save.
    """
    mesh = sharding.mesh(job.batch_size)
    current = sharding.put_state(current, mesh, config.host.shard_params)
    key = np.asarray(jax.random.key_data(state.stream(job.seed, job.stage)))
    data = sharding.put_replicated({**job.feed.data, "key": key}, mesh)
    if config.host.shard_params:
        share = sharding.held(current)
        log.say(f"{job.stage}: each of {mesh.size} devices holds {share:.0%} of parameters and optimiser")
    with (
        checkpoint.Saver(workdir / "checkpoints" / job.stage, config.checkpoint.keep) as saver,
        interrupt.deferred(),
        contextlib.closing(job.feed),
        contextlib.closing(profile.Profiler(config.profile.steps, workdir / "profile" / job.stage)) as profiler,
    ):
        current, progress = _resume(job, saver, current)
        start = int(current.step)
        execute = execution.Executor(job.step, job.feed, mesh, current)
        most = execution.steps_together(config.host.steps_per_execution, job.feed, bool(config.profile.steps))
        writer = _Writer(job, workdir, start, config.log)
        clock = _Clock(progress["seconds"], config)
        number = start
        while number < job.steps:
            stop = interrupt.requested()
            if number == start or number % job.steps_per_epoch == 0:
                epoch = number // job.steps_per_epoch
                data["classes"] = sharding.put_replicated(job.classes(epoch), mesh)
                if job.at_epoch is not None:
                    progress = job.at_epoch(current, epoch, progress)
            if stop or clock.is_due(number, start):
                _save(job, saver, writer, current, progress, clock)
            if stop:
                _stop(job, saver, writer, number)
            profiler.before(number, current)
            count = min(most, _until_break(job, number, config.checkpoint.every_steps))
            current, metrics = execute(current, data, number, count)
            number += count
            writer.add(number, count, current, metrics)
            if job.evaluate is not None and job.evaluate_every and number % job.evaluate_every == 0:
                writer.add_measures(number, job.evaluate(current.averaged()))
        _save(job, saver, writer, current, progress, clock)
        saver.wait()
        writer.close()
    return current, {**progress, "seconds": clock.seconds()}


def _until_break(job: Job, number: int, save_every: int) -> int:
    """The steps from step `number` to the next one before which the host has something to do."""
    periods = (job.steps_per_epoch, save_every, job.evaluate_every)
    return min(job.steps - number, *(every - number % every for every in periods if every))


def _stop(job: Any, saver: Any, writer: Any, number: int) -> Any:
    saver.wait()
    writer.close()
    raise errors.Stopped(f"{job.stage} stopped at step {number} and saved; run the same command again to resume")


def _resume(job: Job, saver: checkpoint.Saver, fresh: state.TrainState) -> tuple[Any, ...]:
    restored = saver.restore(fresh)
    if restored is None:
        return fresh, {"seconds": 0.0}
    log.say(f"{job.stage}: resuming from step {int(restored[0].step)} of {job.steps}")
    return restored


def _save(
    job: Job,
    saver: checkpoint.Saver,
    writer: "_Writer",
    current: state.TrainState,
    progress: dict[str, Any],
    clock: "_Clock",
) -> None:
    _check_finite(job, current)
    writer.flush()  # a run that goes on from this step has every line before it
    saver.save(current, {**progress, "seconds": clock.seconds()})
    clock.saved()


def _check_finite(job: Job, current: state.TrainState) -> None:
    bad = int(current.bad_step)
    if bad >= 0:
        rate = float(job.learning_rate(bad))
        raise errors.RunFailed(
            f"{job.stage}: loss or gradient is not finite at step {bad}, learning rate {rate:.3g}; "
            "the last good checkpoint is kept; lower the learning rate or lengthen the warm-up"
        )


class _Clock:
    """Seconds trained, and when the next save is due."""

    def __init__(self, seconds, config):
        self._before, self._options, self._ask_every = seconds, config.checkpoint, config.log.every_steps
        self._asked_at = -1
        self._began = self._saved = time.monotonic()

    def seconds(self):
        return self._before + time.monotonic() - self._began

    def is_due(self, number, start):
        every = self._options.every_steps
        by_step = every > 0 and number > start and number % every == 0
        by_time = time.monotonic() - self._saved > self._options.every_seconds
        if distributed.several():  # clocks differ; asking process 0 costs a collective, so not at every step
            is_time_to_ask = number // self._ask_every != self._asked_at
            self._asked_at = number // self._ask_every
            by_time = is_time_to_ask and distributed.agree(by_time)
        return by_step or by_time

    def saved(self):
        self._saved = time.monotonic()


class _Writer:
    """Lines of metrics.jsonl and the progress bar. Values are fetched once in `every` steps, nothing in between."""

    def __init__(self, job, workdir, start, options):
        self._job, self._every = job, options.every_steps
        folder = workdir / "tensorboard" / job.stage
        self._events = tensorboard.Events(folder, start) if options.get("tensorboard") else None
        self._metrics = log.Metrics(workdir)
        self._metrics.cut(job.stage, start)
        self._bar = log.Progress(job.stage, job.steps, start, job.batch_size)
        self._last_step, self._last_time = start, time.monotonic()

    def add(self, number, count, current, metrics):
        """Adds lines for those of the last `count` steps, up to step `number`, that have one."""
        first = number - count + 1
        written = [step for step in range(first, number + 1) if step % self._every == 0 or step == self._job.steps]
        if not written:
            return
        _check_finite(self._job, current)
        values = {name: np.atleast_1d(x) for name, x in jax.device_get(metrics).items()}
        now = time.monotonic()
        rate = (number - self._last_step) * self._job.batch_size / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = number, now
        for step in written:
            self._add_line(step, rate, {name: float(x[step - first]) for name, x in values.items()})
        self._bar.update(number, loss=float(values["loss"][-1]))

    def _add_line(self, step, rate, values):
        self._write(
            step,
            learning_rate=float(self._job.learning_rate(step - 1)),
            images_per_s=round(rate, 1),
            **{name: x if np.isfinite(x) else None for name, x in values.items()},
        )

    def add_measures(self, number, measures):
        self._write(number, **measures)

    def _write(self, step, **values):
        epoch = round(step / self._job.steps_per_epoch, 4)
        self._metrics.add(stage=self._job.stage, step=step, epoch=epoch, **values)
        if self._events is not None:
            self._events.add(step, values)

    def flush(self):
        self._metrics.flush()

    def close(self):
        self._bar.close()
        self.flush()
        if self._events is not None:
            self._events.close()
