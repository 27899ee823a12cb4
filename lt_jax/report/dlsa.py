"""The figures of a DLSA run, from `dlsa.json`: pure functions, like those of `figures`."""

from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lt_jax import files
from lt_jax.report import figures

GROUPS = figures.GROUPS


def read(workdir: epath.Path) -> dict[str, Any] | None:
    """`dlsa.json`, with `separability.json` under a key of its own where the stage has run."""
    found = files.read_json(workdir / "dlsa.json")
    ranked = files.read_json(workdir / "separability.json")
    return {**found, "separability": ranked} if found and ranked else found


def plan(found: dict[str, Any]) -> dict[str, Any]:
    """Name -> (title, text, theme -> figure)."""
    ranked = found.get("separability")
    compared = {
        "dlsa_separability": (
            "How well the features separate",
            "The area under the curve of telling tail from head by likelihood (a half is chance), and the purity of "
            "the clusters; one row a feature set, best first.",
            lambda theme: separability(ranked, theme),
        )
    }
    return {
        "dlsa_depths": (
            "Who is classified where",
            "Share of each group's test images that each depth takes; the last one is the plain classifier.",
            lambda theme: depth_shares(found, theme),
        ),
        "dlsa_accuracy": (
            "Accuracy at each depth",
            "Of the test images that the depth classifies, by group.",
            lambda theme: depth_accuracy(found, theme),
        ),
        "dlsa_clusters": (
            "Clusters of the flow",
            "Training images in each cluster, and the share of its most frequent class.",
            lambda theme: clusters(found, theme),
        ),
        "dlsa_confusion": (
            "Head taken for tail, and tail for head",
            "Share of each group's test images that is given a class of each group: balanced softmax and DLSA.",
            lambda theme: confusion(found, theme),
        ),
        **(compared if ranked else {}),
    }


def shares(found: dict[str, Any]) -> np.ndarray:
    """(depths, groups): share of a group's test items that a depth classifies."""
    items = np.array([[row["groups"][g]["test_items"] for g in GROUPS] for row in found["depths"]], float)
    return items / np.maximum(items.sum(axis=0, keepdims=True), 1.0)


def depth_shares(found: dict[str, Any], theme: str) -> Figure:
    """Stacked bars, one a group."""
    figure, axes = figures._axes(theme)
    table = shares(found)
    for row, (color, part) in enumerate(zip(_ramp(theme, len(table)), table, strict=True)):
        axes.bar(np.arange(3), part, 0.6, bottom=table[:row].sum(axis=0), color=color, label=_name(found, row))
    axes.set_xticks(np.arange(3), GROUPS)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("test images")
    figures._legend(axes, theme, above=True)
    return figure


def depth_accuracy(found: dict[str, Any], theme: str) -> Figure:
    """Bars of every depth for each group; a depth that takes none of a group has no bar."""
    figure, axes = figures._axes(theme)
    rows = found["depths"]
    width = 0.8 / len(rows)
    for row, color in enumerate(_ramp(theme, len(rows))):
        values = [rows[row]["groups"][g]["accuracy"] for g in GROUPS]
        place = np.arange(3) + (row - (len(rows) - 1) / 2) * width
        bars = axes.bar(place, [v or 0.0 for v in values], width * 0.92, color=color, label=_name(found, row))
        texts = ["none" if v is None else f"{100 * v:.0f}" for v in values]
        axes.bar_label(bars, labels=texts, padding=2, fontsize=8, color=figures.THEMES[theme]["ink"])
    axes.set_xticks(np.arange(3), GROUPS)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("test accuracy")
    figures._legend(axes, theme, above=True)
    return figure


def clusters(found: dict[str, Any], theme: str) -> Figure:
    """Size against purity, one point a cluster."""
    figure, axes = figures._axes(theme)
    fitted = [row for row in found["depths"] if "clusters" in row]
    for number, (row, color) in enumerate(zip(fitted, _ramp(theme, len(found["depths"])), strict=False)):
        x, y = row["clusters"]["size"], row["clusters"]["purity"]
        axes.plot(x, y, figures.MARKERS[number % 3], color=color, markersize=6, alpha=0.8, label=_name(found, number))
    axes.set_xscale("log")
    axes.set_xlabel("training images in the cluster")
    axes.set_ylabel("share of its largest class")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figures._legend(axes, theme)
    return figure


def confusion(found: dict[str, Any], theme: str) -> Figure:
    """Two tables of three by three, rows the true group, columns the given one."""
    colors = figures.THEMES[theme]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    figure.patch.set_alpha(0.0)
    names = {"balanced_softmax": "balanced softmax", "dlsa": "DLSA"}
    for axes, (name, title) in zip(figure.subplots(1, 2), names.items(), strict=True):
        table = np.array(found["confusion"][name])
        axes.patch.set_alpha(0.0)
        axes.imshow(np.where(np.eye(3, dtype=bool), np.nan, table), cmap=_wash(theme), vmin=0, vmax=0.3)
        for (row, column), value in np.ndenumerate(table):
            axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=colors["ink"], fontsize=10)
        axes.set_title(title, fontsize=10, color=colors["ink"])
        axes.set_xticks(range(3), GROUPS)
        axes.set_yticks(range(3), GROUPS)
        axes.tick_params(colors=colors["quiet"], length=0, labelsize=9)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("given a class of", color=colors["ink"], fontsize=9)
    figure.axes[0].set_ylabel("true class in", color=colors["ink"], fontsize=9)
    return figure


def separability(ranked: dict[str, dict[str, Any]], theme: str) -> Figure:
    """Two dots a feature set, the best on top: head-tail AUC and purity. No AUC, no dot."""
    figure, axes = figures._axes(theme)
    rows = np.arange(len(ranked))[::-1]
    names = {"head_tail_auc": "head-tail AUC", "purity": "purity of clusters"}
    for number, (key, label) in enumerate(names.items()):
        values = [np.nan if found[key] is None else found[key] for found in ranked.values()]
        color = figures.THEMES[theme]["methods"][2 * number]
        axes.plot(values, rows, figures.MARKERS[number], color=color, markersize=8, linestyle="none", label=label)
    axes.axvline(0.5, color=figures.THEMES[theme]["quiet"], linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.set_yticks(rows, list(ranked))
    figures._legend(axes, theme, above=True)
    return figure


def _name(found, row):
    return f"depth {row + 1}" if "clusters" in found["depths"][row] else "the rest"


def _ramp(theme, count):
    """From the accent to the quiet colour."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = figures.THEMES[theme]["methods"]
    return LinearSegmentedColormap.from_list("depths", [colors[2], colors[0]])(np.linspace(0, 1, max(count, 2)))


def _wash(theme):
    from matplotlib.colors import LinearSegmentedColormap

    transparent = figures.THEMES[theme]["methods"][1] + "00"
    return LinearSegmentedColormap.from_list("wash", [transparent, figures.THEMES[theme]["methods"][1] + "cc"])
