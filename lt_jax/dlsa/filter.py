"""Flow filter: a flow whose clusters each contain few classes, and whose likelihood favours the tail.

Source: "Constructing Balance from Imbalance" (ECCV 2022, arXiv 2208.02567) and its released code. As in the
released code, the epoch is selected on the training items of the flow.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.core import errors, log
from lt_jax.dlsa import batches, objective, scaling
from lt_jax.dlsa import flow as flows

_TOLERATED_LOSS = 10.0  # nats per coordinate that a flow may lose against the untrained one


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["flow", "mean", "deviation", "counts", "unit", "components"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class FlowFilter:
    """A fitted flow on scaled features or their components, and the number of training items by cluster and class."""

    flow: flows.Flow
    mean: jax.Array  # (D,)
    deviation: jax.Array  # (D,)
    counts: jax.Array  # (K, C)
    unit: jax.Array | None = None
    components: jax.Array | None = None  # (D, number of components); None where the flow sees all coordinates

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Log-likelihood (B,) in nats of what the flow sees, and cluster (B,), of x (B, D)."""
        x = scaling.apply(x, self.mean, self.deviation, self.unit, self.components)
        z, log_det = self.flow.forward(x)
        logits = flows.cluster_logits(z, self.flow.centres)
        return flows.base_log_prob(logits, z) + log_det, logits.argmax(axis=1)

    def frequencies(self) -> jax.Array:
        """P(class | cluster) over the training items, (K, C); zeros for an empty cluster."""
        return self.counts / jnp.maximum(self.counts.sum(axis=1, keepdims=True), 1.0)


score_all = jax.jit(lambda fitted, x: fitted(x))


def check_clusters(config: Any, items: int) -> None:
    """Raises BadInput if there are more clusters than items."""
    if config.clusters > items:
        raise errors.BadInput(
            f"config.dlsa.filter.clusters: expected at most the number of training items, {items}, "
            f"found {config.clusters}"
        )


def fit_flow_filter(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, positions: np.ndarray | None = None,
    num_classes: int | None = None,
) -> FlowFilter:  # fmt: skip
    """Fits the flow by SGD on pairs of different classes; an epoch has one pair per item.

    Args:
      features: (N, D), any array that NumPy can index; rows go to the device in pieces.
      labels: (N,) whole numbers.
      config: the `filter` block of configs/dlsa_*.py.
      positions: the items to fit on; None means all.
      num_classes: None for one more than the largest label.

    Returns:
      The filter of the epoch with the most pure clusters among the fitted items (purity and size as in the config), or
      of the last epoch if there is no pure cluster. As in the released code, P(class | cluster) is counted over all N
      items.

    Raises:
      BadInput: features are not finite, there are more clusters than items, or fewer than two classes.
      RunFailed: the fit diverged; see `check_converges`.
    """
    return fit_and_choose(key, features, labels, config, positions, num_classes)[0]


def fit_and_choose(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, positions: np.ndarray | None = None,
    num_classes: int | None = None,
) -> tuple[FlowFilter, int]:  # fmt: skip
    """Like `fit_flow_filter`, and the number of epochs of the returned filter."""
    positions = np.arange(len(labels)) if positions is None else positions
    num_classes = num_classes or int(labels.max()) + 1
    best: Any = None
    best_epochs = 0
    best_score = -1
    for epochs, (now, clusters) in enumerate(_epochs(key, features, labels, config, positions), start=1):
        counts = _count(clusters, labels[positions], config.clusters, num_classes)
        score = pure_clusters(counts, config.min_purity, config.min_size, config.max_size)
        if score > best_score or (best_score <= 0 and epochs == config.epochs):
            flow = jax.tree.map(jnp.copy, now.flow)  # the next epoch overwrites it
            best = dataclasses.replace(now, flow=flow)
            best_epochs = epochs
            best_score = score
    log.say(f"flow filter: epoch {best_epochs} of {config.epochs}, {best_score} pure clusters of {config.clusters}")
    assert best is not None  # config.epochs is at least 1
    _, clusters = batches.over_all(score_all, best, features, np.arange(len(labels)))
    cluster_counts = jnp.asarray(_count(clusters, labels, config.clusters, num_classes), jnp.float32)
    return dataclasses.replace(best, counts=cluster_counts), best_epochs


def fit_for(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, positions: np.ndarray, epochs: int,
    pairs: int,
) -> FlowFilter:  # fmt: skip
    """The filter after `epochs` epochs of `pairs` pairs of the items at `positions`.

    The epoch is not selected and classes are not counted.
    """
    options = config.copy_and_resolve_references()
    options.epochs = epochs
    [(last, _)] = collections.deque(_epochs(key, features, labels, options, positions, pairs), maxlen=1)
    return last


def pure_clusters(counts: np.ndarray, min_purity: float, min_size: int, max_size: int) -> int:
    """Number of clusters purer and larger than the minimum; 0 if the largest has `max_size` items or more."""
    size = counts.sum(axis=1)
    pure = counts.max(axis=1) > min_purity * size
    return int((pure & (size > min_size)).sum()) if size.max() < max_size else 0


def check_converges(
    epoch: int, carry: dict[str, Any], likelihood: np.ndarray, reference: float, config: Any, width: int
) -> None:
    """Raises RunFailed if the fit has diverged by the end of an epoch.

    This is the case if the loss, a parameter, a running statistic or a log-likelihood is not finite, or the median
    log-likelihood is more than 10 nats per coordinate below the reference. A sound fit gains likelihood, or loses less
    than one nat per coordinate for the tail and for purer clusters. At 10 nats a typical coordinate of half of the
    items is more than 4 standard deviations away from every centre, and likelihoods no longer identify well clustered
    items. The median is used because in a sound fit the few items of a rare class may be far away for an epoch.

    Args:
      epoch: from 1 on.
      likelihood: (n,) log-likelihoods of the fitted items.
      reference: their median under the untrained flow, or after the first epoch if that is not finite.
      width: number of coordinates of an item.
    """
    numbers = (carry["loss"], carry["params"], carry["stats"])
    if not (batches.all_finite(numbers) and np.isfinite(likelihood).all()):
        reason = f"the loss ({float(carry['loss']):.4g}), a weight or a log-likelihood is not finite"
    elif np.median(likelihood) < reference - _TOLERATED_LOSS * width:
        reason = f"the median log-likelihood fell from {reference:.4g} to {np.median(likelihood):.4g} nats"
    else:
        return
    raise errors.RunFailed(
        f"flow filter: diverged in epoch {epoch}: {reason}; lower config.dlsa.filter.learning_rate, "
        f"found {config.learning_rate}"
    )


def _epochs(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    config: Any,
    positions: np.ndarray,
    pairs: int | None = None,
) -> Iterator[tuple[FlowFilter, np.ndarray]]:
    """Yields after each epoch the filter, without counts, and the clusters (n,) of the items at `positions`."""
    batches.check(features, labels)
    check_clusters(config, len(positions))
    mine = labels[positions]
    if len(np.unique(mine)) < 2:
        raise errors.BadInput("labels: a flow filter needs items of at least two classes")
    scaled = scaling.fit(features, positions, config.get("standardise", "coordinates"), "filter.standardise")
    k_init, k_pairs, k_noise = jax.random.split(key, 3)
    number = config.get("components", 0)
    components = scaling.principal(features, positions, scaled, number, "filter.components") if number else None
    width = number or features.shape[1]
    flow = flows.create(k_init, width, config.clusters, config.blocks, config.centre_deviation)
    class_weights = objective.class_weights(np.bincount(mine), config.class_weight_power)
    constants = {"centres": flow.centres, "scaling": (*scaled, components), "weights": class_weights}
    rng = batches.generator(k_pairs)
    scan = batches.compiled_scan(objective.step, objective.static(config))

    def filter_of(params, stats):
        mean, deviation, unit = scaled
        return FlowFilter(flows.Flow(params, stats, flow.centres), mean, deviation, jnp.zeros(()), unit, components)

    start = filter_of(flow.params, flow.stats)
    reference = float(np.median(batches.over_all(score_all, start, features, positions)[0]))
    carry = objective.start(k_noise, flow, config.clusters)
    for epoch in range(1, config.epochs + 1):
        drawn = objective.draw_pairs(rng, mine, config.batch_size, pairs)
        carry = batches.run(scan, carry, constants, _rows(features, labels, positions), drawn)
        now = filter_of(carry["params"], carry["stats"])
        likelihood, clusters = batches.over_all(score_all, now, features, positions)
        check_converges(epoch, carry, likelihood, reference, config, width)
        reference = reference if np.isfinite(reference) else float(np.median(likelihood))
        yield now, clusters


def _rows(features: np.ndarray, labels: np.ndarray, positions: np.ndarray) -> Callable[..., Any]:
    def rows(pairs):
        here = positions[pairs]
        return np.asarray(features[here.reshape(-1)], np.float32).reshape(*here.shape, -1), labels[here[..., 0]]

    return rows


def _count(clusters: np.ndarray, labels: np.ndarray, number: int, num_classes: int) -> np.ndarray:
    """Number of items by cluster and class, (K, C)."""
    counts = np.zeros((number, num_classes), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return counts
