"""The figures of a run: each a pure function of what the files hold, returning a matplotlib figure.

The numbers that a figure plots are its own functions, so that a test can compare them with the files.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

GROUPS = ("many", "medium", "few")

# One categorical slot per method, the same in every figure; a light and a dark step of each.
THEMES: dict[str, dict[str, Any]] = {
    "light": {
        "ink": "#1a1a19",
        "quiet": "#6b6a65",
        "grid": "#e4e3dd",
        "methods": ("#8a8984", "#eda100", "#2a78d6"),
    },
    "dark": {
        "ink": "#f2f1ec",
        "quiet": "#a3a29b",
        "grid": "#3a3936",
        "methods": ("#a3a29b", "#c98500", "#5598e7"),
    },
}
MARKERS = ("o", "^", "s")
_NAMES = {"cross_entropy": "cross-entropy", "bns_ipdpp": "BNS + IP-DPP", "dlsa": "DLSA"}


def methods(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> measures, in the order in which they stand beside each other: yardstick, probe, final."""
    found = {_NAMES.get(name, name.replace("_", " ")): x for name, x in (result["baseline"] or {}).items()}
    if result["probe"]:
        found["linear probe"] = result["probe"]["plain"]
    found[_NAMES.get(result["method"], result["method"])] = result["test"]
    return found


def class_counts(result: dict[str, Any], theme: str) -> Figure:
    """Training images of each class, largest first."""
    counts = np.sort(result["dataset"]["counts"])[::-1]
    figure, axes = _axes(theme)
    axes.bar(np.arange(len(counts)), counts, width=0.8, color=THEMES[theme]["methods"][-1])
    axes.set_xlabel("class, largest first")
    axes.set_ylabel("training images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(counts) <= 20:
        axes.bar_label(axes.containers[0], padding=2, fontsize=8, color=THEMES[theme]["quiet"])
    return figure


def accuracy_by_class_size(result: dict[str, Any], theme: str) -> Figure:
    """Test accuracy of each class against its number of training images; many classes are averaged in bins of ten."""
    figure, axes = _axes(theme)
    for slot, (name, found) in _slots(result):
        x, y = by_class_size(result["dataset"]["counts"], found["per_class"])
        axes.plot(x, y, marker=MARKERS[slot], markersize=5, color=THEMES[theme]["methods"][slot], label=name)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(top=1.02)
    _legend(axes, theme)
    return figure


def by_class_size(counts: list[int], per_class: list[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """(images, accuracy) of the classes, largest first, averaged in at most ten bins of neighbours."""
    known = [(c, a) for c, a in zip(counts, per_class, strict=True) if a is not None and c > 0]
    pairs = np.array(sorted(known, key=lambda pair: -pair[0]), float).reshape(-1, 2)
    bins = np.array_split(pairs, min(10, max(len(pairs), 1)))
    means = np.array([part.mean(axis=0) for part in bins if len(part)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def group_bars(result: dict[str, Any], theme: str) -> Figure:
    """Accuracy of the many-, medium- and few-shot classes, side by side; a group without classes says n/a."""
    figure, axes = _axes(theme)
    found = _slots(result)
    width = 0.8 / len(found)
    for place, (slot, (name, values)) in enumerate(found):
        offset = (place - (len(found) - 1) / 2) * width
        heights = [values[group] or 0.0 for group in GROUPS]
        bars = axes.bar(np.arange(3) + offset, heights, width * 0.92, label=name, color=THEMES[theme]["methods"][slot])
        texts = ["n/a" if values[group] is None else f"{100 * values[group]:.1f}" for group in GROUPS]
        axes.bar_label(bars, labels=texts, padding=2, fontsize=8, color=THEMES[theme]["ink"])
    sizes = result["dataset"]["groups"]
    axes.set_xticks(np.arange(3), [f"{group}\n{len(sizes[group])} classes" for group in GROUPS])
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.12)
    _legend(axes, theme, above=True)
    return figure


def training_curve(lines: list[dict[str, Any]], stage: str, keys: dict[str, str], theme: str) -> Figure:
    """Values of one stage's lines in metrics.jsonl over epochs; `keys` maps a key to its label."""
    figure, axes = _axes(theme)
    for slot, (key, label) in zip((2, 1, 0), keys.items(), strict=False):
        x, y = curve(lines, stage, key)
        axes.plot(x, y, color=THEMES[theme]["methods"][slot], label=label, linewidth=1.5)
    axes.set_xlabel("epoch")
    if len(keys) > 1:
        _legend(axes, theme)
    else:
        axes.set_ylabel(next(iter(keys.values())))
    return figure


def curve(lines: list[dict[str, Any]], stage: str, key: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of one key in one stage, missing values left out."""
    pairs = [(x["epoch"], x[key]) for x in lines if x.get("stage") == stage and x.get(key) is not None]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def _slots(result):
    """(slot, (name, measures)) of at most three methods: plain, in between, and always last the final one."""
    found = methods(result)
    final = list(found)[-1]
    second = "balanced softmax" if "balanced softmax" in found else "linear probe"
    return [(slot, (n, found[n])) for slot, n in enumerate(("cross-entropy", second, final)) if n in found]


def _axes(theme):
    colors = THEMES[theme]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colors["quiet"])
    axes.tick_params(colors=colors["quiet"], labelsize=9)
    axes.xaxis.label.set_color(colors["ink"])
    axes.yaxis.label.set_color(colors["ink"])
    axes.grid(axis="y", color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes, theme, above=False):
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3} if above else {"loc": "best"}
    axes.legend(frameon=False, fontsize=9, labelcolor=THEMES[theme]["ink"], **place)
