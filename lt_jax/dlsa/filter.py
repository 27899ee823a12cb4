"""The flow filter: a flow whose clusters each hold few classes, and whose likelihood favours the tail.

Source: "Constructing Balance from Imbalance" (ECCV 2022, arXiv 2208.02567) and its released code. Where the code
chooses an epoch on the test set, ours chooses on training data.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import errors, log
from lt_jax.data import pipeline
from lt_jax.dlsa import batches
from lt_jax.dlsa import flow as flows

_BALANCE_MOMENTUM = 0.7  # of the running mean of the cluster posterior


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["flow", "mean", "deviation", "counts"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class FlowFilter:
    """A fitted flow on standardised features, and how many training items of each class each cluster holds."""

    flow: flows.Flow
    mean: jax.Array  # (D,)
    deviation: jax.Array  # (D,)
    counts: jax.Array  # (K, C)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x (B, D) -> log-likelihood (B,) in nats of the standardised features, cluster (B,)."""
        x = (x - self.mean[None, :]) / self.deviation[None, :]
        z, log_det = self.flow.forward(x)
        logits = flows.cluster_logits(z, self.flow.centres)
        return flows.base_log_prob(logits, z) + log_det, logits.argmax(axis=1)

    def frequencies(self) -> jax.Array:
        """P(class | cluster) over the training items, (K, C); zeros for a cluster that holds none."""
        return self.counts / jnp.maximum(self.counts.sum(axis=1, keepdims=True), 1.0)


score_all = jax.jit(lambda fitted, x: fitted(x))


def purity_loss(positive: jax.Array, negative: jax.Array) -> jax.Array:
    """sum_k softmax(positive)_k log softmax(negative)_k, (B,): what pulls two classes into different clusters.

    Minimised; the posterior of the positive is held constant. Arguments: cluster logits (B, K).
    """
    held = jax.lax.stop_gradient(jax.nn.softmax(positive, axis=1))
    return (held * jax.nn.log_softmax(negative, axis=1)).sum(axis=1)


def balance_loss(posterior: jax.Array, running: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log K - H(mean posterior), over a debiased running mean; 0 where all clusters are used alike.

    Args:
      posterior: (B, K) of this batch.
      running: (K,) before it, zeros at first.
      step: () number of this batch, from 1 on.

    Returns:
      The loss () in nats and the running mean after the batch (K,).
    """
    moved = _BALANCE_MOMENTUM * running + (1 - _BALANCE_MOMENTUM) * posterior.mean(axis=0)
    mean = moved / (1 - _BALANCE_MOMENTUM ** step.astype(jnp.float32))
    entropy = -(mean * jnp.log(jnp.maximum(mean, 1e-30))).sum()
    return math.log(len(mean)) - entropy, jax.lax.stop_gradient(moved)


def class_weights(counts: np.ndarray, power: float) -> np.ndarray:
    """(N_max / N_y)^power of the classes that have items, normalised to sum 1."""
    weights = np.where(counts > 0, (counts.max() / np.maximum(counts, 1)) ** power, 0.0)
    return (weights / weights.sum()).astype(np.float32)


def check_clusters(config: Any, items: int) -> None:
    """Raises BadInput where there are more clusters than items."""
    if config.clusters > items:
        raise errors.BadInput(
            f"config.dlsa.filter.clusters: expected at most the number of training items, {items}, "
            f"found {config.clusters}"
        )


def fit_flow_filter(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, positions: np.ndarray | None = None
) -> FlowFilter:
    """Fits the flow by SGD on pairs of different classes; an epoch has as many pairs as there are items.

    Args:
      features: (N, D), any array that NumPy can index; rows go to the device in pieces.
      labels: (N,) whole numbers.
      config: the `filter` part of configs/dlsa_*.py.
      positions: the items to fit on; all of them when None. Clusters are counted over all items in any case.

    Returns:
      The filter of the epoch with the most pure clusters (purity and size as in the config, on training items); of
      the last epoch where none qualifies.

    Raises:
      BadInput: features that are not finite, more clusters than items, fewer than two classes.
      RunFailed: the loss is no longer finite.
    """
    batches.check(features, labels)
    positions = np.arange(len(labels)) if positions is None else positions
    check_clusters(config, len(positions))
    if len(np.unique(labels[positions])) < 2:
        raise errors.BadInput("labels: a flow filter needs items of two classes at least")
    mean, deviation = batches.moments(features, positions)
    k_init, k_pairs = jax.random.split(key)
    flow = flows.create(k_init, features.shape[1], config.clusters, config.blocks, config.centre_deviation)
    carry = {
        "params": flow.params, "stats": flow.stats, "running": jnp.zeros(config.clusters), "step": jnp.zeros((), int),
        "loss": jnp.zeros(()),
    }  # fmt: skip
    constants = {"centres": flow.centres, "mean": mean, "deviation": deviation}
    constants = {**constants, "weights": class_weights(np.bincount(labels[positions]), config.class_weight_power)}
    scan = batches.compiled_scan(_step, _static(config))
    rng, best, best_epoch, best_score = batches.generator(k_pairs), None, 0, -1
    for epoch in range(config.epochs):
        pairs = draw_pairs(rng, labels[positions], config.batch_size)
        carry = batches.run(scan, carry, constants, _rows(features, labels, positions), pairs)
        if not np.isfinite(float(carry["loss"])):
            raise errors.RunFailed(f"flow filter: the loss is not finite in epoch {epoch}; lower its learning rate")
        now = FlowFilter(flows.Flow(carry["params"], carry["stats"], flow.centres), mean, deviation, jnp.zeros(()))
        counts = _count(now, features, labels)
        score = pure_clusters(counts, config.min_purity, config.min_size, config.max_size)
        if score > best_score or (best_score <= 0 and epoch == config.epochs - 1):
            kept = jax.tree.map(jnp.copy, now.flow)  # the carry is donated to the next epoch
            best, best_score = dataclasses.replace(now, flow=kept, counts=jnp.asarray(counts, jnp.float32)), score
            best_epoch = epoch
    log.say(f"flow filter: epoch {best_epoch + 1} of {config.epochs}, {best_score} pure clusters of {config.clusters}")
    return best


def draw_pairs(rng: np.random.Generator, labels: np.ndarray, batch_size: int) -> np.ndarray:
    """Two different classes, uniform over those present, one item of each: (steps, B, 2) positions."""
    present = np.unique(labels)
    size = min(batch_size, len(labels))
    shape = (-(-len(labels) // size), size)
    one = rng.integers(0, len(present), shape)
    other = (one + rng.integers(1, len(present), shape)) % len(present)
    return np.stack([pipeline.one_of_each(rng, present[c], labels) for c in (one, other)], axis=-1)


def pure_clusters(counts: np.ndarray, min_purity: float, min_size: int, max_size: int) -> int:
    """How many clusters are purer and larger than asked for; 0 where the largest one has `max_size` items or more."""
    size = counts.sum(axis=1)
    pure = counts.max(axis=1) > min_purity * size
    return int((pure & (size > min_size)).sum()) if size.max() < max_size else 0


def _static(config):
    return (config.learning_rate, config.likelihood_weight, config.balance_weight, config.purity_weight)


def _step(static, constants, carry, batch):
    """One SGD step without momentum on a batch of pairs."""
    learning_rate, likelihood_weight, balance_weight, purity_weight = static
    (x, y), centres = batch, constants["centres"]
    x = (x - constants["mean"][None, None, :]) / constants["deviation"][None, None, :]
    number = carry["step"] + 1

    def loss_of(params):
        z, log_det, stats = flows.transform(params, carry["stats"], x[:, 0], train=True)
        other, _, stats = flows.transform(params, stats, x[:, 1], train=True)
        logits, others = flows.cluster_logits(z, centres), flows.cluster_logits(other, centres)
        log_p = flows.base_log_prob(logits, z) + log_det
        balance, running = balance_loss(jax.nn.softmax(logits, axis=1), carry["running"], number)
        loss = -likelihood_weight * (constants["weights"][y] * log_p).mean() + balance_weight * balance
        return loss + purity_weight * purity_loss(logits, others).mean(), (stats, running)

    (loss, (stats, running)), gradients = jax.value_and_grad(loss_of, has_aux=True)(carry["params"])
    params = jax.tree.map(lambda p, g: p - learning_rate * g, carry["params"], gradients)
    return {"params": params, "stats": stats, "running": running, "step": number, "loss": loss}


def _rows(features, labels, positions):
    def rows(pairs):
        here = positions[pairs]
        return np.asarray(features[here.reshape(-1)], np.float32).reshape(*here.shape, -1), labels[here[..., 0]]

    return rows


def _count(fitted, features, labels):
    """Items of each class in each cluster, (K, C)."""
    _, clusters = batches.over_all(score_all, fitted, features, np.arange(len(labels)))
    counts = np.zeros((len(fitted.flow.centres), labels.max() + 1), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return counts
