"""The figures of a DLSA run, from `dlsa.json`: pure functions, like those of `figures`."""

from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from lt_jax.core import files
from lt_jax.report import figures, svg

GROUPS = figures.GROUPS


def read(workdir: epath.Path) -> dict[str, Any] | None:
    """`dlsa.json`, with `separability.json` under a key of its own where the stage has run."""
    found = files.read_json(workdir / "dlsa.json")
    ranked = files.read_json(workdir / "separability.json")
    return {**found, "separability": ranked} if found and ranked else found


def plan(found: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Figure]]]:
    """Name -> title, text, panels."""
    compared = {}
    if "separability" in found:
        text = (
            "The area under the curve of telling tail from head by likelihood (a half is chance), and the purity of "
            "the clusters; one row a feature set, best first."
        )
        compared["dlsa_separability"] = (
            "How well the features separate",
            text,
            {"": separability(found["separability"])},
        )
    names = {"balanced_softmax": "balanced softmax", "dlsa": "DLSA"}
    return {
        "dlsa_depths": (
            "Who is classified where",
            "Share of each group's test images that each depth takes; the rest goes to a plain classifier.",
            {"": depth_shares(found)},
        ),
        "dlsa_accuracy": (
            "Accuracy at each depth",
            "Of the test images that the depth classifies, by group.",
            {"": depth_accuracy(found)},
        ),
        "dlsa_clusters": (
            "Clusters of the flow",
            "Training images in each cluster, and the share of its most frequent class.",
            {"": clusters(found)},
        ),
        "dlsa_confusion": (
            "Head taken for tail, and tail for head",
            "Share of each group's test images, in per cent, that is given a class of each group.",
            {title: confusion(found["confusion"][name]) for name, title in names.items()},
        ),
        **compared,
    }


def shares(found: dict[str, Any]) -> np.ndarray:
    """(depths, groups): share of a group's test items that a depth classifies."""
    items = np.array([[row["groups"][g]["test_items"] for g in GROUPS] for row in found["depths"]], float)
    return items / np.maximum(items.sum(axis=0, keepdims=True), 1.0)


def depth_shares(found: dict[str, Any]) -> Figure:
    """Stacked bars, one a group."""
    figure, axes = svg.axes()
    table = shares(found)
    for row, part in enumerate(table):
        axes.bar(np.arange(3), part, 0.6, bottom=table[:row].sum(axis=0), label=_name(found, row), **_shade(found, row))
    axes.set_xticks(np.arange(3), GROUPS)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("test images")
    svg.legend(axes, above=True)
    return figure


def depth_accuracy(found: dict[str, Any]) -> Figure:
    """Bars of every depth for each group; a depth that takes none of a group has no bar."""
    figure, axes = svg.axes()
    rows = found["depths"]
    width = 0.8 / len(rows)
    for row in range(len(rows)):
        values = [rows[row]["groups"][g]["accuracy"] for g in GROUPS]
        place = np.arange(3) + (row - (len(rows) - 1) / 2) * width
        bars = axes.bar(place, [v or 0.0 for v in values], width * 0.92, label=_name(found, row), **_shade(found, row))
        texts = ["none" if v is None else f"{100 * v:.0f}" for v in values]
        axes.bar_label(bars, labels=texts, padding=2, fontsize=9, color=svg.LIGHT["ink"])
    axes.set_xticks(np.arange(3), GROUPS)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("test accuracy")
    svg.legend(axes, above=True)
    return figure


def clusters(found: dict[str, Any]) -> Figure:
    """Size against purity, one point a cluster."""
    figure, axes = svg.axes()
    fitted = [row for row in found["depths"] if "clusters" in row]
    for number, row in enumerate(fitted):
        x, y = row["clusters"]["size"], row["clusters"]["purity"]
        axes.plot(x, y, figures.MARKERS[number % 3], markersize=6, label=_name(found, number), **_shade(found, number))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("training images in the cluster")
    axes.set_ylabel("share of its largest class")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    svg.legend(axes, above=True)
    return figure


def confusion(table: list[list[float]]) -> Figure:
    """Three by three, rows the true group, columns the given one; what is off the diagonal is tinted."""
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
    axes.set_xlabel("given a class of")
    axes.set_ylabel("true class in")
    return figure


def separability(ranked: dict[str, dict[str, Any]]) -> Figure:
    """Two dots a feature set, the best on top: head-tail AUC and purity. No AUC, no dot."""
    figure, axes = svg.axes((6.4, 1.6 + 0.4 * len(ranked)))
    rows = np.arange(len(ranked))[::-1]
    kinds = {"head_tail_auc": ("head-tail AUC", "final"), "purity": ("purity of clusters", "plain")}
    for number, (key, (label, color)) in enumerate(kinds.items()):
        values = [np.nan if found[key] is None else found[key] for found in ranked.values()]
        axes.plot(values, rows, figures.MARKERS[number], color=svg.LIGHT[color], markersize=8, label=label)
    axes.axvline(0.5, color=svg.LIGHT["quiet"], linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.set_yticks(rows, list(ranked))
    svg.legend(axes, above=True)
    return figure


def _name(found, row):
    return f"depth {row + 1}" if "clusters" in found["depths"][row] else "the rest"


def _shade(found, row):
    """The first depth in full colour, each further one paler; the rest in the colour of the plain yardstick."""
    if "clusters" not in found["depths"][row]:
        return {"color": svg.LIGHT["plain"]}
    return {"color": svg.LIGHT["final"], "alpha": max(0.35, 1.0 - 0.35 * row)}
