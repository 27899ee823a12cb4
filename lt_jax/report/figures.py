"""Figures of a run: pure functions from the content of its files to matplotlib figures.

The plotted numbers are computed by separate functions, so that tests can compare them with the files.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from lt_jax.report import svg

GROUPS = ("many", "medium", "few")
SLOTS = ("plain", "probe", "final")  # each method has the same colour and marker in every figure
MARKERS = ("o", "^", "s")
_BARS = 60  # maximum number of bars in a figure
_POINTS = 300  # maximum number of points in an outline


def methods(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Title -> test measures, in display order: baselines, linear probe, the method that is handed out."""
    last = selected(result)
    names = [name for name in (*(result["baseline"] or {}), "linear_probe") if name != last] + [last]
    return {x["title"]: x["test"] for name in names if (x := result["methods"].get(name)) is not None}


def every_method(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Title -> test measures of all methods of the run, the final one last."""
    names = sorted(result["methods"], key=lambda name: name == result["final"])
    return {result["methods"][name]["title"]: result["methods"][name]["test"] for name in names}


def selected(result: dict[str, Any]) -> str:
    """Name of the method that the run hands out: the best on validation images, or the final one without them."""
    return result.get("selected") or result["final"]


def final_name(result: dict[str, Any]) -> str:
    """Title of the final method."""
    return result["methods"][result["final"]]["title"]


def group_of(result: dict[str, Any]) -> list[str]:
    """The group of each class."""
    group_by_class = {c: name for name, classes in result["dataset"]["groups"].items() for c in classes}
    return [group_by_class[c] for c in range(result["dataset"]["num_classes"])]


def class_counts(result: dict[str, Any]) -> Figure:
    """Bar chart of the training images of each class, largest first."""
    counts = np.array(result["dataset"]["counts"])
    order = np.argsort(-counts, kind="stable")
    groups = group_of(result)
    figure, axes = svg.axes()
    if len(counts) <= _BARS:
        axes.bar(np.arange(len(counts)), counts[order], width=0.8, color=[svg.LIGHT[groups[c]] for c in order])
    else:
        _outline(axes, counts[order], [groups[c] for c in order])
    axes.set_xlabel("class, largest first")
    axes.set_ylabel("training images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(counts) <= 20:
        axes.bar_label(axes.containers[0], padding=2, fontsize=9, color=svg.LIGHT["quiet"])
        names = [str(result["dataset"].get("class_names", range(len(counts)))[c]) for c in order]
        turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 4 else {}
        axes.set_xticks(np.arange(len(counts)), [name[:14] for name in names], **turned)
    sizes = result["dataset"]["groups"]
    shown = [Patch(color=svg.LIGHT[name], label=f"{name}-shot: {len(sizes[name])}") for name in GROUPS if sizes[name]]
    svg.legend(axes, handles=shown, loc="upper right")
    return figure


def _outline(axes: Any, heights: np.ndarray, groups: list[Any]) -> None:
    """Draws a filled outline, since thousands of bars would be thousands of shapes on the page."""
    at = np.unique(np.linspace(0, len(heights) - 1, _POINTS).round().astype(int))
    for name in GROUPS:
        mine = at[np.array([groups[x] == name for x in at])]
        if len(mine):
            axes.fill_between(
                [*mine, mine[-1] + 1],
                [*heights[mine], heights[mine[-1]]],
                step="post",
                color=svg.LIGHT[name],
                linewidth=0,
            )


def accuracy_by_class_size(result: dict[str, Any]) -> Figure:
    """Test accuracy of each class against its number of training images; at most ten bins."""
    figure, axes = svg.axes()
    for slot, (name, measures) in slots(result):
        x, y = by_class_size(result["dataset"]["counts"], measures["per_class"])
        color = svg.LIGHT[SLOTS[slot]]
        axes.plot(x, y, marker=MARKERS[slot], markersize=4.5, linewidth=1.6, color=color, label=name)
    by_size_axis(axes)
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(top=1.02)
    svg.legend(axes, above=True)
    return figure


def by_size_axis(axes: Any) -> None:
    """Makes the x axis a logarithmic class size, with the largest classes on the left."""
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images of the class")


def by_class_size(counts: list[int], per_class: list[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """(images, accuracy) of the classes, largest first, averaged over at most ten bins of similar size."""
    known = [(c, a) for c, a in zip(counts, per_class, strict=True) if a is not None and c > 0]
    pairs = np.array(sorted(known, key=lambda pair: -pair[0]), float).reshape(-1, 2)
    bins = np.array_split(pairs, min(10, max(len(pairs), 1)))
    means = np.array([part.mean(axis=0) for part in bins if len(part)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def group_bars(result: dict[str, Any]) -> Figure:
    """Accuracy of the many-, medium- and few-shot classes, side by side; an empty group is labelled n/a."""
    figure, axes = svg.axes()
    shown = slots(result)
    width = 0.84 / len(shown)
    for position, (slot, (name, values)) in enumerate(shown):
        offset = (position - (len(shown) - 1) / 2) * width
        heights = [values[group] or 0.0 for group in GROUPS]
        bars = axes.bar(np.arange(3) + offset, heights, width * 0.92, label=name, color=svg.LIGHT[SLOTS[slot]])
        texts = ["n/a" if values[group] is None else f"{100 * values[group]:.0f}" for group in GROUPS]
        axes.bar_label(bars, labels=texts, padding=2, fontsize=9, color=svg.LIGHT["ink"])
    sizes = result["dataset"]["groups"]
    axes.set_xticks(np.arange(3), [f"{g}-shot\n{_classes(len(sizes[g]))}" for g in GROUPS])
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_ylim(0, 1.1)
    svg.legend(axes, above=True)
    return figure


def all_methods(result: dict[str, Any]) -> Figure:
    """Accuracy of every method, a row each: overall and of each group that has classes. The best overall is on top."""
    by_method = every_method(result)
    titles = sorted(by_method, key=lambda title: by_method[title]["overall"])
    figure, axes = svg.axes((4.4, 1.6 + 0.28 * len(titles)), grid="x")
    for marker, key in zip(("D", *MARKERS), ("overall", *GROUPS), strict=True):
        points = [(by_method[title][key], row) for row, title in enumerate(titles) if by_method[title][key] is not None]
        if points:
            color = svg.LIGHT["ink" if key == "overall" else key]
            axes.plot(*zip(*points, strict=True), marker, markersize=5.5, color=color, label=key)
    axes.set_yticks(range(len(titles)), [_shortened(title) for title in titles])
    axes.set_ylim(-0.6, len(titles) - 0.4)
    axes.set_xlabel("test accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    svg.legend(axes, above=True, columns=4)
    return figure


def _shortened(title: str) -> str:
    return title if len(title) <= 26 else title[:25] + "…"


def _classes(number: int) -> str:
    return "1 class" if number == 1 else f"{number} classes"


def training_curve(lines: list[dict[str, Any]], stage: str, keys: dict[str, str]) -> Figure:
    """Values of one stage in metrics.jsonl over epochs; `keys` maps a key to its label."""
    figure, axes = svg.axes()
    for color, (key, label) in zip(("final", "ink"), keys.items(), strict=False):
        x, y = curve(lines, stage, key)
        axes.plot(x, y, color=svg.LIGHT[color], label=label, linewidth=1.5)
    axes.set_xlabel("epoch")
    if len(keys) > 1:
        svg.legend(axes, above=True)
    else:
        axes.set_ylabel(next(iter(keys.values())))
    return figure


def curve(lines: list[dict[str, Any]], stage: str, key: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of one key of one stage, without missing values."""
    pairs = [(x["epoch"], x[key]) for x in lines if x.get("stage") == stage and x.get(key) is not None]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def slots(result: dict[str, Any]) -> list[tuple[int, tuple[str, dict[str, Any]]]]:
    """(slot, (title, measures)) of at most three methods: the first, an intermediate one, and the final one last.

    The intermediate one is the last that is neither: the linear probe, or in a DLSA run a plain classifier.
    """
    by_method = methods(result)
    titles = list(by_method)
    between = titles[1:-1]
    if result["method"] == "dlsa":
        between = [title for title in between if title == result["methods"]["balanced_softmax"]["title"]]
    shown = dict.fromkeys([(0, titles[0]), *((1, title) for title in between[-1:]), (2, titles[-1])])
    if len(titles) == 1:
        shown = {(2, titles[0]): None}
    return [(slot, (title, by_method[title])) for slot, title in shown]
