"""Windows of counts of heads that the laws in rank_one.py keep, and the proof of their error bound.

N = R_1 R_2 .. R_m coins are combined in stages. Stage t combines R_t M nodes into M nodes, node r from the children
r, r + M, r + 2 M, .., one after the other. So the node of an item depends only on its number, a longer last chain of
children only adds empty positions, and no stage moves data. If the coins are sorted, they are dealt like a sorted
pack of cards: the means of two nodes of one stage differ by at most one, and the first j of R children together
have j / R of the node's mean up to j (1 - j / R).

With k heads expected in total, the first j children of a node hold close to k j / (M R) of them. `window` keeps
the counts around that number; by Chernoff's bound, summed over all laws of a stage, the other counts have a
probability below TAIL for every law whose mean is within `slack` of that number. `even` checks on the data that the
means are this even; those of sorted coins always are.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

TAIL = 1e-10  # for each stage: probability that any of its laws leaves its window


class Stage(NamedTuple):
    """How chains of `children` nodes become `nodes` nodes; entry j of a tuple is the state after j children."""

    children: int
    nodes: int
    lows: tuple  # smallest count kept
    width: int  # number of counts kept before the last child
    final_width: int  # number of counts kept after the last child
    means: tuple  # expected number of heads, k j / (nodes children)
    slacks: tuple  # largest |mean - means[j]| for which TAIL holds; inf if the law is complete or not stored


def log_tail(mean, count):
    """Chernoff bound of log P(S >= count) for count >= mean and of log P(S <= count) for count <= mean.

    It is the bound of a Poisson variable, whose moment generating function exceeds that of any sum of independent
    coins with the same mean.
    """
    if count <= 0:
        return -mean
    return count - mean + count * math.log(mean / count) if mean > 0 else -math.inf


def _first(holds: Callable[..., Any], start: int, stop: int) -> int:
    """Smallest integer in [start, stop) for which the monotone predicate holds, or stop if there is none."""
    while start < stop:
        middle = (start + stop) // 2
        start, stop = (start, middle) if holds(middle) else (middle + 1, stop)
    return start


def window(mean, slack, most, log_eps):
    """Range (low, high) of counts to keep, of at most `most` heads with a mean within slack; (0, most) if all.

    Each side drops a probability below exp(log_eps). The upper end has one count more than the coins need, for the
    special item of the rank-one part (see rank_one.py).
    """
    least = max(mean - slack, 0.0)
    largest = mean + slack
    top = _first(lambda s: log_tail(largest, s + 1) <= log_eps, math.ceil(largest), most) + 1
    low = _first(lambda s: log_tail(least, s) > log_eps, 0, math.floor(least)) if least > -log_eps else 0
    return min(low, most), min(top, most)


@functools.lru_cache(maxsize=1024)
def stage(children, nodes, items, k):
    """The Stage that combines `children` children of `items` items each into `nodes` nodes, for k heads in total."""
    log_eps = math.log(TAIL / 2 / (nodes * children))
    means = [k * j / (nodes * children) for j in range(children + 1)]
    slacks = [1 + j * (1 - j / children) + 0.5 * math.sqrt(mean) for j, mean in enumerate(means)]
    most = [min(j * items, k) for j in range(children + 1)]
    windows = [window(*x, log_eps) if items > 1 else (0, x[2]) for x in zip(means, slacks, most, strict=True)]
    whole = [bounds == (0, top) for bounds, top in zip(windows, most, strict=True)]
    slacks = [math.inf if w else slack for w, slack in zip(whole, slacks, strict=True)]
    widths = [high - low + 1 for low, high in windows]
    lows = tuple(low for low, _ in windows)
    return Stage(children, nodes, lows, max(widths), widths[-1], tuple(means), tuple(slacks))


def even(b, stages):
    """Whether the error bound of the window holds for the mean of every law: b (size,) coins -> () bool."""
    means = b
    ok = jnp.array(True)
    for stage in stages:
        means = means.reshape(stage.children, stage.nodes)
        needs_partial = min(stage.slacks[:-1]) < math.inf
        means = jnp.cumsum(means, axis=0) if needs_partial else jnp.sum(means, axis=0, keepdims=True)
        expected, slacks = stage.means[-means.shape[0] :], stage.slacks[-means.shape[0] :]
        if min(slacks) < math.inf:
            off = jnp.abs(means - jnp.array(expected)[:, None])
            ok = ok & jnp.all(off <= jnp.array(slacks)[:, None])
        means = means[-1]
    return ok
