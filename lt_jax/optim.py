"""Optimizer of all stages: AdamW with linear warm-up and cosine decay to zero, per step."""

import math
from typing import Any

import jax
import optax


def total_steps(config: Any, steps_per_epoch: int) -> int:
    """Number of steps of a stage: `config.steps` if set, else from `config.epochs`."""
    return config.steps or max(1, math.ceil(config.epochs * steps_per_epoch))


def batch_size(config: Any, items: int) -> int:
    """Batch size, at most the number of training items."""
    return min(config.batch_size, items)


def schedule(config: Any, steps_per_epoch: int, items: int) -> optax.Schedule:
    """Learning rate of each step: linear warm-up from 0 to base_learning_rate * batch / 256, then cosine decay to 0.

    `batch` is at most `items`.
    """
    total = total_steps(config, steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    peak = config.base_learning_rate * batch_size(config, items) / 256
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else peak,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=total,
    )


def adamw(config: Any, steps_per_epoch: int, items: int) -> optax.GradientTransformation:
    """AdamW with betas (.9, .95) and weight decay only on weights, not on biases and norms."""
    return optax.adamw(
        schedule(config, steps_per_epoch, items),
        b1=0.9,
        b2=0.95,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    )
