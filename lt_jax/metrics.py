"""Measures of `result.json`, computed from labels and logits; accuracies are fractions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sk

from lt_jax import statistics

SHIFTS = (50, 25, 10, 5, 2, 1)  # imbalance factors of shifted test sets


def measures(labels: np.ndarray, logits: np.ndarray, groups: dict[str, np.ndarray], bins: int = 15) -> dict[str, Any]:
    """Overall, group and balanced accuracy, and other common measures.

    Args:
      labels: (n,).
      logits: (n, C).
      groups: name -> boolean mask over the C classes.
      bins: number of bins of the calibration error.

    Returns:
      overall, many, medium, few, balanced and its standard error balanced_error, macro_f1, micro_f1, mcc, nmi, ece,
      group_ece (the calibration error of the images of each group), worst_class, harmonic_mean and geometric_mean of
      the class accuracies, per_class. A group without classes or images is None; a class without test images is None
      in `per_class` and is excluded from the other measures.
    """
    predicted = logits.argmax(axis=1)
    per_class = _per_class(labels, predicted, logits.shape[1])
    present = np.flatnonzero(~np.isnan(per_class))
    return {
        "overall": float((predicted == labels).mean()),
        **{name: _mean(per_class[mask]) for name, mask in groups.items()},
        **balanced_accuracy(labels, predicted, logits.shape[1]),
        "macro_f1": float(sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)),
        "micro_f1": float(sk.f1_score(labels, predicted, labels=present, average="micro", zero_division=0.0)),
        "mcc": float(sk.matthews_corrcoef(labels, predicted)),
        "nmi": float(sk.normalized_mutual_info_score(labels, predicted)),
        "ece": expected_calibration_error(labels, logits, bins),
        "group_ece": {name: _group_error(labels, logits, mask, bins) for name, mask in groups.items()},
        "worst_class": _number(np.nanmin(per_class)),
        "harmonic_mean": _harmonic_mean(per_class[present]),
        "geometric_mean": float(np.prod(per_class[present] ** (1.0 / len(present)))),
        "per_class": [_number(x) for x in per_class],
    }


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, Any]:
    """The mean of the class accuracies under `balanced`, and its standard error under `balanced_error`.

    Args:
      labels: (n,).
      predicted: (n,).
      num_classes: classes without items do not count.
    """
    per_class = _per_class(labels, predicted, num_classes)
    return {"balanced": _mean(per_class), "balanced_error": _balanced_error(labels, predicted, num_classes)}


def expected_calibration_error(labels: np.ndarray, logits: np.ndarray, bins: int = 15) -> float:
    """Mean |confidence - accuracy| over equal-width bins of confidence, weighted by size (Guo et al., ICML 2017)."""
    confidence = confidences(logits)
    correct = logits.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def shifted(
    per_class: Sequence[float | None], counts: np.ndarray, factors: Sequence[float] = SHIFTS
) -> dict[str, float | None]:
    """Accuracy under other class shares of the test set, from the accuracies of the classes.

    With factor F the class of rank r of C by training size (0 is the largest) has a share proportional to
    F^(-r / (C - 1)) in `forward_F`, so that the test set is long-tailed as the training set is, and the shares of the
    opposite ranks in `backward_F`. `uniform` has equal shares.

    Source: the test-agnostic protocol of Hong et al., "Disentangling Label Distribution for Long-Tailed Visual
    Recognition" (LADE, CVPR 2021); there the test set is subsampled, here the classes are weighted.

    Args:
      per_class: (C,) accuracies of classes; None for a class without test images, which is left out.
      counts: (C,) training images, which rank the classes; the first of equal ones is the larger.
      factors: F of the forward and backward shares; 1 adds no shares beside `uniform`.

    Returns:
      forward_F in the order of `factors`, uniform, backward_F in the opposite order; None if all classes are left out.
    """
    factors = [factor for factor in factors if factor != 1]
    accuracy = np.array([np.nan if x is None else x for x in per_class], float)
    rank = np.empty(len(accuracy))
    rank[np.argsort(-np.asarray(counts, float), kind="stable")] = np.arange(len(accuracy)) / max(len(accuracy) - 1, 1)
    shares = {f"forward_{factor:g}": factor**-rank for factor in factors}
    shares["uniform"] = np.ones(len(accuracy))
    shares |= {f"backward_{factor:g}": factor ** (rank - 1.0) for factor in reversed(factors)}
    return {name: _weighted_mean(accuracy, weights) for name, weights in shares.items()}


def confidences(logits: np.ndarray) -> np.ndarray:
    """Softmax probability of the predicted class, (n,) float64, from logits (n, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return 1.0 / np.exp(shifted).sum(axis=1)


def select(validation: dict[str, dict[str, Any] | None], default: str) -> str:
    """The method with the best balanced accuracy on validation images.

    Among methods within one standard error of the best, the first wins. Without validation images it is `default`.

    Args:
      validation: name -> `measures` on validation images, or None.
      default: the name to return if nothing was validated.
    """
    balanced = {name: x["balanced"] for name, x in validation.items() if x is not None}
    if not balanced:
        return default
    best = max(balanced, key=lambda name: balanced[name])
    least = balanced[best] - (validation[best] or {}).get("balanced_error", 0.0)
    return next(name for name, accuracy in balanced.items() if accuracy >= least)


def _harmonic_mean(values: np.ndarray) -> float:
    return float(len(values) / (1.0 / values).sum()) if (values > 0).all() else 0.0


def _balanced_error(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> float:
    """Standard error of the balanced accuracy: classes are independent, and the images of each."""
    is_present = np.bincount(labels, minlength=num_classes) > 0
    return statistics.sampling_error(labels == predicted, labels, is_present / is_present.sum())


def _per_class(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    total = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> float | None:
    present = ~np.isnan(values)
    return float(np.average(values[present], weights=weights[present])) if present.any() else None


def _group_error(labels: np.ndarray, logits: np.ndarray, mask: np.ndarray, bins: int) -> float | None:
    """Calibration error of the images whose class is in a group; None without images."""
    in_group = mask[labels]
    return expected_calibration_error(labels[in_group], logits[in_group], bins) if in_group.any() else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
