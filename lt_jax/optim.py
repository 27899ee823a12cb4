"""The optimiser of every stage: AdamW, linear warm-up, cosine to zero, per step."""

import math
from typing import Any

import jax
import optax


def total_steps(config: Any, steps_per_epoch: int) -> int:
    """Duration of a stage: `config.steps` where given, else `config.epochs`."""
    return config.steps or max(1, math.ceil(config.epochs * steps_per_epoch))


def batch_size(config: Any, items: int) -> int:
    """A batch is never larger than what there is to train on."""
    return min(config.batch_size, items)


def schedule(config: Any, steps_per_epoch: int, items: int) -> optax.Schedule:
    """Learning rate of each step: linear warm-up from 0 to base_learning_rate * batch / 256, then a cosine to 0.

    The batch is that of `items` images: a set smaller than a batch is a smaller batch.
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
    """Betas (.9, .95); weight decay on weights only, none on biases and norms."""
    return optax.adamw(
        schedule(config, steps_per_epoch, items),
        b1=0.9,
        b2=0.95,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    )
