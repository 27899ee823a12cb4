"""Test features in the plane (t-SNE), of the random, the pretrained and the final encoder."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from lt_jax.report import figures, selection, svg

STAGES = {"random": "random encoder", "probe": "after pretraining", "final": "after retraining"}
_STEPS, _LABELLED = 400, 12  # of t-SNE; the most classes that are named in the picture


def plane(features: np.ndarray) -> np.ndarray:
    """(n, d) -> (n, 2) by t-SNE from a fixed start; the same features give the same picture."""
    from sklearn.manifold import TSNE  # here: a page without such a figure need not wait for it
    from threadpoolctl import threadpool_limits

    spread = min(30.0, max(2.0, (len(features) - 1) / 4))
    with threadpool_limits(1):  # one order of summation anywhere; and threads that wait for a busy core are far slower
        found = TSNE(perplexity=spread, init="pca", random_state=0, max_iter=_STEPS).fit_transform(features)
    low, high = found.min(axis=0), found.max(axis=0)
    return (2 * found - low - high) / max((high - low).max(), 1e-9)


def separation(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose nearest neighbour is of their own class."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=2).fit(features).kneighbors(features, return_distance=False)[:, 1]
    return float((labels[nearest] == labels).mean())


def figure(points: np.ndarray, labels: np.ndarray, result: dict[str, Any]) -> Figure:
    """One dot an image, in the colour of its class's group; a few classes have their name in the middle."""
    made, axes = svg.axes((3.4, 3.4), grid="")
    of, names = figures.group_of(result), selection.class_names(result)
    for group in figures.GROUPS:
        mine = np.array([of[y] == group for y in labels])
        if mine.any():
            axes.add_patch(_dots(points[mine], svg.LIGHT[group]))
    classes = np.unique(labels)
    if len(classes) <= _LABELLED:
        for c in classes:
            x, y = np.median(points[labels == c], axis=0)
            box = {"boxstyle": "round,pad=0.18", "facecolor": svg.LIGHT["page"], "edgecolor": "none", "alpha": 0.8}
            axes.text(
                x, y, names[c], color=svg.LIGHT["ink"], fontsize=9, weight="bold", ha="center", va="center", bbox=box
            )
    axes.set_xlim(-1.06, 1.06)
    axes.set_ylim(-1.06, 1.06)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return made


def _dots(points, color):
    """All dots in one path: a tenth of the bytes that a marker for each would take."""
    vertices = np.repeat(points, 2, axis=0)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(points))
    path = Path(vertices, codes)
    path.should_simplify = False
    width = 4.0 if len(points) < 400 else 2.8
    return PathPatch(path, edgecolor=color, facecolor="none", linewidth=width, capstyle="round", alpha=0.75)
