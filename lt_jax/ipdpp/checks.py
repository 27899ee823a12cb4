"""Checks of the arguments of all public functions.

Values are checked only outside of jit. Inside jit an invalid p makes the samplers return -1 everywhere and the
measures NaN.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np

# float32 softmax and sums over a class may exceed one by rounding, but not by more than this.
ROUNDING = 1e-6


def is_traced(*arrays):
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def log_probabilities_of(probabilities, log_probabilities):
    """(N,) float32 log p from exactly one of p and log p; a NumPy array unless traced.

    The log of a float64 p is taken in float64, which preserves 1 - p down to 1e-12.
    """
    if (probabilities is None) == (log_probabilities is None):
        raise ValueError("give either probabilities or log_probabilities, and not both")
    name = "probabilities" if log_probabilities is None else "log_probabilities"
    values = probabilities if log_probabilities is None else log_probabilities
    values = values if is_traced(values) else np.asarray(values)
    _shape(name, values)
    if is_traced(values):
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
        return (jnp.log(values) if log_probabilities is None else values).astype(jnp.float32)
    values = values.astype(np.promote_types(values.dtype, np.float32), copy=False)
    rounded = _range(name, values)
    if log_probabilities is None:
        with np.errstate(divide="ignore"):
            values = np.log(values)
    return (np.minimum(values, 0) if rounded else values).astype(np.float32, copy=False)


def _shape(name: str, values: np.ndarray) -> None:
    if values.ndim != 1:
        raise ValueError(f"{name} must have one axis, but the shape is {values.shape}")
    if values.size == 0:
        raise ValueError(f"{name} must not be empty")
    if not jnp.issubdtype(values.dtype, jnp.floating) and not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"{name} must be real numbers, but the type is {values.dtype}")


def _range(name: str, values: np.ndarray) -> bool:
    """Whether some values exceed the upper bound, within rounding. Raises ValueError for values out of range."""
    low, high = (0, 1) if name == "probabilities" else (-np.inf, 0)
    # NaN fails every comparison, so test for valid values, not for invalid ones.
    largest = values.max()
    if values.min() >= low and largest <= high + ROUNDING:
        return largest > high
    right = (values >= low) & (values <= high + ROUNDING)
    where = int(np.argmin(right))
    expected = "in [0, 1]" if name == "probabilities" else "at most 0"
    raise ValueError(f"{name} must be {expected}, but item {where} is {values[where]}")


def subset_size(k, size=None):
    """k as a Python int, 0 <= k <= size if size is given; it fixes shapes, so it cannot be traced."""
    if is_traced(k):
        raise ValueError("k fixes the shape of the result and cannot be traced: mark it static")
    try:
        k = operator.index(k)
    except TypeError:
        raise ValueError(f"k must be an integer, but is {k!r}") from None
    if k < 0 or (size is not None and k > size):
        raise ValueError(f"k must be at least 0 and at most the number of items ({size}), but is {k}")
    return k


def relative_scale(scale, log_p):
    """N times the kernel's scale, float32; 1 where scale is None.

    The kernel is guaranteed positive semi-definite only for scale * max(p) * sum(p) <= 1.
    """
    size = log_p.shape[0]
    if scale is None:
        return np.float32(1)
    if is_traced(scale, log_p):
        return jnp.asarray(scale, jnp.float32) * size
    if not (np.ndim(scale) == 0 and np.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale must be a finite number >= 0, but is {scale!r}")
    p = np.exp(log_p, dtype=np.float64)
    largest = float(scale) * float(p.max()) * float(p.sum())
    if largest > 1 + ROUNDING:
        raise ValueError(
            f"scale * max(p) * sum(p) must be at most 1, or the kernel may not be positive semi-definite; "
            f"it is {largest:.6g} at scale {float(scale):.6g}"
        )
    return np.float32(float(scale) * size)


def method_of(method, methods):
    """The name of a method; "paper" is the name that algorithm1 had in version 0.1."""
    name = "algorithm1" if method == "paper" else method
    if name not in methods:
        raise ValueError(f"method must be one of {', '.join(methods)}, but is {method!r}")
    return name


def labels_of(labels, size):
    """The labels as (N,) NumPy integers."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.shape[0] != size:
        raise ValueError(f"labels must have shape ({size},), as the probabilities, but have {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, but the type is {labels.dtype}")
    if labels.min() < 0:
        raise ValueError(f"labels must not be negative, but item {int(labels.argmin())} is {labels.min()}")
    return labels


def subset_of(subset, size):
    """The subset as (k,) int32 distinct item numbers; values are checked unless traced."""
    subset = subset if is_traced(subset) else np.asarray(subset)
    if subset.size == 0:
        subset = subset.reshape(subset.shape).astype(np.int32)
    if subset.ndim != 1 or not jnp.issubdtype(subset.dtype, jnp.integer):
        raise ValueError(f"subset must be one axis of integers, but is {subset.shape} of {subset.dtype}")
    subset_size(subset.shape[0], size)
    if not is_traced(subset) and subset.size:
        if subset.min() < 0 or subset.max() >= size:
            raise ValueError(f"subset must hold numbers from 0 to {size - 1}, but holds {subset.tolist()[:10]}")
        if np.unique(subset).size != subset.size:
            raise ValueError("subset must not hold an item twice")
    return subset.astype(np.int32)
