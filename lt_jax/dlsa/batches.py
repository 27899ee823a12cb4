"""Batches of features that may not fit on the device: indices are drawn on the host, rows are sent in pieces.

Features are any (N, D) array that NumPy can index, including a memory-mapped file. A piece holds many steps, which the
device runs as one compiled scan.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.core import errors

_PIECE_BYTES = 64 << 20  # bytes of rows on the device at a time


def generator(key: jax.Array) -> np.random.Generator:
    """A NumPy generator seeded by the key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint64).tolist())


@functools.lru_cache(maxsize=32)
def compiled_scan(step: Callable[..., Any], *static: Any) -> Any:
    """Compiled scan of `step(*static, constants, carry, batch) -> carry` over the steps of a piece."""

    def run(carry, constants, piece):
        return jax.lax.scan(lambda c, x: (step(*static, constants, c, x), None), carry, piece)[0]

    return jax.jit(run, donate_argnums=0)


def run(scan: Any, carry: Any, constants: Any, rows: Callable[[np.ndarray], Any], indices: np.ndarray) -> Any:
    """Final carry of a compiled scan over `indices` (steps, ...); `rows(indices)` returns the data of a piece."""
    one = sum(np.asarray(x).nbytes for x in jax.tree.leaves(rows(indices[:1])))
    pieces = -(-len(indices) * one // _PIECE_BYTES)
    length = -(-len(indices) // pieces)
    for start in range(0, len(indices), length):
        carry = scan(carry, constants, rows(indices[start : start + length]))
    return carry


def over_all(function: Any, constants: Any, features: np.ndarray, positions: np.ndarray, size: int = 4096) -> Any:
    """`function(constants, rows)` over the rows at `positions`, in batches of one shape; results as NumPy arrays."""
    size = max(1, min(size, len(positions)))
    parts = []
    for start in range(0, len(positions), size):
        here = positions[start : start + size]
        padded = np.concatenate([here, np.repeat(here[-1:], size - len(here))])
        outputs = function(constants, np.asarray(features[padded], np.float32))
        parts.append([np.asarray(x)[: len(here)] for x in jax.tree.leaves(outputs)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number in the leaves is finite, ()."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def check(features: Any, labels: Any, width: int | None = None) -> None:
    """Raises BadInput for invalid features or labels."""
    if np.ndim(features) != 2 or 0 in np.shape(features):
        raise errors.BadInput(f"features: expected a table (items, width), found shape {np.shape(features)}")
    if width is not None and features.shape[1] != width:
        raise errors.BadInput(f"features: expected width {width} as in training, found {features.shape[1]}")
    for start in range(0, len(features), 4096):
        if not np.isfinite(features[start : start + 4096]).all():
            bad = start + int(np.argmin(np.isfinite(features[start : start + 4096]).all(axis=1)))
            raise errors.BadInput(f"features: item {bad} holds a value that is not finite")
    if labels is not None and (np.ndim(labels) != 1 or len(labels) != len(features)):
        raise errors.BadInput(f"labels: expected {len(features)}, one for each item, found shape {np.shape(labels)}")
    if labels is not None and (not np.issubdtype(np.asarray(labels).dtype, np.integer) or np.min(labels) < 0):
        raise errors.BadInput("labels: expected whole numbers from 0 on")


def moments(features: np.ndarray, positions: np.ndarray, size: int = 4096) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation (D,) of the features at `positions`, summed in float64; deviation 1 if constant."""
    total: Any = 0.0
    squares: Any = 0.0
    for start in range(0, len(positions), size):
        piece = np.asarray(features[positions[start : start + size]], np.float64)
        total = total + piece.sum(axis=0)
        squares = squares + (piece**2).sum(axis=0)
    mean = total / len(positions)
    deviation = np.sqrt(np.maximum(squares / len(positions) - mean**2, 0.0))
    return jnp.asarray(mean, jnp.float32), jnp.asarray(np.where(deviation > 1e-6, deviation, 1.0), jnp.float32)


def covariance(
    transform: Callable[..., np.ndarray], features: np.ndarray, positions: np.ndarray, size: int = 4096
) -> np.ndarray:
    """Covariance (D, D) of the transformed features at `positions`, summed in float64.

    Args:
      transform: (b, D) float32 -> (b, D).
      features: (N, D).
      positions: (n,).
      size: rows transformed at a time.
    """
    total: Any = 0.0
    products: Any = 0.0
    for start in range(0, len(positions), size):
        piece = np.asarray(transform(np.asarray(features[positions[start : start + size]], np.float32)), np.float64)
        total = total + piece.sum(axis=0)
        products = products + piece.T @ piece
    mean = total / len(positions)
    return products / len(positions) - np.outer(mean, mean)
