"""Figures of the answers on the test set: who is taken for whom, and what a confidence is worth."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from lt_jax import metrics
from lt_jax.report import figures, svg

_BINS = 10
_FEWEST = 5  # images of a bin of confidence, below which its accuracy is chance


def answers(predictions: dict[str, np.ndarray], result: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of the method -> its labels (n,) and how sure it is of them (n,): the yardstick, if there is one, and ours.

    Args:
      predictions: what predictions.npz holds.
    """
    found = {}
    if "baseline_predicted" in predictions:
        yardstick = next(iter(figures.methods(result)))
        found[yardstick] = (predictions["baseline_predicted"], predictions["baseline_confidence"])
    logits = predictions["logits"]
    found[figures.final_name(result)] = (logits.argmax(axis=1), metrics.confidences(logits))
    return found


def bins_of_classes(counts: list[int]) -> tuple[np.ndarray, list[str]]:
    """(bin of each class, names of the bins): at most ten bins of classes of like size, the largest first."""
    order = np.argsort(-np.array(counts), kind="stable")
    parts = np.array_split(order, min(_BINS, len(order)))
    which = np.empty(len(order), int)
    names = []
    for number, part in enumerate(parts):
        which[part] = number
        largest, smallest = counts[part[0]], counts[part[-1]]
        names.append(f"{largest}" if largest == smallest else f"{largest}–{smallest}")
    return which, names


def confusion(labels: np.ndarray, predicted: np.ndarray, which: np.ndarray) -> np.ndarray:
    """(bins, bins): share of the test images of each bin of classes (rows) that is given a class of each (columns).

    A right answer counts on the diagonal, and so does a wrong class of the same bin.
    """
    size = which.max() + 1
    table = np.zeros((size, size))
    np.add.at(table, (which[labels], which[predicted]), 1)
    return table / np.maximum(table.sum(axis=1, keepdims=True), 1)


def confusion_figure(table: np.ndarray, names: list[str], color: str) -> Figure:
    """Rows the true bin, columns the given one; the darker, the more."""
    figure, axes = svg.axes((4.4, 4.2), grid="")
    size = len(table)
    for (row, column), value in np.ndenumerate(table):
        if value > 0.0005:
            box = Rectangle((column - 0.5, row - 0.5), 1, 1, color=svg.LIGHT[color], alpha=min(1, value**0.6))
            axes.add_patch(box)
        if value >= 0.005 and size <= 10:
            ink = "page" if value > 0.5 else "ink"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5, color=svg.LIGHT[ink])
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_aspect("equal")
    turn = {"rotation": 90} if any("–" in name for name in names) else {}
    axes.set_xticks(range(size), names, **turn)
    axes.set_yticks(range(size), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("training images of the class it is given")
    axes.set_ylabel("training images of the true class")
    return figure


def reliability(labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, ...]:
    """(mean confidence, accuracy, images) of each of ten equal bins of confidence that holds enough images."""
    which = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    images = np.bincount(which, minlength=_BINS)
    kept = images >= _FEWEST
    sums = [np.bincount(which, weights=x, minlength=_BINS)[kept] for x in (confidence, predicted == labels)]
    return sums[0] / images[kept], sums[1] / images[kept], images[kept]


def reliability_figure(labels: np.ndarray, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy against confidence; on the diagonal the two agree. The larger a point, the more images."""
    figure, axes = svg.axes(grid="both")
    axes.plot([0, 1], [0, 1], color=svg.LIGHT["ink"], linewidth=1, linestyle=(0, (4, 3)), label="ideal")
    names = list(found)
    for name, (predicted, confidence) in found.items():
        slot = 2 if name == names[-1] else 0
        x, y, images = reliability(labels, predicted, confidence)
        color = svg.LIGHT[figures.SLOTS[slot]]
        axes.plot(x, y, color=color, linewidth=1.4, label=name)
        axes.scatter(x, y, s=12 + 130 * images / images.sum(), color=color, marker=figures.MARKERS[slot], zorder=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("how sure the classifier says it is")
    axes.set_ylabel("how often it is right")
    svg.legend(axes, above=True)
    return figure
