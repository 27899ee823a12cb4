"""t-SNE plots of the test features of the frozen encoder, or of the first, the pretrained and the final one."""

from concurrent import futures
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from lt_jax.report import figures, selection, svg

STAGES = {
    "frozen": "frozen encoder",
    "random": "random encoder",
    "loaded": "encoder as it was loaded",
    "probe": "after pretraining",
    "final": "final encoder",
}
_STEPS = 400  # of t-SNE
_LABELLED = 12  # class names are drawn only up to this number of classes


def planes(features: list[np.ndarray]) -> list[np.ndarray]:
    """Projects each matrix (n, d) to (n, 2) by t-SNE, side by side; the same features give the same picture."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), futures.ThreadPoolExecutor() as pool:  # one thread each fixes the order of summation
        return list(pool.map(_plane, features))


def _plane(features: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE  # slow to import, and many pages do not need it

    spread = min(30.0, max(2.0, (len(features) - 1) / 4))
    points = TSNE(perplexity=spread, init="pca", random_state=0, max_iter=_STEPS).fit_transform(features)
    low = points.min(axis=0)
    high = points.max(axis=0)
    return (2 * points - low - high) / max((high - low).max(), 1e-9)


def separation(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose nearest neighbour has the same class."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=2).fit(features).kneighbors(features, return_distance=False)[:, 1]
    return float((labels[nearest] == labels).mean())


def figure(points: np.ndarray, labels: np.ndarray, result: dict[str, Any]) -> Figure:
    """Scatter plot of the images, coloured by group; with few classes, each is named at its median point."""
    made, axes = svg.axes((3.4, 3.4), grid="")
    group_by_class = figures.group_of(result)
    names = selection.class_names(result)
    for group in figures.GROUPS:
        mine = np.array([group_by_class[y] == group for y in labels])
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


def _dots(points: np.ndarray, color: str) -> Any:
    """All dots as one path, which takes a tenth of the bytes of separate markers."""
    vertices = np.repeat(points, 2, axis=0)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(points))
    path = Path(vertices, codes)
    path.should_simplify = False
    width = 4.0 if len(points) < 400 else 2.8
    return PathPatch(path, edgecolor=color, facecolor="none", linewidth=width, capstyle="round", alpha=0.75)
