"""DLSA: divide the items by likelihood, classify the well clustered, go on with the rest.

At each depth a flow filter is fitted on the items still left. The share with the highest likelihood is classified
with the help of the clusters; the others go on to the next depth, at the last one to a plain classifier. Thresholds
are those of the training items.

Source: arXiv 2208.02567 (ECCV 2022) and its released code.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import errors, log
from lt_jax.dlsa import batches, classifiers
from lt_jax.dlsa import filter as filters


@functools.partial(jax.tree_util.register_dataclass, data_fields=["filter", "threshold", "classifier"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Depth:
    filter: filters.FlowFilter
    threshold: jax.Array  # () least log-likelihood of what is classified here
    classifier: classifiers.Classifier

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x (B, D) -> logits (B, C), log-likelihood (B,)."""
        likelihood, cluster = self.filter(x)
        return self.classifier(x, self.filter.frequencies()[cluster]), likelihood


@functools.partial(jax.tree_util.register_dataclass, data_fields=["depths", "rest"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Model:
    """A pytree: the depths in order, and the plain classifier of what no depth takes."""

    depths: tuple[Depth, ...]
    rest: classifiers.Classifier

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x (B, D) -> logits (B, C), depth (B,) from 1 on, log-likelihood (B,) under the flow of that depth."""
        logits = self.rest(x)
        depth = jnp.full(x.shape[0], len(self.depths) + 1)  # not len(x), which an exported model does not know
        likelihood = jnp.full(x.shape[0], jnp.nan)
        for number in reversed(range(len(self.depths))):
            here, found = self.depths[number](x)
            is_last = number == len(self.depths) - 1
            taken = found >= self.depths[number].threshold
            logits = jnp.where(taken[:, None], here, logits)
            likelihood = jnp.where(taken | is_last, found, likelihood)
            depth = jnp.where(taken, number + 1, depth)
        return logits, depth, likelihood


_apply = jax.jit(lambda model, x: model(x))


def fit(key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any) -> Model:
    """Fits all depths.

    A depth that is left with fewer than `min_items` items or with a single class ends the recursion, and says so.

    Args:
      features: (N, D) floats, also memory-mapped; labels: (N,) whole numbers from 0 on.
      config: the `dlsa` part of configs/dlsa_*.py.

    Raises:
      BadInput: features that are not finite, labels missing, more clusters than items, a share of 0 or 1.
      RunFailed: a loss is no longer finite.
    """
    check(config)
    batches.check(features, labels)
    filters.check_clusters(config.filter, len(labels))
    counts, left, depths = np.bincount(labels), np.arange(len(labels)), []
    for number in range(config.depth):
        reason = _why_stop(labels[left], config)
        if reason:
            log.say(f"dlsa: the recursion ends after depth {number}: {reason}")
            break
        k_filter, k_classifier = jax.random.split(jax.random.fold_in(key, number))
        depth, taken = _fit_depth(k_filter, k_classifier, features, labels, left, config)
        depths.append(depth)
        log.say(f"dlsa: depth {number + 1} takes {taken.sum()} of {len(left)} items, {_classes(labels[left[taken]])}")
        left = left[~taken]
    return Model(
        tuple(depths), _fit_rest(jax.random.fold_in(key, config.depth), features, labels, left, counts, config)
    )


def predict(model: Model, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> label (N,), depth (N,) from 1 on (the last is the plain classifier's), log-likelihood (N,).

    Raises:
      BadInput: features of another width than in training, or not finite.
    """
    logits, depth, likelihood = scores(model, features)
    return logits.argmax(axis=1), depth, likelihood


def scores(model: Model, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Like `predict`, with logits (N, C) in place of labels."""
    batches.check(features, None, width=len(model.rest.mean))
    return tuple(batches.over_all(_apply, model, features, np.arange(len(features))))  # type: ignore[return-value]


def check(config: Any) -> None:
    """Raises BadInput for values of `config.dlsa` that mean nothing."""
    if not 0.0 < config.share < 1.0:
        raise errors.BadInput(f"config.dlsa.share: expected a number between 0 and 1, found {config.share}")
    if config.depth < 1:
        raise errors.BadInput(f"config.dlsa.depth: expected at least 1, found {config.depth}")
    if config.rest_counts not in ("all", "left"):
        raise errors.BadInput(f"config.dlsa.rest_counts: expected one of all, left, found {config.rest_counts!r}")
    choices = {"kind": classifiers.KINDS, "loss": classifiers.LOSSES, "sampling": classifiers.SAMPLINGS}
    for name, known in choices.items():
        if config.classifier[name] not in known:
            found = config.classifier[name]
            raise errors.BadInput(f"config.dlsa.classifier.{name}: expected one of {', '.join(known)}, found {found!r}")


def _why_stop(labels, config):
    if len(labels) < max(config.min_items, config.filter.clusters):
        return f"{len(labels)} items are left"
    return "one class is left" if len(np.unique(labels)) == 1 else None


def _fit_depth(k_filter, k_classifier, features, labels, left, config):
    fitted = filters.fit_flow_filter(k_filter, features, labels, config.filter, left)
    likelihood, cluster = batches.over_all(filters.score_all, fitted, features, left)
    threshold = np.quantile(likelihood, 1.0 - config.share).astype(np.float32)
    taken = likelihood >= threshold
    help = np.asarray(fitted.frequencies())[cluster[taken]]
    seen = np.bincount(labels[left[taken]], minlength=labels.max() + 1)
    classifier = classifiers.fit(k_classifier, features, labels, left[taken], seen, config.classifier, help)
    return Depth(fitted, jnp.asarray(threshold), classifier), taken


def _fit_rest(key, features, labels, left, counts, config):
    """`rest_counts`: the released code takes the class counts of the whole training set here."""
    seen = np.bincount(labels[left], minlength=len(counts))
    return classifiers.fit(
        key, features, labels, left, counts if config.rest_counts == "all" else seen, config.classifier
    )


def _classes(labels):
    return f"{len(np.unique(labels))} classes"
