"""The same exact draw as rank_one.py for small classes: one item after the other instead of a tree.

The polynomials P and Q of the first i items follow from those of the first i - 1: multiply (P + eps Q) by
(1 - b_i + b_i t + eps v_i t). All of them are kept, N (k + 1) numbers each; then items N, N - 1, .. are
left out, taken, or taken as the special one, with probability proportional to the product of their own term
and the coefficient of what must remain. Two loops and nothing else: it compiles in a fraction of the tree's
time, and up to a thousand items it is about as fast.
"""

import jax
import jax.numpy as jnp

from lt_jax.ipdpp import rank_one, structure


def shift(law):
    """Times t: (.., k + 1) -> (.., k + 1)."""
    return jnp.concatenate([jnp.zeros_like(law[..., :1]), law[..., :-1]], axis=-1)


def forward(b, not_b, v, k):
    """Coefficients of P and Q of the first 0, 1, .. N - 1 items, (N, 2, k + 1), and of all, (2, k + 1).

    Each pair is divided by the mass of its P, which changes no draw and keeps rounding from building up.
    """
    start = jnp.zeros((2, k + 1), b.dtype).at[0, 0].set(1)

    def multiply(laws, item):
        b, not_b, v = item
        shifted = shift(laws)
        special = jnp.stack([jnp.zeros_like(shifted[0]), v * shifted[0]])
        laws_after = not_b * laws + b * shifted + special
        return laws_after / jnp.sum(laws_after[0]), laws

    after, before = jax.lax.scan(multiply, start, (b, not_b, v))
    return before, after


def backward(uniform, special, before, b, not_b, v, k):
    """Which items are taken, (N,) bool: uniform (N,), special () bool, before (N, 2, k + 1)."""

    def decide(state, item):
        left, special = state
        uniform, laws, b, not_b, v = item
        some = left > 0
        here, fewer = laws[:, left], jnp.where(some, laws[:, jnp.maximum(left - 1, 0)], 0)
        pending = special.astype(jnp.int32)
        leave = not_b * here[pending]
        take = leave + b * fewer[pending]
        total = take + jnp.where(special, v * fewer[0], 0)
        threshold = uniform * total
        taken, as_special = threshold >= leave, threshold >= take
        return (left - taken.astype(left.dtype), special & ~as_special), taken

    start = jnp.asarray(k, jnp.int32), special
    return jax.lax.scan(decide, start, (uniform, before, b, not_b, v), reverse=True)[1]


def draw(key, log_p, n, relative_scale, k):
    """One exact draw: log_p (size,) with the n items in front -> (k,) sorted int32; -1s for invalid p."""
    s = structure.structure(log_p, n, relative_scale)
    theta = rank_one.tilt(s.log_d, s.present, s.n, k)
    b, not_b, v, log_s = rank_one.coins(s, theta)
    before, after = forward(b, not_b, v, k)
    uniform = jax.random.uniform(key, (1 + b.shape[0],))
    special = uniform[0] < rank_one.share_of_special(after[0, k], after[1, k], log_s)
    taken = backward(uniform[1:], special, before, b, not_b, v, k)
    return jnp.where(s.valid, jnp.flatnonzero(taken, size=k, fill_value=-1).astype(jnp.int32), -1)
