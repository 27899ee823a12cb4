"""Linear classifier on fixed features, fitted by one compiled program."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses, optim


def fit(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, num_classes: int, config: Any, epochs: float,
    class_aware: bool = False,
):  # fmt: skip
    """Fits a linear layer by cross-entropy with the optimizer of `config`; incomplete batches are used.

    Features are standardised by their mean and deviation, so that one learning rate suits every encoder; the returned
    layer takes the original features.

    Args:
      features: (n, d) float32.
      labels: (n,).
      config: batch_size, base_learning_rate, warmup_epochs, weight_decay as in configs/common.py.
      class_aware: an epoch draws n items, each from a uniformly drawn class; else it is a permutation.

    Returns:
      {"kernel": (d, num_classes), "bias": (num_classes,)}, with the layout of `lt_jax.models.projectors.Linear`.
    """
    options = config.copy_and_resolve_references()
    warmup = min(config.warmup_epochs, epochs / 4)  # a warm-up meant for longer training could cover all epochs
    options.update(epochs=float(epochs), steps=0, warmup_epochs=warmup)
    run = jax.jit(functools.partial(_fit, config=options, num_classes=num_classes, class_aware=class_aware))
    mean = features.mean(axis=0)
    deviation = features.std(axis=0) + 1e-6
    fitted = run(key, jnp.asarray((features - mean) / deviation, jnp.float32), jnp.asarray(labels))
    kernel = np.asarray(fitted["kernel"]) / deviation[:, None]
    return {"kernel": kernel, "bias": np.asarray(fitted["bias"]) - mean @ kernel}


def _fit(key, features, labels, *, config, num_classes, class_aware):
    n, d = features.shape
    size = optim.batch_size(config, n)
    per_epoch = math.ceil(n / size)
    tx = optim.create(config, per_epoch, n)
    params = {"kernel": jnp.zeros((d, num_classes)), "bias": jnp.zeros(num_classes)}

    def loss_of(params, positions):
        logits = jnp.dot(features[positions], params["kernel"], precision=losses.PRECISION) + params["bias"][None, :]
        weights = positions >= 0
        each = losses.cross_entropy(logits, labels[positions])
        return jnp.where(weights, each, 0.0).sum() / weights.sum()

    def one_step(carry, positions):
        params, opt_state = carry
        gradients = jax.grad(loss_of)(params, positions)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state), None

    counts = jnp.bincount(labels, length=num_classes)
    by_class = jnp.argsort(labels)
    starts = jnp.cumsum(counts) - counts

    def one_of_each(key):
        k_class, k_item = jax.random.split(key)
        classes = jax.random.choice(k_class, num_classes, (per_epoch * size,), p=jnp.where(counts > 0, 1.0, 0.0))
        return by_class[starts[classes] + jax.random.randint(k_item, classes.shape, 0, counts[classes])]

    def one_epoch(carry, key):
        if class_aware:
            order = one_of_each(key)
        else:
            order = jnp.append(jax.random.permutation(key, n), jnp.full(per_epoch * size - n, -1))
        return jax.lax.scan(one_step, carry, order.reshape(per_epoch, size))

    epochs = jax.random.split(key, math.ceil(config.epochs))
    return jax.lax.scan(one_epoch, (params, tx.init(params)), epochs)[0][0]
