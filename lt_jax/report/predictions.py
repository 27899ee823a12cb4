"""Figures of the predictions on the test set: the confusion matrix and the reliability diagram."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from lt_jax import metrics
from lt_jax.report import figures, svg

_BINS = 10
_FEWEST = 5  # a confidence bin with fewer images is left out: its accuracy would be chance


def by_method(predictions: dict[str, np.ndarray], result: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of the method -> predicted labels (n,) and their confidence (n,), for the baseline (if any) and the final.

    Args:
      predictions: the content of predictions.npz.
    """
    predicted = {}
    if "baseline_predicted" in predictions:
        baseline = result["methods"][next(iter(result["baseline"]))]["title"]
        predicted[baseline] = (predictions["baseline_predicted"], predictions["baseline_confidence"])
    logits = predictions["logits"]
    predicted[figures.final_name(result)] = (logits.argmax(axis=1), metrics.confidences(logits))
    return predicted


def bins_of_classes(counts: list[int]) -> tuple[np.ndarray, list[str]]:
    """(bin of each class, names of the bins): at most ten bins of classes of similar size, largest first."""
    order = np.argsort(-np.array(counts), kind="stable")
    parts = np.array_split(order, min(_BINS, len(order)))
    which = np.empty(len(order), int)
    names = []
    for number, part in enumerate(parts):
        which[part] = number
        largest = counts[part[0]]
        smallest = counts[part[-1]]
        names.append(f"{largest}" if largest == smallest else f"{largest}–{smallest}")
    return which, names


def confusion(labels: np.ndarray, predicted: np.ndarray, which: np.ndarray) -> np.ndarray:
    """(bins, bins): share of the test images of each class bin (rows) predicted as each class bin (columns).

    Correct predictions and wrong classes of the same bin both count on the diagonal.
    """
    size = which.max() + 1
    table = np.zeros((size, size))
    np.add.at(table, (which[labels], which[predicted]), 1)
    return table / np.maximum(table.sum(axis=1, keepdims=True), 1)


def confusion_figure(table: np.ndarray, names: list[str], color: str) -> Figure:
    """Confusion matrix: rows are true bins, columns predicted bins; darker means more images."""
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
    axes.set_xlabel("training images of the predicted class")
    axes.set_ylabel("training images of the true class")
    return figure


def reliability(labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, ...]:
    """(mean confidence, accuracy, images) of each of ten equal confidence bins that has enough images."""
    which = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    images = np.bincount(which, minlength=_BINS)
    has_enough = images >= _FEWEST
    sums = [np.bincount(which, weights=x, minlength=_BINS)[has_enough] for x in (confidence, predicted == labels)]
    return sums[0] / images[has_enough], sums[1] / images[has_enough], images[has_enough]


def reliability_figure(labels: np.ndarray, by_method: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Reliability diagram: accuracy against confidence, equal on the diagonal; larger points hold more images."""
    figure, axes = svg.axes(grid="both")
    axes.plot([0, 1], [0, 1], color=svg.LIGHT["ink"], linewidth=1, linestyle=(0, (4, 3)), label="ideal")
    names = list(by_method)
    for name, (predicted, confidence) in by_method.items():
        slot = 2 if name == names[-1] else 0
        x, y, images = reliability(labels, predicted, confidence)
        color = svg.LIGHT[figures.SLOTS[slot]]
        axes.plot(x, y, color=color, linewidth=1.4, label=name)
        axes.scatter(x, y, s=12 + 130 * images / images.sum(), color=color, marker=figures.MARKERS[slot], zorder=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    svg.legend(axes, above=True)
    return figure
