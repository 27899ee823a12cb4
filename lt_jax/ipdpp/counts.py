"""Laws of the number of heads among independent coins (Poisson-binomial laws), for all nodes of a tree.

Depth l of the tree has 2^l nodes; node r there holds the items i with i mod 2^l = r, so its children at depth
l + 1 are r (left) and r + 2^l (right). In arrays, left children are the first half of the last axis and right
children the second half, and no step moves data. Two things follow:

* The node of an item depends on its number alone. More places after the last item add empty nodes, nothing
  else.
* If the coins are sorted, the means of two nodes of one depth differ by at most one (dealing out a sorted
  list).

A law is a column of an array (width, nodes): entry [s - low, r] is P(s heads in node r). With k heads in all,
depth l has means near k / 2^l, so the columns need not be as long as a node has items. `window` gives the
support to keep: what lies outside has a probability that Chernoff's bound proves to be below TAIL over all
nodes of the tree, for every node with a mean within `slack` of k / 2^l. Whether the means are that even is
looked up in the data (`even`), never assumed; sorted coins always are.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

TAIL = 1e-10  # per depth of the tree: probability that any node of that depth leaves its window
WRITTEN_OUT = 3  # products of polynomials with at most this many terms are written out, others are loops
BLOCK = 256  # columns that a CPU works through at a time, so that they stay in its cache


class Window(NamedTuple):
    """Support kept for the laws of one depth."""

    low: int
    width: int
    slack: float  # largest |mean - k / 2^l| for which TAIL holds; inf where the support is whole


def log_tail(mean, count):
    """Chernoff: log P(S >= count) for count >= mean, log P(S <= count) for count <= mean, are at most this.

    The bound is that of a Poisson variable, whose moment generating function is above that of any sum of
    independent coins with the same mean.
    """
    if count <= 0:
        return -mean
    return count - mean + count * math.log(mean / count) if mean > 0 else -math.inf


def _first(holds, start, stop):
    """Smallest integer in [start, stop) for which the monotone predicate holds, else stop."""
    while start < stop:
        middle = (start + stop) // 2
        start, stop = (start, middle) if holds(middle) else (middle + 1, stop)
    return start


@functools.lru_cache(maxsize=4096)
def window(k, depth, items):
    """Window of the nodes at this depth, each with at most `items` items, when k heads are wanted in all.

    Counts above k are never needed. The upper end has one place more than the coins need, for the special
    item of the rank-one part (see rank_one.py).
    """
    most = min(items, k)
    mean = k / 2**depth
    slack = 1.0 + 1.5 * math.sqrt(mean)
    log_eps = math.log(TAIL / 2) - depth * math.log(2)
    least, largest = max(mean - slack, 0.0), mean + slack
    top = _first(lambda s: log_tail(largest, s + 1) <= log_eps, math.ceil(largest), most) + 1
    below = math.floor(least)
    cut = _first(lambda c: log_tail(least, below - c - 1) <= log_eps, 0, below)
    low = below - cut
    if top >= most and low <= 0:
        return Window(0, most + 1, math.inf)
    high = min(top, most)
    return Window(min(low, high), high - min(low, high) + 1, slack)


def multiply(x, y, offset, width, columns):
    """Rows offset .. offset + width - 1 of products of dual polynomials P + eps Q, column by column.

    x and y are (laws, start): laws (2, W, columns in all) hold P and Q, and `columns` of them count, from
    `start` on. Returns (2, width, columns): P P' and P Q' + Q P', with (P P')[i] = sum_a P[a] P'[i - a].

    Products of non-negative numbers added up, so that every entry is right to a few units in its own last
    place. An FFT would leave an absolute error near 3e-9 everywhere.
    """
    block = min(BLOCK, columns) if jax.default_backend() == "cpu" else columns
    terms = x[0].shape[1]
    edges = [(0, 0, 0), (terms - 1 - offset, offset + width - y[0].shape[1], 0), (0, 0, 0)]
    zero = jnp.zeros((), x[0].dtype)

    def product(i):
        left, right = (jax.lax.dynamic_slice_in_dim(z, start + i * block, block, 2) for z, start in (x, y))
        right = jax.lax.pad(right, zero, edges)
        crossed = jnp.stack([jnp.zeros_like(right[0]), right[0]])  # eps times the right factor

        def add(a, out):
            p, q = (jax.lax.dynamic_slice(left, (side, a, 0), (1, 1, block)) for side in (0, 1))
            shifted = (jax.lax.dynamic_slice_in_dim(z, terms - 1 - a, width, 1) for z in (right, crossed))
            return out + p * next(shifted) + q * next(shifted)

        return jax.lax.fori_loop(0, terms, add, jnp.zeros((2, width, block), zero.dtype))

    if max(terms, y[0].shape[1]) <= WRITTEN_OUT:
        left, right = (jax.lax.slice_in_dim(z, start, start + columns, axis=2) for z, start in (x, y))
        return _written_out(left, right, offset, width)
    if block == columns:
        return product(0)

    def one(i, out):
        return jax.lax.dynamic_update_slice_in_dim(out, product(i), i * block, axis=2)

    return jax.lax.fori_loop(0, columns // block, one, jnp.zeros((2, width, columns), zero.dtype))


def _written_out(x, y, offset, width):
    """`multiply` as one expression, for polynomials of few terms and many columns."""
    nothing = jnp.zeros_like(x[0, 0])
    p, q = [], []
    for s in range(offset, offset + width):
        pairs = [(a, s - a) for a in range(x.shape[1]) if 0 <= s - a < y.shape[1]]
        p.append(sum((x[0, a] * y[0, b] for a, b in pairs), nothing))
        q.append(sum((x[0, a] * y[1, b] + x[1, a] * y[0, b] for a, b in pairs), nothing))
    return jnp.stack([jnp.stack(p), jnp.stack(q)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def merge(laws, offset, width):
    """Laws of nodes from those of their children: (2, W, 2 M), left children first -> (2, width, M) and (M,).

    The last is the mass of each column of P, by which P and Q were divided. It is one but for rounding, a
    proven tail, and counts above k; dividing changes no draw and keeps rounding from building up. In
    derivatives it counts as a constant.
    """
    columns = laws.shape[2] // 2
    product = multiply((laws, 0), (laws, columns), offset, width, columns)
    mass = jnp.sum(product[0], axis=0)
    return product / mass[None, None, :], mass


def _merge_forward(laws, offset, width):
    out, mass = merge(laws, offset, width)
    return (out, mass), (laws, mass)


def _merge_backward(offset, width, residuals, g):
    """A derivative of a product of dual numbers is the product of the derivative, P and Q exchanged, with the
    other factor reversed in t."""
    del width
    laws, mass = residuals
    _, rows, columns = laws.shape
    half = columns // 2
    g = (g[0][::-1] / mass[None, None, :], 0)
    reverse = laws[:, ::-1]
    sides = [multiply(g, (reverse, start), rows - 1 - offset, rows, half)[::-1] for start in (half, 0)]
    return (jnp.concatenate(sides, axis=2),)


merge.defvjp(_merge_forward, _merge_backward)


def even(b, windows):
    """Whether the mean of every node is one for which its window is proven: () bool.

    b (2^depth,) coins, windows of depths 0 .. depth. Depth 0 has no window; there the mean is k but for the
    tolerance of the tilt.
    """
    k = windows[0].low
    means, ok = b, jnp.array(True)
    for level in range(len(windows) - 1, -1, -1):
        slack = windows[level].slack
        if math.isfinite(slack):
            means = jnp.sum(means.reshape(-1, 2**level), axis=0)
            ok = ok & (jnp.max(jnp.abs(means - k / 2**level)) <= slack)
    return ok
