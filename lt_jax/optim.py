"""Optimizers and learning rates of all trainings: AdamW or SGD, with warm-up and a schedule, per step."""

import math
from typing import Any

import jax
import optax


def total_steps(config: Any, steps_per_epoch: int) -> int:
    """Number of steps of a stage: `config.steps` if set, else from `config.epochs`."""
    return config.steps or max(1, math.ceil(round(config.epochs * steps_per_epoch, 6)))  # 3 / 7 * 7 is above 3


def epochs(config: Any, items: int) -> float:
    """Number of epochs of a stage that trains on `items` images and uses incomplete last batches."""
    return config.steps / math.ceil(items / batch_size(config, items)) if config.steps else config.epochs


def batch_size(config: Any, items: int) -> int:
    """Batch size, at most the number of training items."""
    return min(config.batch_size, items)


def schedule(config: Any, steps_per_epoch: int, items: int) -> optax.Schedule:
    """Learning rate of each step: linear warm-up from 0 to base_learning_rate * batch / 256, then `config.schedule`.

    `cosine` decays to 0 at the last step, `step` multiplies the rate by `decay_factor` at each of `decay_epochs`,
    `constant` stays. `batch` is at most `items`.
    """
    total = total_steps(config, steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    peak = config.base_learning_rate * batch_size(config, items) / 256
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if warmup else peak,
            peak_value=peak,
            warmup_steps=warmup,
            decay_steps=total,
        )
    epochs = config.decay_epochs if config.schedule == "step" else ()
    boundaries: dict[int, float] = {}
    for epoch in epochs:
        at = round(epoch * steps_per_epoch) - warmup
        boundaries[at] = boundaries.get(at, 1.0) * config.decay_factor
    later = optax.piecewise_constant_schedule(peak, boundaries)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), later], [warmup])


def create(config: Any, steps_per_epoch: int, items: int) -> optax.GradientTransformation:
    """The optimizer that the settings of a training describe.

    `adamw` has betas (.9, .95) and decoupled weight decay. `sgd` has momentum and adds weight_decay * parameter to the
    gradient before it (L2 regularisation, as torch.optim.SGD does). Biases and norms decay only with `decay_norms`.

    Args:
      config: a block from `configs.common.training`.
      steps_per_epoch: steps of one epoch.
      items: training images, which bound the batch.
    """
    rate = schedule(config, steps_per_epoch, items)
    decays = None if config.decay_norms else lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0.0 else []
    if config.optimizer == "adamw":
        return optax.chain(*clip, optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=config.weight_decay, mask=decays))
    return optax.chain(
        *clip,
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.sgd(rate, momentum=config.momentum, nesterov=config.nesterov),
    )
