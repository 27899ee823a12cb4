"""What IP-DPP kept and left: figures of a run's subsets, and the images themselves."""

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

_LEAST_BITS = 1e-4  # of information that a logarithmic axis shows
_DOTS = 150  # images of a class in one figure, evenly spaced by p
ROUNDS = 10  # draws that the histogram is taken over


def bits(log_p: np.ndarray) -> np.ndarray:
    """Information -log2 p."""
    return -log_p / math.log(2)


def histogram(rounds: list[dict[str, np.ndarray]], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Shares over bins of information, summing to one: kept, left, and what a uniform choice would keep on average.

    Only classes with more than k images count: from the others nothing is left out. Each of them weighs the same in
    all three, so that they differ by the choice alone. All draws are pooled.

    Args:
      rounds: what the files of subsets/ hold.
      labels: (N,) of all training images.

    Returns:
      edges (b + 1,), kept, left, uniform (b,), means (3,) in bits.
    """
    counts = np.bincount(labels)
    values, kept, left, even = [], [], [], []
    for drawn in rounds:
        k = int(drawn["k"])
        cut = (counts > k)[labels]
        chosen = np.zeros(len(labels), bool)
        chosen[drawn["indices"]] = True
        values.append(bits(drawn["log_p"])[cut])
        kept.append(chosen[cut].astype(float))
        left.append((~chosen * k / np.maximum(counts[labels] - k, 1))[cut])
        even.append((k / counts[labels])[cut])
    value, keep, leave, uniform = (np.concatenate(x) for x in (values, kept, left, even))
    shown = np.maximum(value, _LEAST_BITS)
    edges = np.geomspace(shown.min() * 0.999, max(shown.max() * 1.001, shown.min() * 1.1), 25)
    found = {"edges": edges}
    means = []
    for name, weights in (("kept", keep), ("left", leave), ("uniform", uniform)):
        found[name] = np.histogram(shown, edges, weights=weights)[0] / max(weights.sum(), 1e-9)
        means.append((value * weights).sum() / max(weights.sum(), 1e-9))
    return {**found, "means": np.array(means)}


def histogram_figure(found: dict[str, np.ndarray]) -> Figure:
    """Kept filled, left in outline, a uniform choice dashed."""
    figure, axes = svg.axes()
    edges, (kept, left, uniform) = found["edges"], found["means"]
    axes.stairs(
        found["kept"], edges, fill=True, alpha=0.55, color=svg.LIGHT["final"], label=f"kept: mean {_bits(kept)}"
    )
    axes.stairs(found["left"], edges, color=svg.LIGHT["plain"], linewidth=1.8, label=f"left: mean {_bits(left)}")
    axes.stairs(
        found["uniform"], edges, color=svg.LIGHT["ink"], linewidth=1.3, linestyle=(0, (4, 2)),
        label=f"kept by a uniform choice: mean {_bits(uniform)}",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("information of the image, in bits: easy to hard")
    axes.set_ylabel("share of images")
    svg.legend(axes, above=True, columns=1)
    return figure


def _bits(value):
    return f"{value:.3g} bits"


def inclusion_figure(found: dict[str, np.ndarray], result: dict[str, Any]) -> Figure:
    """The chance to be kept against p, for some classes; the dashed line is the uniform chance k / N of the class."""
    figure, axes = svg.axes()
    names, of = class_names(result), figures.group_of(result)
    counts = np.bincount(found["labels"], minlength=len(names))
    classes = [c for c in np.argsort(-counts, kind="stable") if counts[c] > found["k"]]
    classes = [c for c in classes if np.isfinite(found["inclusion"][found["labels"] == c]).any()]
    for c in classes:
        members = np.flatnonzero(found["labels"] == c)
        members = members[np.argsort(found["log_p"][members], kind="stable")]
        members = members[np.unique(np.linspace(0, len(members) - 1, _DOTS).round().astype(int))]
        p = np.clip(np.exp(found["log_p"][members].astype(float)), 1e-4, 1 - 1e-6)
        axes.plot(p, found["inclusion"][members], ".", markersize=4, color=svg.LIGHT[of[c]])
    axes.set_xscale("logit")
    axes.set_xlim(*axes.get_xlim())
    axes.set_xticks(_ticks(*axes.get_xlim()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("p of the true class: hard to easy")
    axes.set_ylabel("chance to be kept")
    axes.set_ylim(bottom=0)
    evens = [(found["k"] / counts[c], f"{names[c]}: {found['k']} of {counts[c]}", svg.LIGHT[of[c]]) for c in classes]
    _even_chances(axes, evens)
    return figure


def _ticks(low, high):
    """Of the logit axis, as many as have room for their labels."""
    decades = np.log10(high / (1 - high)) - np.log10(low / (1 - low))
    if decades < 2:
        ticks = (0.01, 0.02, 0.05, *np.arange(1, 10) / 10, 0.95, 0.98, 0.99)
    elif decades < 5:
        ticks = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
    else:
        ticks = (1e-4, 0.01, 0.5, 0.99, 0.9999, 0.999999)
    return [x for x in ticks if low <= x <= high]


def _even_chances(axes, evens):
    """A dashed line for each class with its name at the right, moved apart where two names would overlap."""
    top, below = axes.get_ylim()[1], np.inf
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


def gallery(found: dict[str, np.ndarray], kept: np.ndarray, result: dict[str, Any]) -> str:
    """HTML: for each class what was kept and what was left, the hardest first.

    Args:
      found: what thumbnails.npz holds.
      kept: (C,) how many images of each class were kept in all.
    """
    names, of, counts = class_names(result), figures.group_of(result), result["dataset"]["counts"]
    rows = []
    for c in dict.fromkeys(found["labels"].tolist()):
        mine = found["labels"] == c
        strips = [_strip(found, mine & found["chosen"], "kept", names[c])]
        if (mine & ~found["chosen"]).any():
            strips.append(_strip(found, mine & ~found["chosen"], "left", names[c]))
        else:
            strips.append('<p class="whole">nothing: kept whole</p>')
        rows.append(
            f'<tr><th scope="row"><span class="dot {of[c]}"></span>{html.escape(names[c])}'
            f"<small>{kept[c]} of {counts[c]}</small></th>{''.join(f'<td>{strip}</td>' for strip in strips)}</tr>"
        )
    head = '<thead><tr><th scope="col">class</th><th scope="col">kept</th><th scope="col">left</th></tr></thead>'
    return f'<table class="gallery">{head}<tbody>{"".join(rows)}</tbody></table>'


def _strip(found, mask, kind, name):
    images = "".join(
        f'<img alt="" title="{bits(found["log_p"][i]):.3g} bits" src="{_source(found["images"][i])}">'
        for i in np.flatnonzero(mask)
    )
    said = f"{int(mask.sum())} images of class {name} that were {kind}, the hardest first"
    return f'<div class="strip {kind}" role="img" aria-label="{html.escape(said, quote=True)}">{images}</div>'


def _source(pixels):
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    kind = "webp" if max(picture.size) > 16 else "png"  # of a few pixels, each one counts
    picture.save(buffer, kind.upper(), **({"quality": 80} if kind == "webp" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
