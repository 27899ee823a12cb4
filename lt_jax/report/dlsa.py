"""Figures of a DLSA run, drawn from `dlsa.json` by pure functions."""

from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from lt_jax.core import files
from lt_jax.report import figures, svg

GROUPS = figures.GROUPS


def read(workdir: epath.Path) -> dict[str, Any] | None:
    """The content of `dlsa.json`, with `separability.json` under the key "separability" if that stage has run."""
    divided = files.read_json(workdir / "dlsa.json")
    ranked = files.read_json(workdir / "separability.json")
    return {**divided, "separability": ranked} if divided and ranked else divided


def plan(divided: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Figure]]]:
    """Name of the exhibit -> title, text, panels."""
    compared = {}
    if "separability" in divided:
        text = (
            "Area under the ROC curve of tail against head by likelihood (0.5 is chance), and purity of the clusters; "
            "one row per feature set, best first."
        )
        compared["dlsa_separability"] = (
            "How well the features separate",
            text,
            {"": separability(divided["separability"])},
        )
    flows = {}
    if any("clusters" in row for row in divided["depths"]):
        text = "Training images in each cluster, and the share of its most frequent class."
        flows["dlsa_clusters"] = ("Clusters of the flow", text, {"": clusters(divided)})
    names = {name: divided["methods"][name]["title"] for name in ("balanced_softmax", "dlsa")}
    return {
        "dlsa_depths": (
            "Which depth classifies which group",
            "Share of each group's test images that each depth takes; a plain classifier takes the rest.",
            {"": depth_shares(divided)},
        ),
        "dlsa_accuracy": (
            "Accuracy at each depth",
            "Of the test images that the depth classifies, by group.",
            {"": depth_accuracy(divided)},
        ),
        **flows,
        "dlsa_confusion": (
            "Head taken for tail, and tail for head",
            "Share of each group's test images, in per cent, predicted as a class of each group.",
            {title: confusion(divided["confusion"][name]) for name, title in names.items()},
        ),
        **compared,
    }


def shares(divided: dict[str, Any]) -> np.ndarray:
    """Share of each group's test items that each depth classifies, (depths, groups)."""
    items = np.array([[row["groups"][g]["test_items"] for g in GROUPS] for row in divided["depths"]], float)
    return items / np.maximum(items.sum(axis=0, keepdims=True), 1.0)


def depth_shares(divided: dict[str, Any]) -> Figure:
    """Stacked bars, one per group: the share of test images that each depth classifies."""
    figure, axes = svg.axes()
    table = shares(divided)
    for row, part in enumerate(table):
        axes.bar(
            np.arange(3), part, 0.6, bottom=table[:row].sum(axis=0), label=_name(divided, row), **_shade(divided, row)
        )
    axes.set_xticks(np.arange(3), GROUPS)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("test images")
    svg.legend(axes, above=True)
    return figure


def depth_accuracy(divided: dict[str, Any]) -> Figure:
    """Accuracy of every depth for each group; no bar where a depth classifies no image of the group."""
    figure, axes = svg.axes()
    rows = divided["depths"]
    width = 0.8 / len(rows)
    for row in range(len(rows)):
        values = [rows[row]["groups"][g]["accuracy"] for g in GROUPS]
        x_positions = np.arange(3) + (row - (len(rows) - 1) / 2) * width
        heights = [v or 0.0 for v in values]
        bars = axes.bar(x_positions, heights, width * 0.92, label=_name(divided, row), **_shade(divided, row))
        texts = ["none" if v is None else f"{100 * v:.0f}" for v in values]
        axes.bar_label(bars, labels=texts, padding=2, fontsize=9, color=svg.LIGHT["ink"])
    axes.set_xticks(np.arange(3), GROUPS)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("test accuracy")
    svg.legend(axes, above=True)
    return figure


def clusters(divided: dict[str, Any]) -> Figure:
    """Purity against size, one point per cluster."""
    figure, axes = svg.axes()
    fitted = [row for row in divided["depths"] if "clusters" in row]
    for number, row in enumerate(fitted):
        sizes = row["clusters"]["size"]
        purities = row["clusters"]["purity"]
        axes.plot(
            sizes, purities, figures.MARKERS[number % 3], markersize=6, label=_name(divided, number),
            **_shade(divided, number),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images in the cluster")
    axes.set_ylabel("share of its largest class")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    svg.legend(axes, above=True)
    return figure


def confusion(table: list[list[float]]) -> Figure:
    """3 x 3 confusion matrix: rows are true groups, columns predicted groups; off-diagonal cells are tinted."""
    figure, axes = svg.axes((4.4, 3.0), grid="")
    for (row, column), value in np.ndenumerate(np.array(table)):
        if row != column:
            tint = {"color": svg.LIGHT["few"], "alpha": min(0.7, 2.5 * value), "linewidth": 0}
            axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, **tint))
        axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=svg.LIGHT["ink"], fontsize=10)
    axes.set_xlim(-0.5, 2.5)
    axes.set_ylim(2.5, -0.5)
    axes.set_xticks(range(3), GROUPS)
    axes.set_yticks(range(3), GROUPS)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class in")
    axes.set_ylabel("true class in")
    return figure


def separability(ranked: dict[str, dict[str, Any]]) -> Figure:
    """Head-tail AUC and purity of each feature set, the best on top; a missing AUC has no dot."""
    figure, axes = svg.axes((6.4, 1.6 + 0.4 * len(ranked)))
    rows = np.arange(len(ranked))[::-1]
    kinds = {"head_tail_auc": ("head-tail AUC", "final"), "purity": ("purity of clusters", "plain")}
    for number, (key, (label, color)) in enumerate(kinds.items()):
        values = [np.nan if measures[key] is None else measures[key] for measures in ranked.values()]
        axes.plot(values, rows, figures.MARKERS[number], color=svg.LIGHT[color], markersize=8, label=label)
    axes.axvline(0.5, color=svg.LIGHT["quiet"], linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.set_yticks(rows, list(ranked))
    svg.legend(axes, above=True)
    return figure


def _name(divided: dict[str, Any], row: int) -> str:
    return f"depth {row + 1}" if "clusters" in divided["depths"][row] else "the rest"


def _shade(divided: dict[str, Any], row: int) -> dict[str, Any]:
    """The first depth has the full colour, deeper ones are paler; undivided images have the baseline's colour."""
    if "clusters" not in divided["depths"][row]:
        return {"color": svg.LIGHT["plain"]}
    return {"color": svg.LIGHT["final"], "alpha": max(0.35, 1.0 - 0.35 * row)}
