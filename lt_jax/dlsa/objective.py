"""Training objective of the flow filter: three losses, pairs of items of two classes, and one SGD step.

Source: "Constructing Balance from Imbalance" (ECCV 2022, arXiv 2208.02567) and its released code.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lt_jax.dlsa import flow as flows
from lt_jax.dlsa import scaling
from lt_jax.sampling import orders

_BALANCE_MOMENTUM = 0.7  # momentum of the running mean of the cluster posterior


def purity_loss(positive: jax.Array, negative: jax.Array) -> jax.Array:
    """sum_k softmax(positive)_k log softmax(negative)_k, (B,); minimising it separates classes into clusters.

    The posterior of the positive is held constant. Arguments are cluster logits (B, K).
    """
    held = jax.lax.stop_gradient(jax.nn.softmax(positive, axis=1))
    return (held * jax.nn.log_softmax(negative, axis=1)).sum(axis=1)


def balance_loss(posterior: jax.Array, running: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log K - H(mean posterior), with a debiased running mean; 0 if all clusters are used equally.

    Args:
      posterior: (B, K) of this batch.
      running: (K,) running mean before it, initially zeros.
      step: () number of this batch, from 1 on.

    Returns:
      The loss () in nats and the running mean after the batch (K,).
    """
    moved = _BALANCE_MOMENTUM * running + (1 - _BALANCE_MOMENTUM) * posterior.mean(axis=0)
    mean = moved / (1 - _BALANCE_MOMENTUM ** step.astype(jnp.float32))
    entropy = -(mean * jnp.log(jnp.maximum(mean, 1e-30))).sum()
    return math.log(len(mean)) - entropy, jax.lax.stop_gradient(moved)


def class_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """Class weights (N_max / N_y)^power, 0 for empty classes, normalised to sum 1."""
    weights = np.where(counts > 0, (counts.max() / np.maximum(counts, 1)) ** power, 0.0)
    return (weights / weights.sum()).astype(np.float32)


def draw_pairs(rng: np.random.Generator, labels: np.ndarray, batch_size: int, pairs: int | None = None) -> np.ndarray:
    """Positions (steps, B, 2) of pairs of items of two different classes, drawn uniformly from those present.

    There are `pairs` pairs, by default one per item; the last batch is filled up.
    """
    present = np.unique(labels)
    pairs = len(labels) if pairs is None else pairs
    size = min(batch_size, pairs)
    shape = (-(-pairs // size), size)
    one = rng.integers(0, len(present), shape)
    other = (one + rng.integers(1, len(present), shape)) % len(present)
    index = orders.class_index(labels)
    return np.stack([orders.one_of_each(rng, present[c], index) for c in (one, other)], axis=-1)


def start(key: jax.Array, flow: flows.Flow, clusters: int) -> dict[str, Any]:
    """Initial carry of `step`; the key is used for the noise."""
    return {
        "params": flow.params, "stats": flow.stats, "running": jnp.zeros(clusters), "step": jnp.zeros((), int),
        "loss": jnp.zeros(()), "key": key,
    }  # fmt: skip


def static(config: Any) -> tuple[float, ...]:
    """Static settings of `step`, from the `filter` block of configs/dlsa_*.py."""
    names = ("learning_rate", "likelihood_weight", "balance_weight", "purity_weight")
    return (*(config[name] for name in names), config.get("noise", 0.0), config.get("weight_decay", 0.0))


def step(static: tuple[float, ...], constants: Any, carry: dict[str, Any], batch: Any) -> dict[str, Any]:
    """One SGD step without momentum on a batch of pairs.

    Args:
      static: result of the function `static`.
      constants: centres (K, D), scaling, weights (C,) of the classes.
      carry: result of `start` or of the previous step.
      batch: features (B, 2, D) of the pairs, labels (B,) of their first items.
    """
    learning_rate, likelihood_weight, balance_weight, purity_weight, noise, weight_decay = static
    x, y = batch
    centres = constants["centres"]
    x = scaling.apply(x, *constants["scaling"])
    number = carry["step"] + 1
    if noise:
        x = x + noise * jax.random.normal(jax.random.fold_in(carry["key"], number), x.shape)

    def loss_of(params):
        z, log_det, stats = flows.transform(params, carry["stats"], x[:, 0], train=True)
        other, _, stats = flows.transform(params, stats, x[:, 1], train=True)
        logits = flows.cluster_logits(z, centres)
        other_logits = flows.cluster_logits(other, centres)
        log_p = flows.base_log_prob(logits, z) + log_det
        balance, running = balance_loss(jax.nn.softmax(logits, axis=1), carry["running"], number)
        loss = -likelihood_weight * (constants["weights"][y] * log_p).mean() + balance_weight * balance
        return loss + purity_weight * purity_loss(logits, other_logits).mean(), (stats, running)

    (loss, (stats, running)), gradients = jax.value_and_grad(loss_of, has_aux=True)(carry["params"])
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay, _matrices), optax.sgd(learning_rate))
    updates, _ = optimizer.update(gradients, optimizer.init(carry["params"]), carry["params"])  # it has no state
    params = optax.apply_updates(carry["params"], updates)
    return {**carry, "params": params, "stats": stats, "running": running, "step": number, "loss": loss}


def _matrices(params: tuple[Any, ...]) -> tuple[Any, ...]:
    """Mask of the parameters that decay: not biases and norms."""
    return jax.tree.map(lambda x: x.ndim == 2, params)
