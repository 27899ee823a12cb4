"""Measures of `result.json`, computed from labels and logits; accuracies are fractions."""

from typing import Any

import numpy as np
from sklearn import metrics as sk


def measures(labels: np.ndarray, logits: np.ndarray, groups: dict[str, np.ndarray], bins: int = 15) -> dict[str, Any]:
    """Overall, group and balanced accuracy, and other common measures.

    Args:
      labels: (n,).
      logits: (n, C).
      groups: name -> boolean mask over the C classes.
      bins: number of bins of the calibration error.

    Returns:
      overall, many, medium, few, balanced, macro_f1, mcc, nmi, ece, worst_class, per_class. A group without classes is
      None; a class without test images is None in `per_class` and is excluded from the other measures.
    """
    predicted = logits.argmax(axis=1)
    per_class = _per_class(labels, predicted, logits.shape[1])
    present = np.flatnonzero(~np.isnan(per_class))
    return {
        "overall": float((predicted == labels).mean()),
        **{name: _mean(per_class[mask]) for name, mask in groups.items()},
        "balanced": _mean(per_class),
        "macro_f1": float(sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)),
        "mcc": float(sk.matthews_corrcoef(labels, predicted)),
        "nmi": float(sk.normalized_mutual_info_score(labels, predicted)),
        "ece": expected_calibration_error(labels, logits, bins),
        "worst_class": _number(np.nanmin(per_class)),
        "per_class": [_number(x) for x in per_class],
    }


def expected_calibration_error(labels: np.ndarray, logits: np.ndarray, bins: int = 15) -> float:
    """Mean |confidence - accuracy| over equal-width bins of confidence, weighted by size (Guo et al., ICML 2017)."""
    confidence = confidences(logits)
    correct = logits.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def confidences(logits: np.ndarray) -> np.ndarray:
    """Softmax probability of the predicted class, (n,) float64, from logits (n, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return 1.0 / np.exp(shifted).sum(axis=1)


def _per_class(labels, predicted, num_classes):
    total = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def _number(value):
    return None if np.isnan(value) else float(value)
