"""Statistics over seeds: spread over seeds, paired differences with their intervals, and the selected method."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def spread(values: Sequence[float | None] | np.ndarray) -> dict[str, float] | None:
    """Mean and standard deviation (0 of one value) over runs; runs that lack the measure (None or NaN) are left out."""
    array = np.array(values, float)
    array = array[~np.isnan(array)]
    if not len(array):
        return None
    return {"mean": float(array.mean()), "std": float(array.std(ddof=1)) if len(array) > 1 else 0.0}


def paired(
    ours: Sequence[float], reference: Sequence[float], alpha: float = 0.05, test_error: float = 0.0
) -> dict[str, float] | None:
    """Mean difference over pairs, the half width of its interval, and the p value of a paired t test.

    With `test_error` the variance is the sum of that over the seeds and that of the choice of test images; the degrees
    of freedom are those of Welch and Satterthwaite.

    Args:
      ours: a measure by seed.
      reference: that of the reference, for the same seeds.
      alpha: the interval has the level 1 - alpha.
      test_error: standard error of the mean difference because the test images are a sample; see `sampling_error`.

    Returns:
      {"mean", "half_width", "p"}; None for fewer than two pairs.
    """
    from scipy import stats

    difference = np.subtract(ours, reference)
    n = len(difference)
    if n < 2:
        return None
    of_seeds = float(difference.std(ddof=1)) / math.sqrt(n)
    error = math.hypot(of_seeds, test_error)
    mean = float(difference.mean())
    if error == 0.0:
        return {"mean": mean, "half_width": 0.0, "p": 1.0 if mean == 0.0 else 0.0}
    freedom = (n - 1) * (error / of_seeds) ** 4 if of_seeds > 1e-9 * error else math.inf
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return {"mean": mean, "half_width": float(stats.t.ppf(1 - alpha / 2, freedom)) * error, "p": p}


def sampling_error(differences: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Standard error of a weighted mean over classes, as the images of each class are a sample.

    A class of one image has the mean variance of the other classes with weight, or where they all have one image, that
    of all images.

    Args:
      differences: (n,) of each image, as whether one method is right minus whether the other is.
      labels: (n,).
      weights: (C,) of the classes, with sum 1; classes without images must have weight 0.
    """
    differences = np.asarray(differences, float)
    images = np.bincount(labels, minlength=len(weights))
    means = np.bincount(labels, differences, len(weights)) / np.maximum(images, 1)
    squares = np.bincount(labels, (differences - means[labels]) ** 2, len(weights))
    variances = squares / np.maximum(images - 1, 1)
    is_known = (images > 1) & (weights != 0)
    if is_known.any():
        pooled_variance = variances[is_known].mean()
    else:
        pooled_variance = differences.var(ddof=1) if len(differences) > 1 else 0.0
    variances = np.where(images > 1, variances, pooled_variance)
    return math.sqrt(float((weights**2 * variances / np.maximum(images, 1)).sum()))


def holm(p_values: dict[str, float], alpha: float = 0.05) -> dict[str, bool]:
    """Name -> whether its difference is significant at `alpha` over all names together.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
    """
    significant = dict.fromkeys(p_values, False)
    for rank, name in enumerate(sorted(p_values, key=lambda name: (math.isnan(p_values[name]), p_values[name]))):
        if not p_values[name] <= alpha / (len(p_values) - rank):  # also where it is not a number
            break
        significant[name] = True
    return significant


def in_words(difference: dict[str, float] | None, is_significant: bool) -> str:
    """What a difference means: better, worse, or not to be told apart."""
    if difference is None:
        return "one seed: no interval"
    if not is_significant:
        return "within noise"
    return "better" if difference["mean"] > 0 else "worse"


def pooled(validation: list[list[dict[str, Any]]]) -> dict[str, float]:
    """Balanced accuracy on validation images and its standard error, pooled over folds and seeds.

    The images of two folds differ, so their errors are independent; those of two seeds do not.

    Args:
      validation: `[seed][fold]` measures, with "balanced" and "balanced_error".
    """
    balanced = np.array([[measures["balanced"] for measures in folds] for folds in validation])
    errors = np.array([[measures["balanced_error"] for measures in folds] for folds in validation])
    by_seed = np.sqrt((errors**2).sum(axis=1)) / errors.shape[1]
    return {"mean": float(balanced.mean()), "standard_error": float(by_seed.mean())}


def select(validation: dict[str, dict[str, float]]) -> str:
    """The first method within one standard error of the best validation accuracy.

    Args:
      validation: name -> `pooled`, in the order of the table.
    """
    best = max(validation.values(), key=lambda x: x["mean"])
    least = best["mean"] - best["standard_error"]
    return next(name for name, x in validation.items() if x["mean"] >= least)
