"""Exact draws from the fixed-size DPP of a diagonal plus rank-one kernel, without forming a matrix.

**The law.** With S = diag(d) + u u^T (structure.py) the determinant of a subset Y of k items is

    det(S_Y) = prod_{i in Y} d_i  +  sum_{j in Y} u_j^2 prod_{i in Y, i != j} d_i               (1)

by the matrix determinant lemma, multiplied out to avoid division by d_j. Read (1) as a sum over pairs: a subset,
and either no special item or one special item j in it. Every term is non-negative. So drawing a *pair* with
probability proportional to its term, and then discarding which item was special, draws Y from the k-DPP. This is a
mixture, without rejection.

**Coins.** For any c > 0 let b_i = c d_i / (1 + c d_i). Divided by prod_i (1 + c d_i) and multiplied by c^k,
the first term of (1) is the probability that independent coins b show heads exactly on Y. In the second, item j
contributes u_j^2 c / (1 + c d_j) = u_j^2 c (1 - b_j) in place of its coin. The law is the same for every c;
we solve sum_i b_i = k, which puts all the mass where the numbers are near one (`tilt`).

**Dual numbers.** Give every set of items A two polynomials, P_A(t) = sum_s P(s heads in A) t^s and

    Q_A(t) = sum_{j in A} v_j t prod_{i in A, i != j} (1 - b_i + b_i t),      v_j = p_j^2 (1 - b_j) / sum(..),

without and with a special item in A. For disjoint A and B

    P_{A+B} = P_A P_B,        Q_{A+B} = P_A Q_B + Q_A P_B,                                       (2)

which is multiplication of dual numbers P + eps Q. With all items, the coefficient of t^k is the normaliser of
the k-DPP: Z_k ~ P[k] + s Q[k], s = a c sum_j p_j^2 (1 - b_j).

**Up.** Coefficients are stored as `laws`: P and Q, indexed by the count of heads, for many sets ("nodes") at once. A
`chain` multiplies the children of every node one after the other by (2) and stores the partial products. A few stages
of chains lead from the items to the root (counts.py); a class of up to a thousand items is a single chain.

**Down.** The root has k items, and a special one with probability s Q[k] / (P[k] + s Q[k]). `unchain` visits every
chain backwards. With B the last of the remaining children and A those before it, a node with n
items gives m to B with probability proportional to P_A[n - m] P_B[m] if it has no special item, and otherwise
to Q_A[n - m] P_B[m] (it stays in A) or P_A[n - m] Q_B[m] (it goes to B) (`give`). At the bottom the
children are the items.

Every number is a sum of products of non-negative numbers. The bottom costs O(N); the stages above use windows of
counts, and only the at most k nodes with items are followed down. Memory is linear in N.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lt_jax.ipdpp import choices, counts, structure

CHAIN = 1024  # up to this size a class is a single chain
MOST_BITS = 7  # larger classes have stages of at most 2^7 children; the lowest two have 10 to 16 and 16
SHORT = 32  # up to this number of items, laws are normalised only once
UNROLL = 4  # terms of a product that are added per loop iteration
BLOCK = 512  # nodes that a CPU processes at a time, to stay in its cache


class Items(NamedTuple):
    """The children of the first stage, (R, A) each: tails and heads of their coins, and weight if special."""

    not_b: jax.Array
    b: jax.Array
    v: jax.Array


class Dual(NamedTuple):
    """Coefficients of P and Q of many nodes, each (width, nodes): one row for every stored count of heads."""

    p: jax.Array
    q: jax.Array


class Plan(NamedTuple):
    """All static parameters of the computation for (size, k); hashable, for use as a static argument."""

    k: int
    stages: tuple  # of counts.Stage, from the items to the root
    order: str  # "given", "sorted", or "even": sorted only if the means are too uneven for the windows


def radices(size):
    """Number of children per node, stage by stage from the items up; the product is `size`, 5 to 8 times 2^j."""
    if size <= CHAIN:
        return (size,)
    bits = (size - 1).bit_length() - 4
    bottom = size >> bits
    upper_bits = max(bits - 4, 0)
    stages = -(-upper_bits // MOST_BITS)
    above = (1 << (upper_bits * (i + 1) // stages - upper_bits * i // stages) for i in range(stages))
    return (bottom, 1 << (bits - upper_bits), *above)


@functools.lru_cache(maxsize=1024)
def plan(size, k, chosen=None, order="even"):
    """The plan for `size` positions, 0 < k < size; `chosen` radices and order are for tests."""
    stages, items = [], 1
    for children in chosen or radices(size):
        stages.append(counts.stage(children, size // (items * children), items, k))
        items *= children
    if order == "even" and all(min(stage.slacks) == math.inf for stage in stages):
        order = "given"
    return Plan(k, tuple(stages), order)


def tilt(log_d, present, n, k):
    """theta = log c with sum_i sigmoid(theta + log d_i) close to k; log_d (size,) -> ().

    Newton's method on logit(sum / n), which is linear if all d are equal, with bisection when a step leaves the
    bracket. Any theta gives the same law, so it stops early: the mean number of heads needs to equal k only within a
    small fraction of its standard deviation.
    """
    target = jnp.log(k / (n - k))
    low = target - jnp.max(jnp.where(present, log_d, -jnp.inf))
    high = target - jnp.min(jnp.where(present, log_d, jnp.inf))

    def evaluate(theta):
        b = jax.nn.sigmoid(theta + log_d)
        return structure.tree_sum(b), structure.tree_sum(b * jax.nn.sigmoid(-theta - log_d))

    def unfinished(state):
        steps, _, _, _, total, variance = state
        return (steps < 60) & (jnp.abs(total - k) > 0.02 * (1 + jnp.sqrt(variance)))

    def step(state):
        steps, low, high, theta, total, variance = state
        low, high = jnp.where(total < k, theta, low), jnp.where(total < k, high, theta)
        gap = jnp.log(total / (n - total)) - target
        newton = theta - gap * total * (1 - total / n) / variance
        inside = (newton > low) & (newton < high)
        theta = jnp.where(inside, newton, 0.5 * (low + high))
        return steps + 1, low, high, theta, *evaluate(theta)

    start = jnp.clip(target - jnp.log(structure.tree_sum(jnp.exp(log_d)) / n), low, high)
    return jax.lax.while_loop(unfinished, step, (0, low, high, start, *evaluate(start)))[3]


def coins(s, theta):
    """Coins b (size,), their complements, the special item's weights v (size,) summing to one, and log s."""
    b, not_b = jax.nn.sigmoid(theta + s.log_d), jax.nn.sigmoid(-theta - s.log_d)
    v = jnp.square(s.p) * not_b
    total = structure.tree_sum(v)
    v = v / jnp.where(total > 0, total, 1)
    return b, not_b, v, s.log_a + theta + jnp.log(total)


def with_margin(laws, left, right):
    """The laws padded with rows of zeros on both sides, the counts outside their range."""
    padded = jax.tree.map(lambda x: jnp.pad(x, ((left, right), (0, 0))), laws)
    return jax.lax.optimization_barrier(padded)  # else the compiler tests for the margin at every term


def add_item(laws, item):
    """The product (2) of laws (W, A) whose counts start at zero and one item per node, Items of (A,) each."""
    more = jax.tree.map(lambda x: x[:-1], with_margin(laws, 1, 0))
    not_b, b, v = (x[None, :] for x in item)
    return Dual(not_b * laws.p + b * more.p, not_b * laws.q + b * more.q + v * more.p)


def multiply(laws, child, start, starts, rows):
    """The product (2) of laws (W, A) and child (w, A): row i is the sum over a of child[a] laws[start + i - a].

    start may be traced; starts lists its possible values as ints.
    """
    terms = child.p.shape[0]
    left, right = max(0, terms - 1 - min(starts)), max(0, max(starts) + rows - laws.p.shape[0])
    padded = with_margin(laws, left, right)

    def add(a, product):
        p, q = (jax.lax.dynamic_slice_in_dim(x, left + start - a, rows, 0) for x in padded)
        p_a, q_a = child.p[a][None, :], child.q[a][None, :]
        return Dual(product.p + p_a * p, product.q + p_a * q + q_a * p)

    zero = jnp.zeros((rows, laws.p.shape[1]), laws.p.dtype)
    return jax.lax.fori_loop(0, terms, add, Dual(zero, zero), unroll=min(UNROLL, terms))


def unit(laws):
    """Laws (W, A) divided by the sum of P, and these sums, (A,)."""
    mass = jax.lax.stop_gradient(jnp.sum(laws.p, axis=0))
    return jax.tree.map(lambda x: x / mass[None, :], laws), mass


def chain(children, stage, low):
    """Products of the children of every node: Items of (R, A), or Dual of (R, w, A) whose counts start at low.

    Returns the products of the first 0 .. R - 1 children, P and Q in one array (R, 2, W, A), the product of all, Dual
    of (W, A), and their divisors (1 or R, A), which make every P sum to one. A few items are normalised only once at
    the end, since each of their laws already sums to one up to rounding. A common factor changes no draw.
    """
    items = isinstance(children, Items)
    short = items and stage.children <= SHORT
    starts = [after - before - low for before, after in zip(stage.lows, stage.lows[1:], strict=False)]

    def append(laws, step):
        child, start = step
        product = add_item(laws, child) if items else multiply(laws, child, start, starts, stage.width)
        if short:
            return product, (jnp.stack(laws), None)
        product, mass = unit(product)
        return product, (jnp.stack(laws), mass)

    zero = jnp.zeros((stage.width, children[0].shape[-1]), children[0].dtype)
    steps = children, jnp.array(starts, jnp.int32)
    after, (before, masses) = jax.lax.scan(jax.checkpoint(append), Dual(zero.at[0].set(1), zero), steps)
    if short:
        after, mass = unit(after)
        masses = mass[None, :]
    return before, after, masses


def products(children, stage, low):
    """The last two results of `chain`, computed in blocks that fit the cache."""
    block = min(BLOCK, stage.nodes)
    blocks = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], -1, block), -2, 0), children)
    done = jax.lax.map(lambda block: chain(block, stage, low)[1:], blocks)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1), done)


def children_of(laws, stage):
    """Dual of (w, R A) -> (R, w, A): child c of node r is r + c A."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0], stage.children, stage.nodes), 1, 0), laws)


def follows_few(plan, nodes):
    """Whether `down` follows only nodes with items, so that `up` need not store products."""
    return 2 * plan.k <= nodes


def up(b, not_b, v, plan):
    """Combines the items, (size,) each, up to the root.

    Returns the coefficients of t^k of P and Q, (), the log of their common divisor, and for `down` a list over the
    stages of (children, products before each child). The products are None if there are many more nodes than items to
    draw.
    """
    items = Items(*(x.reshape(-1, plan.stages[0].nodes) for x in (not_b, b, v)))
    passed = []
    log_mass = jnp.zeros((), b.dtype)
    low = 0
    laws = None
    for stage in plan.stages:
        children = children_of(laws, stage) if laws else items
        before = None
        if follows_few(plan, stage.nodes):
            laws, masses = products(children, stage, low)
        else:
            before, laws, masses = chain(children, stage, low)
        passed.append((children, before))
        low, laws = stage.lows[-1], jax.tree.map(lambda x, width=stage.final_width: x[:width], laws)
        log_mass = log_mass + structure.tree_sum(jnp.log(masses).ravel())
    return Dual(laws.p[-1, 0], laws.q[-1, 0]), log_mass, passed


def share_of_special(root, log_s):
    """Probability that a draw has a special item, s q / (p + s q), from the coefficients of t^k of P and Q."""
    return jax.nn.sigmoid(log_s + jnp.log(root.q) - jnp.log(root.p))


def remaining(laws, count, child, special):
    """Coefficients of P (of Q for special nodes) in row count - m, for every row m of child (w, A): (w, A).

    laws: P and Q in one array (2, W, A).
    """
    _, width, nodes = laws.shape
    row = count[None, :] - jnp.arange(child.p.shape[0], dtype=jnp.int32)[:, None]
    inside = (row >= 0) & (row < width)
    column = jnp.where(special, width * nodes, 0) + jnp.arange(nodes, dtype=jnp.int32)  # Q is stored after P
    positions = jnp.where(inside, row, 0) * nodes + column[None, :]
    return jnp.where(inside, laws.ravel().at[positions].get(mode="promise_in_bounds"), 0)


def give(uniform, child, laws, count, special):
    """Draws what a node passes to its child: the row of the child's law, and whether the special item, (A,) each.

    child is a Dual of (w, A); Q may omit leading zero rows. laws, count: as in `remaining`.
    """
    rows, zero = child.p.shape[0], child.p.shape[0] - child.q.shape[0]
    stays = child.p * remaining(laws, count, child, special)
    goes = child.q * remaining(laws, count, child, False)[zero:]
    row = choices.choose(uniform, jnp.concatenate([stays, jnp.where(special[None, :], goes, 0)]))
    with_special = row >= rows
    return jnp.where(with_special, row - rows + zero, row), with_special


def unchain(key, number, children, before, stage, low, count, special):
    """Divide the items of every node among its children: count (A,) and special (A,) bool -> both (R, A).

    children and before are as in `chain`; number is the index of the first random number.
    """

    def decide(state, step):
        left, special = state
        number, child, before, before_low = step
        if isinstance(child, Items):
            child = Dual(jnp.stack([child.not_b, child.b]), child.v[None, :])
        # A barrier, since the following operations work in rows of many columns.
        uniform = jax.lax.optimization_barrier(choices.chance(key, number))
        row, with_special = give(uniform, child, before, left - low - before_low, special)
        return (left - low - row, special & ~with_special), (low + row, with_special)

    numbers = number + jnp.arange(stage.children * count.shape[0], dtype=jnp.uint32).reshape(stage.children, -1)
    steps = numbers, children, before, jnp.array(stage.lows[:-1], jnp.int32)
    return jax.lax.scan(decide, (count, special), steps, reverse=True)[1]


def down(key, special, plan, passed):
    """The k chosen positions, (k,) int32, from k items at the root and whether one of them is special."""
    numbers = jnp.zeros((1,), jnp.int32)
    count = jnp.full((1,), plan.k, jnp.int32)
    special = special[None]
    lows = [0, *(stage.lows[-1] for stage in plan.stages)]  # of the children of every stage
    key = jax.random.key_data(jax.random.fold_in(key, 0))
    drawn = 0
    for stage, low, (children, before) in zip(plan.stages[::-1], lows[-2::-1], passed[::-1], strict=True):
        if follows_few(plan, stage.nodes):
            numbers, count, special = choices.keep_nonempty(numbers, count, special, plan.k)
            children = jax.tree.map(lambda x, nodes=numbers: x[..., nodes], children)
            before = chain(children, stage, low)[0]
        count, special = unchain(key, drawn, children, before, stage, low, count, special)
        drawn += count.size
        child = jnp.arange(stage.children, dtype=jnp.int32) * stage.nodes
        numbers, count, special = (child[:, None] + numbers[None, :]).ravel(), count.ravel(), special.ravel()
    return choices.keep_nonempty(numbers, count, special, plan.k)[0]


def arrange(b, not_b, v, plan):
    """Assigns the items to positions: in input order, or sorted if nodes would be too uneven for the windows.

    Returns b, not_b, v and the item numbers, (size,) each, in the order of the positions.
    """
    numbers = jnp.arange(b.shape[0], dtype=jnp.int32)

    def by_coin():
        order = jnp.argsort(-b, stable=True).astype(jnp.int32)
        return b[order], not_b[order], v[order], order

    if plan.order == "given":
        return b, not_b, v, numbers
    if plan.order == "sorted":
        return by_coin()
    return jax.lax.cond(counts.even(b, plan.stages), lambda: (b, not_b, v, numbers), by_coin)


def draw(key, log_p, n, relative_scale, plan):
    """One exact draw: log_p (size,) with n items in front -> (k,) sorted int32; all -1 if p is invalid.

    size must match the plan; 0 < k < n. relative_scale is N times the kernel's scale.
    """
    s = structure.structure(log_p, n, relative_scale)
    theta = tilt(s.log_d, s.present, s.n, plan.k)
    b, not_b, v, log_s = coins(s, theta)
    b, not_b, v, numbers = arrange(b, not_b, v, plan)
    root, _, passed = up(b, not_b, v, plan)
    key_root, key_down = jax.random.split(key)
    special = jax.random.uniform(key_root) < share_of_special(root, log_s)
    positions = down(key_down, special, plan, passed)
    return jnp.where(s.valid, jnp.sort(numbers[positions]), -1)
