"""The two roads through the eigenvectors of S: the exact one, and Algorithm 1 of the paper as it is printed.

Exact (Kulesza & Taskar, "k-DPPs", ICML 2011): choose k eigenvectors with probability proportional to the
product of their eigenvalues, then draw items one at a time from the squared row norms of the chosen
eigenvectors, projecting after each. O(N^3) time and O(N^2) memory: here as a reference and for kernels of a
few thousand items.

Both eigenvalues and eigenvectors are those of a float32 kernel, so eigenvalues under 1e-7 are noise. For p so
close to one that they matter (1 - p below 1e-5) use the rank-one road, which never forms the kernel.
"""

import jax
import jax.numpy as jnp

from lt_jax.ipdpp import structure

SMALLEST_EIGENVALUE = 1e-9  # what is below is rounding; a common floor gives rank-deficient kernels a law


def decompose(log_p, n, relative_scale):
    """Ascending eigenvalues (size,) and eigenvectors (size, size) of the kernel of the first n items.

    Places without an item form a block of their own with eigenvalue -1, so they come first; they are returned
    with eigenvalue zero.
    """
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    p = jnp.where(present, jnp.exp(log_p), 0)
    q = jnp.where(present, -jnp.expm1(log_p), 0)
    n = n.astype(jnp.float32)
    mean_q = jnp.sum(q) / n
    d = q + p * mean_q + (1 - relative_scale) * p * (1 - mean_q)
    d = jnp.where(present, d, -1)
    s = jnp.diag(d) + relative_scale / n * p[:, None] * p[None, :]
    values, vectors = jnp.linalg.eigh(s)
    return jnp.where(values < -0.5, 0, jnp.maximum(values, SMALLEST_EIGENVALUE)), vectors


def choose_eigenvectors(key, values, k, tilt):
    """(k,) numbers of eigenvectors, a set with probability proportional to the product of its eigenvalues.

    The elementary symmetric polynomials overflow for large k. Coins with odds proportional to the eigenvalues
    that show k heads on average carry the same law, and their table holds probabilities: entry [i, j] is that
    of j heads among the first i.
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
    """k items from the span of the columns of vectors (size, k); columns of zeros reduce how many are drawn.

    Item after item with probability proportional to the squared norm of its row after projection away from
    the items before. The projection is Gram-Schmidt on K = V V^T: with c_j the j-th orthogonal direction,
    |row|^2 = K_ii - sum_j c_ij^2. uniform (k,) draws; None takes the largest norm instead. Returns (k,), -1
    from where the span is used up.
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
    """One exact draw by the eigenvectors: log_p (size,) with n items in front -> (k,) sorted int32."""
    values, vectors = decompose(log_p, n, relative_scale)
    key_vectors, key_items = jax.random.split(key)
    chosen = choose_eigenvectors(key_vectors, values, k, tilt)
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    items = choose_items(vectors[:, chosen], present, jax.random.uniform(key_items, (k,)), k)
    return jnp.sort(items)


def draw_as_printed(key, log_p, n, relative_scale, k):
    """Algorithm 1 of the paper as printed: log_p (size,) -> (k,) ascending int32, with -1s where short.

    It walks the eigenvectors in ascending order of eigenvalue, keeps one with probability l / (l + 1), and
    stops when it has k; then it takes the item with the largest row norm instead of drawing one. So it is NOT
    a draw from the k-DPP: early eigenvectors are favoured, it need not reach k, and given the eigenvectors
    the items are fixed.
    """
    values, vectors = decompose(log_p, n, relative_scale)
    kept = jax.random.uniform(key, values.shape) < values / (values + 1)
    kept = kept & (jnp.cumsum(kept) <= k)
    chosen = jnp.flatnonzero(kept, size=k, fill_value=0)
    filled = jnp.arange(k, dtype=jnp.int32) < jnp.sum(kept)
    present = jnp.arange(log_p.shape[0], dtype=jnp.int32) < n
    columns = jnp.where(filled[None, :], vectors[:, chosen], 0)
    return jnp.sort(choose_items(columns, present, None, k))
