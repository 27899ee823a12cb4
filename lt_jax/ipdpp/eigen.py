"""Two samplers that use the eigenvectors of S: an exact one, and Algorithm 1 of the paper as printed.

Exact (Kulesza & Taskar, "k-DPPs", ICML 2011): choose k eigenvectors with probability proportional to the
product of their eigenvalues, then draw items one at a time from the squared row norms of the chosen
eigenvectors, projecting after each. O(N^3) time and O(N^2) memory: meant as a reference and for kernels of a few
thousand items.

Eigenvalues and eigenvectors are computed from a float32 kernel, so eigenvalues below 1e-7 are noise. For p so close
to one that they matter (1 - p below 1e-5) use method "rank_one", which never forms the kernel.
"""

import jax
import jax.numpy as jnp

from lt_jax.ipdpp import structure

SMALLEST_EIGENVALUE = (
    1e-9  # smaller ones are rounding errors; a common floor makes the law of rank-deficient kernels well defined
)


def decompose(log_p, n, relative_scale):
    """Ascending eigenvalues (size,) and eigenvectors (size, size) of the kernel of the first n items.

    Padding forms a separate block with eigenvalue -1, so it comes first; it is returned with eigenvalue zero.
    """
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    p = jnp.where(present, jnp.exp(log_p), 0)
    q = jnp.where(present, -jnp.expm1(log_p), 0)
    n = n.astype(jnp.float32)
    d = structure.diagonal(p, q, relative_scale, lambda x: jnp.sum(x) / n)
    d = jnp.where(present, d, -1)
    s = jnp.diag(d) + relative_scale / n * p[:, None] * p[None, :]
    values, vectors = jnp.linalg.eigh(s)
    return jnp.where(values < -0.5, 0, jnp.maximum(values, SMALLEST_EIGENVALUE)), vectors


def choose_eigenvectors(key, values, k, tilt):
    """Draws (k,) indices of eigenvectors: a set with probability proportional to the product of its eigenvalues.

    The elementary symmetric polynomials overflow for large k. Independent coins with odds proportional to the
    eigenvalues and k heads on average, given k heads, have the same law, and their table holds probabilities: entry
    [i, j] is that of j heads among the first i.
    """
    theta = tilt(jnp.log(values), values > 0, jnp.sum(values > 0).astype(jnp.float32), k)
    b, not_b = jax.nn.sigmoid(theta + jnp.log(values)), jax.nn.sigmoid(-theta - jnp.log(values))
    empty = jnp.zeros((k + 1,), values.dtype).at[0].set(1)

    def extend(law, coin):
        heads, tails = coin
        return tails * law + heads * jnp.concatenate([jnp.zeros((1,), law.dtype), law[:-1]]), law

    _, before = jax.lax.scan(extend, empty, (b, not_b))

    def toss(left, coin):
        heads, tails, law, uniform = coin
        take = heads * jnp.where(left > 0, law[left - 1], 0)
        leave = tails * law[left]
        taken = (left > 0) & (uniform * (take + leave) < take)
        return left - taken.astype(left.dtype), taken

    uniform = jax.random.uniform(key, values.shape)
    _, taken = jax.lax.scan(toss, jnp.int32(k), (b, not_b, before, uniform), reverse=True)
    return jnp.flatnonzero(taken, size=k, fill_value=0)


def choose_items(vectors, present, uniform, k):
    """Draws k items from the span of the columns of vectors (size, k); one fewer for each column of zeros.

    Each item has probability proportional to the squared norm of its row after projection away from the earlier
    items. The projection is Gram-Schmidt on K = V V^T: with c_j the j-th orthogonal direction,
    |row|^2 = K_ii - sum_j c_ij^2. uniform is (k,) random numbers; None takes the largest norm instead. Returns
    (k,), with -1 after the span is exhausted.
    """
    rank = jnp.sum(jnp.any(vectors != 0, axis=0))
    vectors = jnp.where(present[:, None], vectors, 0)

    def pick(state, j):
        norms, directions, free = state
        weights = jnp.where(free, jnp.maximum(norms, 0), 0)
        if uniform is None:
            item = jnp.argmax(weights)
        else:
            running = jnp.where(weights > 0, jnp.cumsum(weights), 0)
            item = jnp.argmax(running > uniform[j] * jnp.max(running))
        column = jnp.matmul(vectors, vectors[item], precision=structure.PRECISION)
        column = column - jnp.matmul(directions, directions[item], precision=structure.PRECISION)
        column = column / jnp.sqrt(jnp.maximum(norms[item], 1e-30))
        directions = directions.at[:, j].set(column)
        state = norms - jnp.square(column), directions, free.at[item].set(False)
        return state, jnp.where(j < rank, item, -1).astype(jnp.int32)

    start = jnp.sum(jnp.square(vectors), axis=1), jnp.zeros_like(vectors), present
    return jax.lax.scan(pick, start, jnp.arange(k, dtype=jnp.int32))[1]


def draw(key, log_p, n, relative_scale, k, tilt):
    """One exact draw using the eigenvectors: log_p (size,) with n items in front -> (k,) sorted int32."""
    values, vectors = decompose(log_p, n, relative_scale)
    key_vectors, key_items = jax.random.split(key)
    chosen = choose_eigenvectors(key_vectors, values, k, tilt)
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    items = choose_items(vectors[:, chosen], present, jax.random.uniform(key_items, (k,)), k)
    return jnp.sort(items)


def draw_as_printed(key, log_p, n, relative_scale, k):
    """Algorithm 1 of the paper as printed: log_p (size,) -> (k,) ascending int32, padded with -1 in front.

    It visits the eigenvectors in ascending order of eigenvalue l, keeps each with probability l / (l + 1), and stops
    at k; then it takes the items with the largest row norm instead of drawing them. So it is NOT a draw from the
    k-DPP: early eigenvectors are favoured, fewer than k may be chosen, and the eigenvectors determine the items.
    """
    values, vectors = decompose(log_p, n, relative_scale)
    is_chosen = jax.random.uniform(key, values.shape) < values / (values + 1)
    is_chosen = is_chosen & (jnp.cumsum(is_chosen) <= k)
    chosen = jnp.flatnonzero(is_chosen, size=k, fill_value=0)
    filled = jnp.arange(k, dtype=jnp.int32) < jnp.sum(is_chosen)
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    columns = jnp.where(filled[None, :], vectors[:, chosen], 0)
    return jnp.sort(choose_items(columns, present, None, k))
