"""The kernel of IP-DPP as a diagonal plus a matrix of rank one, which makes it cheap.

For N items, p_i the probability that the classifier gives to the true label of item i (BNS + IP-DPP, NeurIPS 2025,
arXiv 2510.08836, Eq. 16), and scale a = 1/N,

    S_ij = a p_i p_j   (i != j),        S_ii = 1 - sum_{j != i} S_ij,

so every row sums to one, and therefore

    S = diag(d) + u u^T,    d_i = 1 - a p_i sum_j p_j,    u_i = sqrt(a) p_i.

A trained network gives 1 - p of 1e-9, where p itself rounds to one in float32. Everything here starts from
log p, and with q_i = 1 - p_i = -expm1(log p_i) and r = a N (one for the paper's kernel)

    d_i = q_i + p_i mean(q) + (1 - r) p_i mean(p),

a sum of non-negative terms for r <= 1: nothing cancels, however close p is to one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# By default TPUs and recent GPUs round the inputs of float32 matrix products.
PRECISION = jax.lax.Precision.HIGHEST

# Lower bound of the diagonal. For r = 1 it is reached only if every p is one; the kernel then has rank one, and a
# common bound makes the law uniform, which is the convention for that case.
SMALLEST = 1e-37


class Structure(NamedTuple):
    """S = diag(exp(log_d)) + a p p^T over `size` positions, of which the first n hold items."""

    log_d: jax.Array  # (size,), -inf in the padding
    p: jax.Array  # (size,), 0 in the padding
    log_a: jax.Array  # (), log of the scale
    present: jax.Array  # (size,) bool
    n: jax.Array  # (), float32
    valid: jax.Array  # (), bool: every p is in [0, 1] and d >= 0


def tree_sum(x):
    """Sum (size,) -> () by repeatedly adding the rows of a matrix.

    The order of the additions is fixed, so a sum has the same bits alone and in a batch, whatever the compiler does;
    the rounding error grows with the logarithm of the size.
    """
    while x.shape[0] > 1:
        rows = min(32, x.shape[0])
        x = jnp.pad(x, (0, -x.shape[0] % rows)) if x.shape[0] % rows else x
        x = jnp.sum(x.reshape(rows, -1), axis=0)
    return x[0]


def diagonal(p, q, relative_scale, mean):
    """The diagonal part d (size,), from p and q = 1 - p, both 0 in the padding.

    The mean of p is not taken as 1 - mean(q): for small p that difference would be a rounding error, which a large
    scale multiplies.

    Args:
      p, q: (size,).
      relative_scale: r.
      mean: (size,) -> (), the mean over the items.
    """
    return q + p * mean(q) + (1 - relative_scale) * p * mean(p)


def structure(log_p, n, relative_scale):
    """Diagonal and rank-one part from (size,) log p with n items at the front; relative_scale is a N.

    A log p that is NaN or positive clears `valid`, and so does a scale that makes the diagonal negative.
    """
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    n = n.astype(jnp.float32)
    acceptable = jnp.all(jnp.where(present, log_p <= 0, True))
    log_p = jnp.where(present, jnp.clip(log_p, -jnp.inf, 0), -jnp.inf)
    p = jnp.exp(log_p)
    q = jnp.where(present, -jnp.expm1(log_p), 0)
    d = diagonal(p, q, relative_scale, lambda x: tree_sum(x) / n)
    log_d = jnp.where(present, jnp.log(jnp.maximum(d, SMALLEST)), -jnp.inf)
    # At the largest allowed scale, rounding may make the smallest d slightly negative.
    valid = acceptable & jnp.all(jnp.where(present, d >= -1e-5, True)) & (relative_scale >= 0)
    return Structure(log_d, p, jnp.log(relative_scale / n), present, n, valid)


def dense(log_p, relative_scale):
    """The matrix S, (N, N), from (N,) log p."""
    size = log_p.shape[0]
    p, q = jnp.exp(log_p), -jnp.expm1(log_p)
    d = diagonal(p, q, relative_scale, jnp.mean)
    a = relative_scale / size
    return jnp.where(jnp.eye(size, dtype=bool), d[:, None], 0) + a * p[:, None] * p[None, :]
