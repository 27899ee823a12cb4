"""Position embeddings of a transformer for another number of patches, by bicubic interpolation."""

import math

import numpy as np


def resized(positions: np.ndarray, count: int, antialias: bool) -> np.ndarray:
    """Positions (1, count, d) of a class token and a square grid of patches, from those of another square grid.

    Args:
      positions: (1, n, d); without an entry for the class token, whose position is then zero.
      antialias: average where the new grid is coarser, as timm and DINOv2 with registers do; else as the released
        DINOv2 does, which takes the values at the new points.

    Raises:
      ValueError: one of the two grids is not square.
    """
    _, n, d = positions.shape
    has_token = math.isqrt(n) ** 2 != n
    token = positions[:, :1] if has_token else np.zeros((1, 1, d), positions.dtype)
    grid = positions[:, int(has_token) :].astype(np.float64)
    old, new = math.isqrt(grid.shape[1]), math.isqrt(count - 1)
    if old**2 != grid.shape[1] or new**2 != count - 1:
        raise ValueError("only square images have positions that can be interpolated")
    grid = grid.reshape(old, old, d)
    if new != old:
        matrix = _bicubic(old, new, antialias)
        grid = np.einsum("ai,bj,ijd->abd", matrix, matrix, grid)
    return np.concatenate([token, grid.reshape(1, new * new, d).astype(np.float32)], axis=1)


def _bicubic(old: int, new: int, antialias: bool) -> np.ndarray:
    """(new, old) weights of one axis, each row summing to one."""
    ratio = old / new
    centre = (np.arange(new)[:, None] + 0.5) * ratio - 0.5
    if antialias:
        weights = _cubic((np.arange(old)[None] - centre) / max(ratio, 1.0), -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(centre) + np.arange(-1, 3)[None]
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)), _cubic(taps - centre, -0.75))
    return matrix


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981)."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
