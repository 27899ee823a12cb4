"""Exact draws from the fixed-size DPP of a diagonal plus a rank-one kernel, without any matrix.

**The law.** With S = diag(d) + u u^T (structure.py) the determinant of a subset Y of k items is

    det(S_Y) = prod_{i in Y} d_i  +  sum_{j in Y} u_j^2 prod_{i in Y, i != j} d_i               (1)

by the matrix determinant lemma, multiplied out so that no d_j divides. Read (1) as a sum over pairs: a
subset, and either no special item or one special item j in it. Every term is non-negative. So drawing the
*pair* with probability proportional to its term, and then forgetting which item was special, draws Y from
the k-DPP. That is a mixture; nothing is ever rejected.

**Coins.** For any c > 0 let b_i = c d_i / (1 + c d_i). Divided by prod_i (1 + c d_i) and multiplied by c^k,
the first term of (1) is the probability that independent coins b fall on exactly Y. In the second, item j
contributes u_j^2 c / (1 + c d_j) = u_j^2 c (1 - b_j) in place of its coin. The law is the same for every c;
we solve sum_i b_i = k, which puts all the mass where the numbers are near one ("tilt").

**Dual numbers.** Give every set of items A two polynomials, P_A(t) = sum_s P(s heads in A) t^s and

    Q_A(t) = sum_{j in A} v_j t prod_{i in A, i != j} (1 - b_i + b_i t),      v_j = p_j^2 (1 - b_j) / sum(..),

without and with a special item in A. For disjoint A and B

    P_{A+B} = P_A P_B,        Q_{A+B} = P_A Q_B + Q_A P_B,                                       (2)

which is multiplication of dual numbers P + eps Q. The coefficient of t^k at the root of a binary tree over
all items is the normaliser of the k-DPP: Z_k ~ P[k] + s Q[k], s = a c sum_j p_j^2 (1 - b_j).

**Drawing** runs (2) backwards. At the root there are k items, and a special one with probability
s Q[k] / (P[k] + s Q[k]). A node with s items and no special one gives a of them to its left child with
probability proportional to P_left[a] P_right[s - a]; the node with the special item draws (a, side) from
Q_left[a] P_right[s - a] and P_left[a] Q_right[s - a]. At depth log2 N the nodes are the items.

Cost: the tree costs O(N) at the bottom and about k log(1/TAIL) per depth above (counts.py); the descent
follows k items. Memory is linear in N. Every number is a sum of products of non-negative numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lt_jax.ipdpp import counts, structure


class Plan(NamedTuple):
    """Everything that fixes the shapes of the computation for (size, k); hashable, so a static argument."""

    k: int
    depth: int  # of the tree: size = 2^depth places
    windows: tuple  # Window of the laws at depths 0 .. depth
    follow: int  # from this depth on, the descent follows items instead of nodes
    order: str  # "given", "sorted", or "even": sorted only if the nodes' means are too uneven for the windows


def plan(size, k, follow=None, order="even"):
    """The plan for `size` places (a power of two) and k items, 0 < k < size.

    `follow` and `order` choose between ways of computing the same thing; tests walk all of them.
    """
    depth = max(size - 1, 1).bit_length()
    below = tuple(counts.window(k, level, 2 ** (depth - level)) for level in range(1, depth + 1))
    windows = (counts.Window(k, 1, 1.0), *below)
    follow = (k - 1).bit_length() if follow is None else follow
    if order == "even" and all(window.slack == float("inf") for window in below):
        order = "given"
    return Plan(k, depth, windows, min(follow, depth), order)


def tilt(log_d, present, n, k):
    """theta = log c with sum_i sigmoid(theta + log d_i) = k nearly; log_d (size,) -> ().

    Newton's method on logit(sum / n), which is linear when all d are equal, kept inside a bracket that is
    halved where Newton would leave it. Any theta gives the same law, so it may stop early: the mean number of
    heads has to be k only within a small part of its standard deviation.
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


def grow(b, not_b, v, windows):
    """The laws P and Q of every node, by (2) from the items up.

    b, not_b, v (2^depth,). Returns a list over depths 0 .. depth of P and Q, (2, width, 2^l), and the log
    of the number, (), that all of them together were divided by; depth 0 is one number each, the
    coefficient of t^k.
    """
    laws = jnp.stack([jnp.stack([not_b, b]), jnp.stack([jnp.zeros_like(v), v])])
    every, log_mass = [laws], jnp.zeros((), b.dtype)
    for level in range(len(windows) - 2, -1, -1):
        below, above = windows[level + 1], windows[level]
        laws, mass = counts.merge(laws, above.low - 2 * below.low, above.width)
        log_mass = log_mass + structure.tree_sum(jnp.log(mass))
        every.append(laws)
    return every[::-1], log_mass


def share_of_special(p, q, log_s):
    """P(a draw has a special item), from the coefficients of t^k of P and Q: s q / (p + s q)."""
    return jax.nn.sigmoid(log_s + jnp.log(q) - jnp.log(p))


def choose(uniform, weights):
    """First row whose running sum of weights exceeds uniform times the total: (A,), (W, A) -> (A,) int32.

    Also returns the total, (A,). Never a row of weight zero, in whatever order the running sum was rounded.
    """
    rows = jnp.arange(weights.shape[0], dtype=jnp.int32)
    up_to = (rows[:, None] >= rows[None, :]).astype(weights.dtype)
    running = jnp.matmul(up_to, weights, precision=structure.PRECISION)
    running = jnp.where(weights > 0, running, 0)
    total = jnp.max(running, axis=0)
    return jnp.argmax(running > (uniform * total)[None, :], axis=0).astype(jnp.int32), total


def take(array, *numbers):
    """array[numbers] for int32 numbers known to be in range."""
    return array.at[numbers].get(mode="promise_in_bounds", wrap_negative_indices=False)


def split(uniform, node, count, special, laws, low):
    """How many of their items nodes of one depth give to their left children.

    node, count (A,); special: the number and the count, (), of the node to split as the one that has the
    special item. laws (2, W, 2 nodes): P and Q of the depth below, counts from low on. uniform (A + 3,).
    Returns the counts going left (A,), the special node's, and whether its item goes left.

    The special node is two more columns, with Q in place of P on the left and on the right: one of them is
    chosen by the sums of the weights.
    """
    width, ones = laws.shape[1], jnp.ones((2,), jnp.int32)
    node = jnp.concatenate([node, special[0] * ones])
    count = jnp.concatenate([count, special[1] * ones])
    column = jnp.arange(node.shape[0], dtype=jnp.int32) - (node.shape[0] - 2)
    use_q = [jnp.broadcast_to(column == side, (width, *node.shape)).astype(jnp.int32) for side in (0, 1)]
    row = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[:, None], use_q[0].shape)
    opposite = count[None, :] - 2 * low - row
    inside = (opposite >= 0) & (opposite < width)
    node = jnp.broadcast_to(node[None, :], row.shape)
    left = take(laws, use_q[0], row, node)
    right = take(laws, use_q[1], jnp.where(inside, opposite, 0), node + laws.shape[2] // 2)
    row, total = choose(uniform[:-1], jnp.where(inside, left * right, 0))
    going, goes_left = low + row, uniform[-1] * (total[-2] + total[-1]) < total[-2]
    return going[:-2], jnp.where(goes_left, going[-2], going[-1]), goes_left


def descend_nodes(uniforms, special, plan, laws):
    """Counts of all nodes at depth plan.follow, (2^follow,), and the special item's node there.

    special () bool: whether there is one. uniforms[l] holds a number for every node of depth l, and three
    more.
    """
    count, special_node = jnp.full((1,), plan.k, jnp.int32), jnp.zeros((), jnp.int32)
    for level in range(plan.follow):
        node, low = jnp.arange(2**level, dtype=jnp.int32), plan.windows[level + 1].low
        marked = special_node, take(count, special_node)
        left, special_left, goes_left = split(uniforms[level], node, count, marked, laws[level + 1], low)
        left = jnp.where(special & (node == special_node), special_left, left)
        count = jnp.concatenate([left, count - left])
        special_node = jnp.where(goes_left, special_node, special_node + 2**level)
    return count, special_node


def descend_items(uniforms, special, special_node, count, plan, laws):
    """From the counts of the nodes at depth plan.follow, (2^follow,), to the k chosen leaves, (k,) int32.

    Each of the k chosen items now walks down alone, knowing its node, the node's count and its own rank among
    the items of that node. These stand side by side, so the first of them lends its uniform number to all,
    and all agree on how many go left: the ones with the lowest ranks.
    """
    places = jnp.arange(plan.k, dtype=jnp.int32)
    nodes = jnp.arange(count.shape[0], dtype=jnp.int32)
    node = jnp.repeat(nodes, count, total_repeat_length=plan.k)
    rank = places - take(jnp.cumsum(count) - count, node)
    count = take(count, node)
    for level in range(plan.follow, plan.depth):
        at_special, low = node == special_node, plan.windows[level + 1].low
        marked = special_node, jnp.max(jnp.where(at_special, count, 0))
        u = jnp.concatenate([take(uniforms[level], places - rank), uniforms[level][plan.k :]])
        left, special_left, goes_left = split(u, node, count, marked, laws[level + 1], low)
        left = jnp.where(special & at_special, special_left, left)
        goes_right = rank >= left
        node = jnp.where(goes_right, node + 2**level, node)
        count = jnp.where(goes_right, count - left, left)
        rank = jnp.where(goes_right, rank - left, rank)
        special_node = jnp.where(goes_left, special_node, special_node + 2**level)
    return node


def uniforms_of(key, plan):
    """One uniform number for the root, and for every depth one a node (later: an item) and three more."""
    sizes = [(2**level if level < plan.follow else plan.k) + 3 for level in range(plan.depth)]
    flat = jax.random.uniform(key, (1 + sum(sizes),))
    starts = [1 + sum(sizes[:level]) for level in range(plan.depth)]
    return flat[0], [flat[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def arrange(b, not_b, v, plan):
    """Deal the items to the leaves: as they come, or sorted where nodes would be too uneven for the windows.

    Returns b, not_b, v and the items' numbers, (size,) each, in the order of the leaves.
    """
    numbers = jnp.arange(b.shape[0], dtype=jnp.int32)

    def by_coin():
        order = jnp.argsort(-b, stable=True).astype(jnp.int32)
        return b[order], not_b[order], v[order], order

    if plan.order == "given":
        return b, not_b, v, numbers
    if plan.order == "sorted":
        return by_coin()
    return jax.lax.cond(counts.even(b, plan.windows), lambda: (b, not_b, v, numbers), by_coin)


def draw(key, log_p, n, relative_scale, plan):
    """One exact draw: log_p (size,) with the n items in front -> (k,) sorted int32; -1s where p is invalid.

    size is the power of two of the plan; 0 < k < n. relative_scale is N times the kernel's scale.
    """
    s = structure.structure(log_p, n, relative_scale)
    theta = tilt(s.log_d, s.present, s.n, plan.k)
    b, not_b, v, log_s = coins(s, theta)
    b, not_b, v, numbers = arrange(b, not_b, v, plan)
    laws, _ = grow(b, not_b, v, plan.windows)
    u_root, uniforms = uniforms_of(key, plan)
    special = u_root < share_of_special(*laws[0][:, 0, 0], log_s)
    count, special_node = descend_nodes(uniforms, special, plan, laws)
    leaves = descend_items(uniforms, special, special_node, count, plan, laws)
    return jnp.where(s.valid, jnp.sort(take(numbers, leaves)), -1)
