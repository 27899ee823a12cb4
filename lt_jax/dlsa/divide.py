"""DLSA: divides the items by likelihood and classifies the well clustered items at each depth.

At each depth a flow filter is fitted on the remaining items. The share with the highest likelihood is classified with
cluster information; the other items go to the next depth, after the last one to a plain classifier. Thresholds are
computed from the training items by `share`.

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
    """One depth: its flow filter, threshold and classifier."""

    filter: filters.FlowFilter
    threshold: jax.Array  # () smallest log-likelihood that is classified here
    classifier: classifiers.Classifier

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits (B, C) and log-likelihood (B,) of x (B, D)."""
        likelihood, cluster = self.filter(x)
        return self.classifier(x, self.filter.frequencies()[cluster]), likelihood


@functools.partial(jax.tree_util.register_dataclass, data_fields=["depths", "rest"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Model:
    """A pytree: the depths in order, and `rest`, the plain classifier for items that no depth takes."""

    depths: tuple[Depth, ...]
    rest: classifiers.Classifier

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits (B, C), depth (B,) from 1 on, and log-likelihood (B,) under the flow of that depth, of x (B, D)."""
        logits = self.rest(x)
        depth = jnp.full(x.shape[0], len(self.depths) + 1)  # not len(x): an exported model has a symbolic batch size
        likelihood = jnp.full(x.shape[0], jnp.nan)
        for number in reversed(range(len(self.depths))):
            depth_logits, depth_likelihood = self.depths[number](x)
            is_last = number == len(self.depths) - 1
            taken = depth_likelihood >= self.depths[number].threshold
            logits = jnp.where(taken[:, None], depth_logits, logits)
            likelihood = jnp.where(taken | is_last, depth_likelihood, likelihood)
            depth = jnp.where(taken, number + 1, depth)
        return logits, depth, likelihood


_apply = jax.jit(lambda model, x: model(x))


def fit(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, initial: dict[str, Any] | None = None,
    num_classes: int | None = None,
) -> Model:  # fmt: skip
    """Fits all depths and returns the model.

    The recursion ends, with a log line, when fewer than `min_items` items or a single class are left.

    Args:
      features: (N, D) floats, also memory-mapped; labels: (N,) whole numbers from 0 on.
      config: the `dlsa` block of configs/dlsa_*.py; missing options have defaults (docs/dlsa.md).
      initial: a trained linear head on these features, kernel (D, C) and bias (C,), that initialises classifiers.
      num_classes: C; None for one more than the largest label. A class may have no items.

    Raises:
      BadInput: features are not finite, labels are missing, there are more clusters than items, a setting is invalid,
        or the head has the wrong shape.
      RunFailed: a fit diverged.
    """
    return fit_and_divide(key, features, labels, config, initial, num_classes)[0]


def fit_and_divide(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, config: Any, initial: dict[str, Any] | None = None,
    num_classes: int | None = None,
) -> tuple[Model, np.ndarray]:  # fmt: skip
    """Like `fit`, and the depth (N,) of each training item; 1 + the number of depths for the remaining items."""
    settings.check(config)
    batches.check(features, labels)
    filters.check_clusters(config.filter, share.fitted_on(len(labels), config))
    num_classes = num_classes or int(labels.max()) + 1
    left = np.arange(len(labels))
    depths: list[Depth] = []
    depth_of = np.zeros(len(labels), int)
    for number in range(config.depth):
        reason = _why_stop(labels[left], config)
        if reason:
            log.say(f"dlsa: the recursion ends after depth {number}: {reason}")
            break
        k_depth = jax.random.fold_in(key, number)
        depth, taken = _fit_depth(k_depth, features, labels, left, config, initial, num_classes)
        depths.append(depth)
        log.say(f"dlsa: depth {number + 1} takes {taken.sum()} of {len(left)} items, {_classes(labels[left[taken]])}")
        depth_of[left[taken]] = number + 1
        left = left[~taken]
    depth_of[left] = len(depths) + 1
    k_last = jax.random.fold_in(key, config.depth)
    last = _fit_last(k_last, features, labels, left, config, initial, num_classes)
    return Model(tuple(depths), last), depth_of


def predict(model: Model, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label (N,), depth (N,) from 1 on (the last is the plain classifier), and log-likelihood (N,).

    Raises:
      BadInput: features are not finite, or their width differs from training.
    """
    logits, depth, likelihood = scores(model, features)
    return logits.argmax(axis=1), depth, likelihood


def scores(model: Model, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Like `predict`, with logits (N, C) in place of labels."""
    batches.check(features, None, width=len(model.rest.mean))
    return tuple(batches.over_all(_apply, model, features, np.arange(len(features))))  # type: ignore[return-value]


check = settings.check


def _why_stop(labels: np.ndarray, config: Any) -> str | None:
    if share.fitted_on(len(labels), config) < config.filter.clusters or len(labels) < config.min_items:
        return f"{len(labels)} items are left"
    in_every_fold = np.bincount(labels) > (config.get("share_at", "fitted") == "out_of_fold")
    return "one class is left" if in_every_fold.sum() < 2 else None


def _fit_depth(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    left: np.ndarray,
    config: Any,
    initial: dict[str, Any] | None,
    num_classes: int,
) -> tuple[Any, ...]:
    """The fitted depth, and the mask (n,) of the remaining items that it takes."""
    k_filter, k_classifier, k_folds = jax.random.split(key, 3)
    fitted, epochs = filters.fit_and_choose(k_filter, features, labels, config.filter, left, num_classes)
    taken, clusters, threshold = share.decide(k_folds, fitted, epochs, features, labels, left, config)
    help = np.asarray(fitted.frequencies())[clusters[taken]]
    counts = np.bincount(labels[left[taken]], minlength=num_classes)
    classifier = classifiers.fit(k_classifier, features, labels, left[taken], counts, config.classifier, help, initial)
    return Depth(fitted, jnp.asarray(threshold), classifier), taken


def _fit_last(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    left: np.ndarray,
    config: Any,
    initial: dict[str, Any] | None,
    num_classes: int,
) -> classifiers.Classifier:
    """The plain classifier, fitted on the remaining items or on all, with the class counts of either."""
    on_everything = config.get("last", "left") == "everything" or not len(left)  # the depths may take all items
    positions = np.arange(len(labels)) if on_everything else left
    counted = labels if config.rest_counts == "all" else labels[positions]
    counts = np.bincount(counted, minlength=num_classes)
    return classifiers.fit(key, features, labels, positions, counts, config.classifier, None, initial)


def _classes(labels: np.ndarray) -> str:
    return f"{len(np.unique(labels))} classes"
