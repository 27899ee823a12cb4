"""One draw, and draws for all classes of a training set at once.

Both use the same compiled function of (method, padded size, k), so a class gets the same items alone and in a batch.
The axis of classes is split over the devices of this host if there are several.
"""

import functools
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lt_jax.ipdpp import checks, eigen, rank_one

BATCH_NUMBERS = 2**26  # numbers in the largest array of one batch of classes: 2^26 float32 are 256 MiB
MEDIUM = 8192  # padded size above that of a chain: one draw takes at most .5 ms more, compiling a size 1.5 s
THREADS = min(os.cpu_count() or 1, 8)  # that compile programs
FEW_NUMBERS = 2**22  # classes whose chains have fewer numbers share one size: compiling costs more than padding


def _rank_one(key: jax.Array, log_p: jax.Array, n: jax.Array, relative_scale: float | jax.Array, k: int) -> jax.Array:
    return rank_one.draw(key, log_p, n, relative_scale, rank_one.plan(log_p.shape[0], k))


def _eigen(key: jax.Array, log_p: jax.Array, n: jax.Array, relative_scale: float | jax.Array, k: int) -> jax.Array:
    return eigen.draw(key, log_p, n, relative_scale, k, rank_one.tilt)


def _uniform(key: jax.Array, log_p: jax.Array, n: jax.Array, relative_scale: float | jax.Array, k: int) -> jax.Array:
    """A fresh uniform subset for every key.

    The released code reads the initial state of a Markov chain whose generator is re-seeded at every call: one fixed
    uniform subset, whatever the model predicts. Here the subset depends on the key.
    """
    del relative_scale
    size = log_p.shape[0]
    bits = jax.random.bits(key, (size,), jnp.uint32)
    items = jnp.arange(size, dtype=jnp.int32)
    missing = (items >= n).astype(jnp.int32)
    return jnp.sort(jax.lax.sort((missing, bits, items), num_keys=2)[2][:k])


METHODS = {"rank_one": _rank_one, "eigen": _eigen, "algorithm1": eigen.draw_as_printed, "uniform": _uniform}
NUMBERS: dict[str, Callable[[int, int], int]] = {  # (size, k) -> numbers in the largest array of one draw
    "rank_one": lambda size, k: 2 * (k + 1) * size,
    "eigen": lambda size, k: size**2,
    "algorithm1": lambda size, k: size**2,
    "uniform": lambda size, k: size,
}


def padded_size(n, method):
    """The size to which n items are padded. Every size compiles once, so there are few of them.

    Powers of four for small classes, and one size for medium ones, where compiling takes longer than drawing; for
    the largest 5, 6, 7 or 8 times a power of two, at most a quarter larger than n.
    """
    bits = max(n - 1, 1).bit_length()
    if method == "rank_one" and rank_one.CHAIN < n <= MEDIUM:
        return MEDIUM
    if n > (16 if method in ("eigen", "algorithm1") else rank_one.CHAIN):
        step = 1 << (bits - 3)
        return -(-n // step) * step
    return 1 << (bits + bits % 2)


def _draw(key: jax.Array, log_p: jax.Array, n: jax.Array, relative_scale: Any, k: int, method: str) -> jax.Array:
    """Draws from log_p (size,) with n items in front -> (k,) sorted int32; all -1 if p is invalid. 0 < k < n."""
    relative_scale = np.float32(1) if relative_scale is None else relative_scale  # a constant costs no transfer
    chosen = METHODS[method](_threefry(key), log_p, n, relative_scale, k)
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    return jnp.where(jnp.all(jnp.where(present, log_p <= 0, True)), chosen, -1)


def _threefry(key: jax.Array) -> jax.Array:
    """The key for Threefry: other generators (rbg) give different numbers in a batch than alone."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(key) if typed else key
    return jax.random.wrap_key_data(data[..., :2], impl="threefry2x32")


_draw_one = jax.jit(_draw, static_argnames=("k", "method"))


def sample(key, probabilities, k, method="rank_one", *, log_probabilities=None, scale=None):
    """Draws k of N items by IP-DPP: P(Y) proportional to det(S_Y), Eq. 23 of arXiv 2510.08836.

    Args:
      key: a JAX random key; the same key gives the same items.
      probabilities: (N,) probability that the classifier gives to each item's true label, in [0, 1]; None if
        log_probabilities are given.
      k: number of items, a Python int from 0 to N.
      method: "rank_one" (exact, any N), "eigen" (exact, N up to a few thousand), "algorithm1" (Algorithm 1 as
        printed, not exact, may fall short of k), "uniform" (ignores p).
      log_probabilities: (N,) log p instead; needed if 1 - p is below 1e-7 and p is float32.
      scale: of the kernel, S_ij = scale p_i p_j; None is the paper's 1/N.

    Returns:
      (k,) int32, ascending, distinct. `algorithm1` returns a -1 in front for every missing item.

    Raises:
      ValueError: p of the wrong shape, out of range or NaN; k out of range; unknown method; a scale with
        scale * max(p) * sum(p) > 1. Inside jit values are unknown: an invalid p gives -1 everywhere.
    """
    method = checks.method_of(method, METHODS)
    log_p = checks.log_probabilities_of(probabilities, log_probabilities)
    n = log_p.shape[0]
    k = checks.subset_size(k, n)
    relative_scale = None if scale is None else checks.relative_scale(scale, log_p)
    if k in (0, n):
        everything = jnp.arange(k, dtype=jnp.int32)
        return jnp.where(jnp.all(log_p <= 0), everything, -1) if checks.is_traced(log_p) else everything
    size = padded_size(n, method)
    if checks.is_traced(log_p):
        padded = jnp.pad(log_p, (0, size - n), constant_values=-jnp.inf)
    else:
        padded = np.full(size, -np.inf, np.float32)
        padded[:n] = log_p
    return _draw_one(key, padded, np.int32(n), relative_scale, k=k, method=method)


def _draw_classes(
    key: jax.Array, classes: jax.Array, log_p: jax.Array, n: jax.Array, relative_scale: jax.Array, k: int, method: str
) -> jax.Array:
    """Draws of all classes: (C,) class numbers, (C, size), (C,), (C,) -> (C, k). Every class has its own key."""

    def draw(operands):
        number, log_p, n, relative_scale = operands
        return _draw(jax.random.fold_in(key, number), log_p, n, relative_scale, k, method)

    size = log_p.shape[1]
    if method == "rank_one" and size > rank_one.CHAIN:
        return jax.lax.map(draw, (classes, log_p, n, relative_scale))  # in a batch every class would be sorted
    batch = min(max(BATCH_NUMBERS // NUMBERS[method](size, k), 1), log_p.shape[0])
    return jax.lax.map(draw, (classes, log_p, n, relative_scale), batch_size=batch)


@functools.lru_cache(maxsize=256)
def _compiled(k: int, method: str, devices: tuple[Any, ...]) -> Callable[..., Any]:
    """_draw_classes under jit, with the classes split over the devices if there are several."""
    function = functools.partial(_draw_classes, k=k, method=method)
    if len(devices) > 1:
        mesh, rows = Mesh(np.array(devices), ("class",)), PartitionSpec("class")
        function = jax.shard_map(
            function, mesh=mesh, in_specs=(PartitionSpec(), rows, rows, rows, rows), out_specs=rows, check_vma=False
        )
    return jax.jit(function)


def _sizes(lengths: dict[Any, Any], k: int, method: str) -> dict[Any, Any]:
    """Class -> padded size. The draw of a chain does not depend on its padding."""
    sizes = {number: padded_size(length, method) for number, length in lengths.items()}
    chains = [size for size in sizes.values() if method == "rank_one" and size <= rank_one.CHAIN]
    if len(chains) * max(chains, default=0) * (k + 1) > FEW_NUMBERS:
        return sizes
    return {number: max(chains) if size in chains else size for number, size in sizes.items()}


def _select_large(
    key: jax.Array, log_p: np.ndarray, members: dict[Any, Any], k: int, method: str, scale_power: int
) -> list[Any]:
    """The chosen items of classes (number -> items) with more than k items, a list of arrays."""
    groups: dict[int, list[int]] = {}
    devices = tuple(jax.local_devices())
    sizes = _sizes({number: len(items) for number, items in members.items()}, k, method)
    for number, size in sizes.items():
        groups.setdefault(size, []).append(number)

    def draw(size):
        numbers = groups[size]
        split = devices if len(numbers) >= len(devices) else devices[:1]
        # Every device needs the same number of classes: the last class is repeated, and its extra draws are dropped.
        rows = numbers + numbers[-1:] * (-len(numbers) % len(split))
        padded = np.full((len(rows), size), -np.inf, np.float32)
        for row, number in enumerate(rows):
            padded[row, : len(members[number])] = log_p[members[number]]
        lengths = np.array([len(members[number]) for number in rows], np.int32)
        relative_scale = lengths.astype(np.float32) ** (1 - scale_power)
        return numbers, _compiled(k, method, split)(key, np.array(rows, np.int32), padded, lengths, relative_scale)

    # In threads, since each size compiles a program of its own at its first use: seconds, in which Python is free.
    with futures.ThreadPoolExecutor(THREADS) as pool:
        chosen = list(pool.map(draw, sorted(groups, reverse=True)))
    # Wait for the devices only now, so that draws overlap with the preparation of the next batch.
    return [
        members[number][row[row >= 0]]
        for numbers, drawn in chosen
        for number, row in zip(numbers, np.asarray(drawn), strict=False)
    ]


def select_balanced(key, probabilities, labels, k, method="rank_one", *, log_probabilities=None, scale_power=1):
    """Draws at most k items of every class: `sample` within each class, all classes at once.

    A class c with more than k items keeps exactly sample(fold_in(key, c), p_c, k, method), with the scale given by
    scale_power and p_c in the order of the training set; smaller classes are kept whole. The result does not depend
    on batching, padding or the number of devices. Compiles once per padded size and number of classes of that size.

    Args:
      key: a JAX random key.
      probabilities: (N,) p of each item's true label, over the whole training set; None if logs are given.
      labels: (N,) integers >= 0.
      k: maximum number of items of a class.
      method: as for `sample`.
      log_probabilities: as for `sample`.
      scale_power: the kernel of a class of N items is S_ij = p_i p_j / N^scale_power; 1 is the paper's, 2 the
        released code's.

    Returns:
      NumPy int64 array of the chosen positions in the training set, ascending.

    Raises:
      ValueError: as for `sample`; labels of another length, not integer or negative; a scale_power below 1.
    """
    method = checks.method_of(method, METHODS)
    if not scale_power >= 1:
        raise ValueError(f"scale_power must be at least 1, but is {scale_power!r}")
    log_p = checks.log_probabilities_of(probabilities, log_probabilities)
    if checks.is_traced(log_p, labels):
        raise ValueError("select_balanced chooses shapes from the labels and cannot run inside jit")
    labels = checks.labels_of(labels, log_p.shape[0])
    k = checks.subset_size(k)
    order = np.argsort(labels, kind="stable")
    numbers, starts = np.unique(labels[order], return_index=True)
    members = dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))
    chosen = [items for items in members.values() if len(items) <= k]
    large = {number: items for number, items in members.items() if len(items) > k > 0}
    chosen += _select_large(key, log_p, large, k, method, scale_power)
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
