"""How well a fitted flow filter separates head from tail: a measure of features, on items it was not fitted on."""

from typing import Any

import numpy as np
from sklearn import metrics as sk

from lt_jax.dlsa import batches
from lt_jax.dlsa import filter as filters


def measures(
    fitted: filters.FlowFilter, features: np.ndarray, labels: np.ndarray, counts: np.ndarray,
    groups: dict[str, np.ndarray], coverage: float,
) -> dict[str, Any]:  # fmt: skip
    """Purity of the clusters at a fixed coverage, and the area under the curve of head against tail.

    Args:
      features: (n, D) test items; labels: (n,).
      counts: (C,) training items of each class.
      groups: many, medium, few -> mask over classes; head is many, tail is few.
      coverage: share of the items, those of the highest likelihood, that purity is measured on.

    Returns:
      purity (share of the covered items that are of their cluster's most frequent class there), tail_share (of the
      covered items), head_tail_auc (probability that an item of the tail has a higher likelihood than one of the
      head; None without either), mean_log_likelihood by group.
    """
    likelihood, cluster = batches.over_all(filters.score_all, fitted, features, np.arange(len(labels)))
    covered = np.argsort(-likelihood, kind="stable")[: max(1, round(coverage * len(labels)))]
    table = np.zeros((len(fitted.flow.centres), len(counts)))
    np.add.at(table, (cluster[covered], labels[covered]), 1)
    tail, head = groups["few"][labels], groups["many"][labels]
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
    """One line a feature set, best first."""
    width = max(len(name) for name in ranked)
    lines = [f"{'features':<{width}}{'head-tail AUC':>15}{'purity':>10}{'tail share':>12}"]
    for name, found in ranked.items():
        auc = "n/a" if found["head_tail_auc"] is None else f"{found['head_tail_auc']:.3f}"
        lines.append(f"{name:<{width}}{auc:>15}{found['purity']:>10.3f}{found['tail_share']:>12.3f}")
    return "\n".join(lines)
