"""Figures of the subsets that IP-DPP selected, and a gallery of selected and unselected images."""

import base64
import html
import io
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, StrMethodFormatter
from PIL import Image

from lt_jax.report import figures, svg

_LEAST_BITS = 1e-4  # smallest information on the logarithmic axis
_DOTS = 150  # images of a class in one figure, evenly spaced by p
ROUNDS = 10  # draws that the histogram pools


def bits(log_p: np.ndarray) -> np.ndarray:
    """Information -log2 p, in bits, from log p."""
    return -log_p / math.log(2)


def histogram(rounds: list[dict[str, np.ndarray]], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Distributions of information: of the kept images, the others, and the expected result of a uniform choice.

    Each sums to one. Only classes with more than k images count, since smaller ones are kept whole. A class has the
    same weight in all three, so that they differ only by the choice. All draws are pooled.

    Args:
      rounds: the contents of the files in subsets/.
      labels: (N,) of all training images.

    Returns:
      edges (b + 1,), kept, left, uniform (b,), means (3,) in bits.
    """
    counts = np.bincount(labels)
    values: list[np.ndarray] = []
    are_kept: list[np.ndarray] = []
    left: list[np.ndarray] = []
    even: list[np.ndarray] = []
    for drawn in rounds:
        k = int(drawn["k"])
        cut = (counts > k)[labels]
        chosen = np.zeros(len(labels), bool)
        chosen[drawn["indices"]] = True
        values.append(bits(drawn["log_p"])[cut])
        are_kept.append(chosen[cut].astype(float))
        left.append((~chosen * k / np.maximum(counts[labels] - k, 1))[cut])
        even.append((k / counts[labels])[cut])
    value, keep, leave, uniform = (np.concatenate(x) for x in (values, are_kept, left, even))
    shown = np.maximum(value, _LEAST_BITS)
    edges = np.geomspace(shown.min() * 0.999, max(shown.max() * 1.001, shown.min() * 1.1), 25)
    shares = {"edges": edges}
    means = []
    for name, weights in (("kept", keep), ("left", leave), ("uniform", uniform)):
        shares[name] = np.histogram(shown, edges, weights=weights)[0] / max(weights.sum(), 1e-9)
        means.append((value * weights).sum() / max(weights.sum(), 1e-9))
    return {**shares, "means": np.array(means)}


def histogram_figure(shares: dict[str, np.ndarray]) -> Figure:
    """Histogram of information: kept images filled, the others as outline, a uniform choice dashed."""
    figure, axes = svg.axes()
    edges = shares["edges"]
    mean_kept, mean_left, mean_uniform = shares["means"]
    axes.stairs(
        shares["kept"], edges, fill=True, alpha=0.55, color=svg.LIGHT["final"], label=f"kept: mean {_bits(mean_kept)}"
    )
    axes.stairs(shares["left"], edges, color=svg.LIGHT["plain"], linewidth=1.8, label=f"left: mean {_bits(mean_left)}")
    axes.stairs(
        shares["uniform"], edges, color=svg.LIGHT["ink"], linewidth=1.3, linestyle=(0, (4, 2)),
        label=f"kept by a uniform choice: mean {_bits(mean_uniform)}",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("information of the image, in bits: easy to hard")
    axes.set_ylabel("share of images")
    svg.legend(axes, above=True, columns=1)
    return figure


def _bits(value: float) -> str:
    return f"{value:.3g} bits"


def inclusion_figure(chances: dict[str, np.ndarray], result: dict[str, Any]) -> Figure:
    """Inclusion probability against p of the true class; dashed lines are the uniform chance k / N of each class."""
    figure, axes = svg.axes()
    names = class_names(result)
    groups = figures.group_of(result)
    counts = np.bincount(chances["labels"], minlength=len(names))
    classes = [c for c in np.argsort(-counts, kind="stable") if counts[c] > chances["k"]]
    classes = [c for c in classes if np.isfinite(chances["inclusion"][chances["labels"] == c]).any()]
    for c in classes:
        members = np.flatnonzero(chances["labels"] == c)
        members = members[np.argsort(chances["log_p"][members], kind="stable")]
        members = members[np.unique(np.linspace(0, len(members) - 1, _DOTS).round().astype(int))]
        p = np.clip(np.exp(chances["log_p"][members].astype(float)), 1e-4, 1 - 1e-6)
        axes.plot(p, chances["inclusion"][members], ".", markersize=4, color=svg.LIGHT[groups[c]])
    axes.set_xscale("logit")
    axes.set_xlim(*axes.get_xlim())
    axes.set_xticks(_ticks(*axes.get_xlim()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("p of the true class: hard to easy")
    axes.set_ylabel("chance to be kept")
    axes.set_ylim(bottom=0)
    evens = [
        (chances["k"] / counts[c], f"{names[c]}: {chances['k']} of {counts[c]}", svg.LIGHT[groups[c]]) for c in classes
    ]
    _even_chances(axes, evens)
    return figure


def _ticks(low: float, high: float) -> list[Any]:
    """Ticks of the logit axis between low and high, few enough that the labels fit."""
    decades = np.log10(high / (1 - high)) - np.log10(low / (1 - low))
    if decades < 2:
        ticks = (0.01, 0.02, 0.05, *np.arange(1, 10) / 10, 0.95, 0.98, 0.99)
    elif decades < 5:
        ticks = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
    else:
        ticks = (1e-4, 0.01, 0.5, 0.99, 0.9999, 0.999999)
    return [x for x in ticks if low <= x <= high]


def _even_chances(axes: Any, evens: list[Any]) -> None:
    """Draws a dashed line for each class with its name at the right; names that would overlap are moved apart."""
    top = axes.get_ylim()[1]
    below = np.inf
    for chance, name, color in sorted(evens, reverse=True):
        axes.axhline(chance, color=color, linewidth=1, linestyle=(0, (4, 2)))
        below = min(chance, below - 0.07 * top)
        axes.annotate(
            name, (1, below), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            fontsize=8.5, color=color, va="center", annotation_clip=False,
        )  # fmt: skip


def class_names(result: dict[str, Any]) -> list[str]:
    data = result["dataset"]
    return [str(x) for x in data.get("class_names") or range(data["num_classes"])]


def gallery(thumbnails: dict[str, np.ndarray], kept_counts: np.ndarray, result: dict[str, Any]) -> str:
    """HTML table with the kept and the other images of each class, hardest first.

    Args:
      thumbnails: the content of thumbnails.npz.
      kept_counts: (C,) number of kept images of each class.
    """
    names = class_names(result)
    groups = figures.group_of(result)
    counts = result["dataset"]["counts"]
    rows = []
    for c in dict.fromkeys(thumbnails["labels"].tolist()):
        mine = thumbnails["labels"] == c
        strips = [_strip(thumbnails, mine & thumbnails["chosen"], "kept", names[c])]
        if (mine & ~thumbnails["chosen"]).any():
            strips.append(_strip(thumbnails, mine & ~thumbnails["chosen"], "left", names[c]))
        else:
            strips.append('<p class="whole">nothing: kept whole</p>')
        cells = "".join(f"<td>{strip}</td>" for strip in strips)
        rows.append(
            f'<tr><th scope="row"><span class="dot {groups[c]}" role="img" aria-label="{groups[c]}"></span>'
            f"{html.escape(names[c])}"
            f"<small>{kept_counts[c]} of {counts[c]}</small></th>{cells}</tr>"
        )
    head = '<thead><tr><th scope="col">class</th><th scope="col">kept</th><th scope="col">left</th></tr></thead>'
    return f'<table class="gallery">{head}<tbody>{"".join(rows)}</tbody></table>'


def _strip(thumbnails: dict[str, Any], mask: np.ndarray, kind: str, name: str) -> str:
    images = "".join(
        f'<img alt="" title="{bits(thumbnails["log_p"][i]):.3g} bits" src="{_source(thumbnails["images"][i])}">'
        for i in np.flatnonzero(mask)
    )
    description = f"{int(mask.sum())} images of class {name} that were {kind}, the hardest first"
    return f'<div class="strip {kind}" role="img" aria-label="{html.escape(description, quote=True)}">{images}</div>'


def _source(pixels: np.ndarray) -> str:
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    kind = "webp" if max(picture.size) > 16 else "png"  # lossy compression would spoil tiny images
    picture.save(buffer, kind.upper(), **({"quality": 80} if kind == "webp" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
