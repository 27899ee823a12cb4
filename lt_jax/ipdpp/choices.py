"""Vectorised over nodes: random numbers, weighted choices, and selection of nodes that have items."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.ipdpp import structure

ROWS = 32  # maximum number of weights that are added sequentially


def chance(key, number):
    """Random number in [0, 1) with an index: jax.random.uniform(key, (n,))[number]. uint32 key (2,) and number.

    Threefry-2x32 with 20 rounds (Salmon et al., SC 2011). It is written out because jax.random generates all numbers
    in a separate loop, whose steps a CPU splits among threads: waking them takes longer than the numbers. Here each
    number is generated in the step that uses it.
    """
    x, y = jnp.broadcast_to(key[0], number.shape), number + key[1]
    words = key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)
    for i in range(5):
        for distance in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            x = x + y
            y = (y << np.uint32(distance) | y >> np.uint32(32 - distance)) ^ x
        x, y = x + words[(i + 1) % 3], y + words[(i + 2) % 3] + np.uint32(i + 1)
    mantissa = (x ^ y) >> np.uint32(9)
    return jax.lax.bitcast_convert_type(mantissa | np.uint32(0x3F800000), jnp.float32) - 1


def pick(uniform, weights):
    """(row, fraction): `choose` by a sequential sum, and the fraction in [0, 1) of the row's weight that is passed."""
    weights = jax.lax.optimization_barrier(weights)  # else the compiler recomputes them for every sum
    running = list(itertools.accumulate(weights[row] for row in range(weights.shape[0])))
    threshold = uniform * running[-1]
    row = sum((x <= threshold).astype(jnp.int32) for x in running[:-1])
    rows = jnp.arange(weights.shape[0], dtype=jnp.int32)[:, None]
    before = jnp.sum(jnp.where(rows < row[None, :], weights, 0), axis=0)
    inside = jnp.sum(jnp.where(rows == row[None, :], weights, 0), axis=0)
    return row, jnp.clip((threshold - before) / inside, 0, 1 - 2**-24)


def choose(uniform, weights):
    """First row whose running sum of weights exceeds uniform times the total: (A,), (W, A) -> (A,) int32.

    A row of weight zero is never chosen, since sequential sums never decrease. Among many rows a block is chosen first,
    then a row of the block with the remaining fraction of the random number.
    """
    rows, nodes = weights.shape
    if rows <= ROWS:
        return pick(uniform, weights)[0]
    size = math.isqrt(rows - 1) + 1
    blocks = jnp.pad(weights, ((0, -rows % size), (0, 0))).reshape(-1, size, nodes)
    blocks = jax.lax.optimization_barrier(blocks)
    block, left = pick(uniform, jnp.sum(blocks, axis=1))
    return block * size + pick(left, blocks[block, :, jnp.arange(nodes)].T)[0]


def keep_nonempty(numbers, count, special, k):
    """The at most k nodes that hold items, padded with empty ones: three arrays (A,) -> three (k,).

    The nodes are arranged in rows, which are fast to sum, and returned in column order.
    """
    rows = math.gcd(count.shape[0], 16)
    held = (count > 0).astype(jnp.float32).reshape(rows, -1)
    up_to = jnp.tril(jnp.ones((rows, rows), jnp.float32))
    running = jnp.matmul(up_to, held, precision=structure.PRECISION).astype(jnp.int32)
    ends = jnp.cumsum(running[-1])
    columns = running.shape[1]
    rank = jnp.arange(1, k + 1, dtype=jnp.int32)
    column = jnp.searchsorted(ends, rank)
    beyond, column = column == columns, jnp.minimum(column, columns - 1)
    rank = rank - (ends - running[-1])[column]
    row = jnp.sum((running[:, column] < rank[None, :]).astype(jnp.int32), axis=0)
    positions = jnp.where(beyond, rows * columns, row * columns + column)
    return tuple(x.at[positions].get(mode="fill", fill_value=0) for x in (numbers, count, special))
