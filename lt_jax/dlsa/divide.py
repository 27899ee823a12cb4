"""DLSA: divide the items by likelihood, classify the well clustered, go on with the others.

At each depth a flow filter is fitted on the items still left. The share with the highest likelihood is classified
with the help of the clusters; the others go on to the next depth, at the last one to a plain classifier. Thresholds
are those of the training items; `share` has the ways to take them.

Source: arXiv 2208.02567 (ECCV 2022) and its released code.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.core import log
from lt_jax.dlsa import batches, classifiers, settings, share
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


def fit(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, initial: dict[str, Any] | None = None
) -> Model:
    """Fits all depths.

    A depth that is left with fewer than `min_items` items or with a single class ends the recursion, and says so.

    Args:
      features: (N, D) floats, also memory-mapped; labels: (N,) whole numbers from 0 on.
      config: the `dlsa` part of configs/dlsa_*.py; a missing option has its default (docs/dlsa.md).
      initial: a trained linear head on these features, kernel (D, C) and bias (C,), that classifiers start from.

    Raises:
      BadInput: features that are not finite, labels missing, more clusters than items, settings that mean nothing, a
        head that does not fit.
      RunFailed: a fit diverged.
    """
    return fit_and_divide(key, features, labels, config, initial)[0]


def fit_and_divide(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, initial: dict[str, Any] | None = None
) -> tuple[Model, np.ndarray]:
    """Like `fit`, with the depth (N,) that took each training item; 1 + the number of depths where none did."""
    settings.check(config)
    batches.check(features, labels)
    filters.check_clusters(config.filter, share.fitted_on(len(labels), config))
    left, depths, depth_of = np.arange(len(labels)), [], np.zeros(len(labels), int)
    for number in range(config.depth):
        reason = _why_stop(labels[left], config)
        if reason:
            log.say(f"dlsa: the recursion ends after depth {number}: {reason}")
            break
        depth, taken = _fit_depth(jax.random.fold_in(key, number), features, labels, left, config, initial)
        depths.append(depth)
        log.say(f"dlsa: depth {number + 1} takes {taken.sum()} of {len(left)} items, {_classes(labels[left[taken]])}")
        depth_of[left[taken]] = number + 1
        left = left[~taken]
    depth_of[left] = len(depths) + 1
    last = _fit_last(jax.random.fold_in(key, config.depth), features, labels, left, config, initial)
    return Model(tuple(depths), last), depth_of


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


check = settings.check


def _why_stop(labels, config):
    if share.fitted_on(len(labels), config) < config.filter.clusters or len(labels) < config.min_items:
        return f"{len(labels)} items are left"
    in_every_fold = np.bincount(labels) > (config.get("share_at", "fitted") == "out_of_fold")
    return "one class is left" if in_every_fold.sum() < 2 else None


def _fit_depth(key, features, labels, left, config, initial):
    """The filter and the classifier of one depth, and which of the items left it takes (n,)."""
    k_filter, k_classifier, k_folds = jax.random.split(key, 3)
    fitted, epochs = filters.fit_and_choose(k_filter, features, labels, config.filter, left)
    taken, clusters, threshold = share.decide(k_folds, fitted, epochs, features, labels, left, config)
    help = np.asarray(fitted.frequencies())[clusters[taken]]
    counts = np.bincount(labels[left[taken]], minlength=labels.max() + 1)
    classifier = classifiers.fit(k_classifier, features, labels, left[taken], counts, config.classifier, help, initial)
    return Depth(fitted, jnp.asarray(threshold), classifier), taken


def _fit_last(key, features, labels, left, config, initial):
    """The plain classifier, on the items left or on all; the class counts of its loss are those of either, too."""
    positions = np.arange(len(labels)) if config.get("last", "left") == "everything" else left
    counted = labels if config.rest_counts == "all" else labels[positions]
    counts = np.bincount(counted, minlength=labels.max() + 1)
    return classifiers.fit(key, features, labels, positions, counts, config.classifier, None, initial)


def _classes(labels):
    return f"{len(np.unique(labels))} classes"
