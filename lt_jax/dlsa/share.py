"""Selects the items that a depth takes: the share of the remaining items with the highest likelihood.

fitted        likelihoods under the flow that was fitted on these items (the released form). A flow that memorised
              the tail takes nearly all training items of the tail, but far fewer of its test items.
out_of_fold   likelihoods of each fold under a flow fitted on the other folds, so that training items are treated like
              test items
"""

from typing import Any

import jax
import numpy as np

from lt_jax.dlsa import batches
from lt_jax.dlsa import filter as filters

FORMS = ("fitted", "out_of_fold")
THRESHOLDS = ("interpolated", "order_statistic")


def threshold(likelihood: np.ndarray, share: float, form: str) -> np.float32:
    """The smallest likelihood that is taken.

    interpolated: the quantile at 1 - share of n values, with the linear interpolation of np.quantile.
    order_statistic: value number floor(n (1 - share)), from 0, in ascending order (the released form).
    """
    if form == "interpolated":
        return np.quantile(likelihood, 1.0 - share).astype(np.float32)
    return np.sort(likelihood)[int(len(likelihood) * (1.0 - share))].astype(np.float32)


def decide(
    key: jax.Array, fitted: filters.FlowFilter, epochs: int, features: np.ndarray, labels: np.ndarray,
    left: np.ndarray, config: Any,
) -> tuple[np.ndarray, np.ndarray, np.float32]:  # fmt: skip
    """Mask (n,) of the items at positions `left` that are taken, their clusters (n,), and the test threshold.

    With out_of_fold each item is compared with the threshold of its fold, since each flow has its own level; the test
    threshold is the mean of these, used with `fitted`, the flow of all items. The flows of the folds are trained for
    as many steps as `fitted`, so that levels are comparable.

    Args:
      fitted: the flow of all items at `left`, trained for `epochs`.
      config: the `dlsa` block of configs/dlsa_*.py.
    """
    likelihood, clusters = batches.over_all(filters.score_all, fitted, features, left)
    form = config.get("threshold", "interpolated")
    if config.get("share_at", "fitted") == "fitted":
        least = threshold(likelihood, config.share, form)
        return likelihood >= least, clusters, least
    likelihood, fold = out_of_fold(key, features, labels, left, config, epochs)
    each = np.array([threshold(likelihood[fold == f], config.share, form) for f in range(number_of_folds(config))])
    return likelihood >= each[fold], clusters, each.mean(dtype=np.float64).astype(np.float32)


def out_of_fold(
    key: jax.Array, features: np.ndarray, labels: np.ndarray, left: np.ndarray, config: Any, epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood (n,) of the items at `left`, under flows not fitted on them, and their folds (n,)."""
    number = number_of_folds(config)
    k_folds, *k_flows = jax.random.split(key, number + 1)
    fold = folds(batches.generator(k_folds), labels[left], number)
    likelihood = np.empty(len(left), np.float32)
    for f, k_flow in enumerate(k_flows):
        flow = filters.fit_for(k_flow, features, labels, config.filter, left[fold != f], epochs, len(left))
        likelihood[fold == f] = batches.over_all(filters.score_all, flow, features, left[fold == f])[0]
    return likelihood, fold


def folds(rng: np.random.Generator, labels: np.ndarray, number: int) -> np.ndarray:
    """Stratified fold (n,) of each item; sizes of folds, also within a class, differ by at most one."""
    order = np.lexsort((rng.random(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % number
    return fold


def number_of_folds(config: Any) -> int:
    """The setting `folds`."""
    return config.get("folds", 5)


def fitted_on(items: int, config: Any) -> int:
    """Number of items that the smallest flow of a depth is fitted on, of `items`; 0 if a fold would be empty."""
    if config.get("share_at", "fitted") == "fitted":
        return items
    number = number_of_folds(config)
    return items - -(-items // number) if items >= number else 0
