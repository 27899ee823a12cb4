"""Chooses the options of a head by cross-validation on the training features."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lt_jax import losses, metrics
from lt_jax.core import errors
from lt_jax.sampling import folds as folds_lib


def choose(
    fit: Callable[..., Any],
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    grid: Sequence[dict[str, Any]],
    folds: int = 5,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The options with the best balanced accuracy on held-out folds, and the score of all.

    Among the options within one standard error of the best, the earliest of the grid is chosen: so put the simplest
    first. All are fitted on the same folds with the same rng keys. The only item of a class is in every fit and is
    never scored. Only training data should come in here.

    Args:
      fit: `fit(key, features, labels, classes, **options) -> head`, an entry of `lt_jax.methods.HEADS`. Where it needs
        `initial`, bind that with `functools.partial`: the scores favour a head that was trained on the held-out items.
      key: rng key of folds and fits.
      features: (n, d) of the training images.
      labels: (n,).
      classes: of the training set; a fit gets those of its own folds.
      grid: options of `fit`.
      folds: number of folds, at least 2.

    Returns:
      (the chosen options, for each of the grid {"options", "balanced", "balanced_error"}).

    Raises:
      BadInput: an empty grid, fewer than two folds, or no class with two items.
    """
    labels = np.asarray(labels)
    if not grid or folds < 2:
        raise errors.BadInput(f"choose: expected some options and 2 folds or more, found {len(grid)} and {folds}")
    k_folds, *k_fits = jax.random.split(key, folds + 1)
    fold = folds_lib.stratified(labels, folds, int(jax.random.randint(k_folds, (), 0, 2**31 - 1)))
    if (fold < 0).all():
        raise errors.BadInput("choose: expected a class with two items or more, found none")
    num_classes = len(classes.counts)
    is_scored = fold >= 0
    scores = []
    for options in grid:
        predicted = _predicted(fit, k_fits, np.asarray(features), labels, num_classes, fold, options)
        scores.append(
            {"options": options} | metrics.balanced_accuracy(labels[is_scored], predicted[is_scored], num_classes)
        )
    chosen = metrics.select({str(i): score for i, score in enumerate(scores)}, "0")
    return grid[int(chosen)], scores


def _predicted(
    fit: Callable[..., Any],
    keys: list[jax.Array],
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    fold: np.ndarray,
    options: dict[str, Any],
) -> np.ndarray:
    """The class (n,) that each item gets from a head fitted without its fold; -1 for items in no fold."""
    predicted = np.full(len(labels), -1)
    for number, key in enumerate(keys):
        is_held_out = fold == number
        if is_held_out.any():
            fitted_on = labels[~is_held_out]
            classes = losses.Classes.of(np.bincount(fitted_on, minlength=num_classes))
            head = fit(jax.random.clone(key), features[~is_held_out], fitted_on, classes, **options)
            predicted[is_held_out] = np.asarray(head(features[is_held_out])).argmax(axis=1)
    return predicted
