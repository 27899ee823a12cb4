"""Measures how well a fitted flow filter separates head from tail on test items."""

from typing import Any

import numpy as np
from sklearn import metrics as sk

from lt_jax.dlsa import batches
from lt_jax.dlsa import filter as filters


def measures(
    fitted: filters.FlowFilter, features: np.ndarray, labels: np.ndarray, counts: np.ndarray,
    groups: dict[str, np.ndarray], coverage: float,
) -> dict[str, Any]:  # fmt: skip
    """Purity of the clusters at a fixed coverage, and the area under the ROC curve of tail against head.

    Args:
      features: (n, D) test items; labels: (n,).
      counts: (C,) training items of each class.
      groups: many, medium, few -> mask over classes; head is many, tail is few.
      coverage: share of the items, those with the highest likelihood, on which purity is measured.

    Returns:
      purity (share of the covered items with the most frequent class of their cluster), tail_share (of the covered
      items), head_tail_auc (probability that a tail item has a higher likelihood than a head item; None if either is
      missing), mean_log_likelihood by group.
    """
    likelihood, cluster = batches.over_all(filters.score_all, fitted, features, np.arange(len(labels)))
    covered = np.argsort(-likelihood, kind="stable")[: max(1, round(coverage * len(labels)))]
    table = np.zeros((len(fitted.flow.centres), len(counts)))
    np.add.at(table, (cluster[covered], labels[covered]), 1)
    tail = groups["few"][labels]
    head = groups["many"][labels]
    both = tail | head
    has_both = tail.any() and head.any()
    return {
        "purity": float(table.max(axis=1).sum() / len(covered)),
        "tail_share": float(tail[covered].mean()),
        "head_tail_auc": float(sk.roc_auc_score(tail[both], likelihood[both])) if has_both else None,
        "mean_log_likelihood": {
            name: float(likelihood[mask[labels]].mean()) if mask[labels].any() else None
            for name, mask in groups.items()
        },
    }


def table(ranked: dict[str, dict[str, Any]]) -> str:
    """Text table with one line per feature set, in the given order."""
    width = max(len(name) for name in ranked)
    lines = [f"{'features':<{width}}{'head-tail AUC':>15}{'purity':>10}{'tail share':>12}"]
    for name, row in ranked.items():
        auc = "n/a" if row["head_tail_auc"] is None else f"{row['head_tail_auc']:.3f}"
        lines.append(f"{name:<{width}}{auc:>15}{row['purity']:>10.3f}{row['tail_share']:>12.3f}")
    return "\n".join(lines)
