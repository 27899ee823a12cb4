"""The one place where order, feed, optimizer, schedule and loop are put together."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import optax
from etils import epath

from lt_jax import data, losses, optim
from lt_jax.data import batches
from lt_jax.sampling import orders
from lt_jax.train import loop, sharding, state, steps

Order = Callable[[int], Any]  # step -> positions of the global batch


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Sizes and durations of one training, as its settings say for so many items."""

    items: int
    batch_size: int
    steps_per_epoch: int
    steps: int


def schedule(settings: Any, items: int, drop_last: bool = False) -> Schedule:
    """The sizes of a training on `items` images; without `drop_last` an epoch ends with a filled-up batch."""
    batch_size = optim.batch_size(settings, items)
    if batch_size < settings.batch_size:  # it is cut, and nobody chose it: images repeat until the processes divide it
        batch_size = sharding.divisible(batch_size)
    steps_per_epoch = max(1, items // batch_size) if drop_last else -(-items // batch_size)
    return Schedule(items, batch_size, steps_per_epoch, optim.total_steps(settings, steps_per_epoch))


def fit(
    settings: Any,
    split: data.Split,
    *,
    variables: dict[str, Any],
    step: Callable[[optax.GradientTransformation], steps.Step],
    order: Callable[[int, int], Order],
    directory: epath.Path,
    stage: str,
    options: Any,
    seed: int,
    classes: Callable[[int], losses.Classes],
    items: int | None = None,
    trainable: Sequence[str] = state.ALL,
    drop_last: bool = False,
    own_key: bool = False,
    memory: Any = None,
    at_epoch: Callable[..., dict[str, Any]] | None = None,
    evaluate: Callable[[dict[str, Any]], dict[str, float]] | None = None,
) -> tuple[state.TrainState, dict[str, Any]]:
    """Trains `variables` to the last step, from the newest checkpoint where there is one.

    Args:
      settings: the block of the stage: epochs, batch_size, rates and augment as in configs/common.py.
      split: the training images.
      variables: where training starts, {"params": {"encoder", "head"}, "batch_stats"}.
      step: optimizer -> the step that is trained by.
      order: (batch size, seed) -> order of the images.
      directory: the work directory, for checkpoints and metrics named `stage`, on which random numbers depend.
      classes: epoch -> what losses read about the classes.
      options: the config; its blocks host, log, checkpoint and evaluate are read.
      items: images of an epoch, if not all of the split.
      trainable: parameters that are trained, as in `state.create`.
      drop_last: an epoch leaves out the last, incomplete batch.
      own_key: each anchor has a second crop of its own.
      memory: of the step's objective, before the first step.
      at_epoch: (state, epoch, progress, use) -> progress, before each epoch and after a resume, so it must be
        idempotent; `use(positions)` trains on these images from now on.
      evaluate: variables -> measures for metrics.jsonl, every `options.evaluate.every_epochs` epochs.

    Returns:
      The final state, and its progress: `seconds` spent, over all restarts, and what `at_epoch` has put there.

    Raises:
      RunFailed, Stopped: as `loop.train`.
    """
    sizes = schedule(settings, len(split.labels) if items is None else items, drop_last)
    optimizer = optim.create(settings, sizes.steps_per_epoch, sizes.items)
    rate = optim.schedule(settings, sizes.steps_per_epoch, sizes.items)
    positions_of = order(sizes.batch_size, state.number(seed, f"{stage}/order"))
    crops = (state.number(seed, f"{stage}/crops"), settings.augment.crop_scale, own_key)
    feed = batches.feed(split, positions_of, sizes.batch_size, *crops, **sharding.host())

    def start_epoch(current, epoch, progress):
        return at_epoch(current, epoch, progress, lambda subset: feed.use(orders.Subset(subset, positions_of)))

    times = (sizes.steps, sizes.steps_per_epoch, sizes.batch_size, rate)
    hooks = (start_epoch if at_epoch else None, evaluate, _every(options, sizes) if evaluate else 0)
    job = loop.Job(stage, seed, step(optimizer), feed, *times, classes, *hooks)
    return loop.train(job, state.create(variables, optimizer, trainable, settings.ema, memory), directory, options)


def _every(options: Any, sizes: Schedule) -> int:
    """Steps between two evaluations during training; 0 for none."""
    return options.evaluate.every_epochs * sizes.steps_per_epoch
