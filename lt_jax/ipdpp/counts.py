"""Which counts of heads are worth keeping: the windows of the laws in rank_one.py, and their proof.

N = R_1 R_2 .. R_m coins are put together in stages. Before stage t there are R_t M nodes; it joins them to M,
node r from the children r, r + M, r + 2 M, .., one after the other. So the node of an item depends on its
number alone, a longer last chain of children adds empty places and nothing else, and no stage moves data. And
if the coins are sorted, they are dealt like a sorted pack of cards: the means of two nodes of one stage differ
by at most one, and the first j of R children together have j / R of the node's mean up to j (1 - j / R).

With k heads expected in all, the first j children of a node hold close to k j / (M R) of them. `window` keeps
the counts around that number; what is left out has, by Chernoff's bound and summed over all laws of a stage,
a probability below TAIL, for every law whose mean is within `slack` of that number. Whether the means are that
even is looked up in the data (`even`), never assumed; those of sorted coins always are.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp

TAIL = 1e-10  # for each stage: probability that any of its laws leaves its window


class Stage(NamedTuple):
    """How chains of `children` nodes become `nodes` nodes; entries j of the tuples: after j children."""

    children: int
    nodes: int
    lows: tuple  # the smallest count kept
    width: int  # so many counts are kept on the way ..
    kept: int  # .. and so many after the last child
    means: tuple  # expected number of heads, k j / (nodes children)
    slacks: tuple  # largest |mean - means[j]| for which TAIL holds; inf where the law is whole, or not kept
    pair: bool  # two children that are no items: multiplied at once, so the law of the first alone is not kept


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


def window(mean, slack, most, log_eps):
    """The counts (low, high) to keep of at most `most` heads, mean within slack; (0, most) if that is all.

    Each side leaves out less than exp(log_eps). The upper end has one place more than the coins need, for the
    special item of the rank-one part (see rank_one.py).
    """
    least, largest = max(mean - slack, 0.0), mean + slack
    top = _first(lambda s: log_tail(largest, s + 1) <= log_eps, math.ceil(largest), most) + 1
    low = _first(lambda s: log_tail(least, s) > log_eps, 0, math.floor(least)) if least > -log_eps else 0
    return min(low, most), min(top, most)


@functools.lru_cache(maxsize=1024)
def stage(children, nodes, items, k):
    """The Stage that makes `nodes` nodes of `children` children with `items` items each, k heads in all."""
    log_eps = math.log(TAIL / 2 / (nodes * children))
    means = [k * j / (nodes * children) for j in range(children + 1)]
    slacks = [1 + j * (1 - j / children) + 0.5 * math.sqrt(mean) for j, mean in enumerate(means)]
    most = [min(j * items, k) for j in range(children + 1)]
    windows = [window(*x, log_eps) if items > 1 else (0, x[2]) for x in zip(means, slacks, most, strict=True)]
    whole = [bounds == (0, top) for bounds, top in zip(windows, most, strict=True)]
    slacks = [math.inf if w else slack for w, slack in zip(whole, slacks, strict=True)]
    pair = children == 2 and items > 1
    slacks[1] = math.inf if pair else slacks[1]
    widths = [high - low + 1 for low, high in windows]
    lows = tuple(low for low, _ in windows)
    return Stage(children, nodes, lows, max(widths), widths[-1], tuple(means), tuple(slacks), pair)


def even(b, stages):
    """Whether every law has a mean for which its window is proven: b (size,) coins -> () bool."""
    means, ok = b, jnp.array(True)
    for stage in stages:
        means = means.reshape(stage.children, stage.nodes)
        on_the_way = min(stage.slacks[:-1]) < math.inf
        means = jnp.cumsum(means, axis=0) if on_the_way else jnp.sum(means, axis=0, keepdims=True)
        expected, slacks = stage.means[-means.shape[0] :], stage.slacks[-means.shape[0] :]
        if min(slacks) < math.inf:
            off = jnp.abs(means - jnp.array(expected)[:, None])
            ok = ok & jnp.all(off <= jnp.array(slacks)[:, None])
        means = means[-1]
    return ok
