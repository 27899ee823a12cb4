"""Losses: pure, per example, the reduction left to the caller.

Axes: b batch, m positives, n negatives, g keys of the global batch, d features, c classes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# float32 products on TPU and recent GPUs are bfloat16 or TF32 products unless told otherwise.
PRECISION = jax.lax.Precision.HIGHEST


def bns(queries: jax.Array, keys: jax.Array, own_key: jax.Array, negatives: jax.Array, temperature: float) -> jax.Array:
    """Balanced Negative Sampling, Eq. 12 of arXiv 2510.08836.

        L_i = -1/(m+1) sum_q [ log sigmoid(q . v_own / t) + sum_j log sigmoid(-q . v_j / t) ]

    with q over the anchor's own query and its m same-class partners. The negatives are summed, not averaged.

    Args:
      queries: (B, m+1, d) l2-normalised query views.
      keys: (G, d) l2-normalised key views of the global batch.
      own_key: (B,) row of the anchor's own key.
      negatives: (B, n) rows of its negatives; -1 adds no term.
      temperature: t > 0.

    Returns:
      (B,) float32.
    """
    similarity = _similarity(queries, keys, temperature)
    positive = jnp.take_along_axis(similarity, own_key[:, None, None], axis=2)[..., 0]
    negative = jnp.take_along_axis(similarity, jnp.maximum(negatives, 0)[:, None, :], axis=2)
    repelled = jnp.where((negatives >= 0)[:, None, :], jax.nn.log_sigmoid(-negative), 0.0)
    return -(jax.nn.log_sigmoid(positive) + repelled.sum(axis=2)).mean(axis=1)


def bns_ring(
    queries: jax.Array, keys: jax.Array, own_key: jax.Array, negatives: jax.Array, temperature: float, axis: str
) -> jax.Array:
    """`bns` inside shard_map: keys travel round the devices, none ever holds more than two devices' share.

    The gradient sends the keys round again and lets what it gathers for them travel along; plain differentiation
    would keep the products of every stop.

    Args:
      queries: (b, m+1, d) of this device; keys: (b, d) of this device, the rows b * index .. b * (index + 1).
      own_key: (b,) and negatives: (b, n) GLOBAL rows; -1 adds no term.
      temperature: t > 0.
      axis: name of the mesh axis.

    Returns:
      (b,) float32.
    """
    return _ring(queries.astype(jnp.float32), keys.astype(jnp.float32), own_key, negatives, temperature, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _ring(queries, keys, own_key, negatives, temperature, axis):
    def stop(_, carry):
        total, visiting, source = carry
        total = total + _visit(queries, visiting, own_key, negatives, source, temperature)
        return total, *_send((visiting, source), axis)

    source = jax.lax.axis_index(axis)
    zeros = 0.0 * queries[:, 0, 0]
    return jax.lax.fori_loop(0, jax.lax.axis_size(axis), stop, (zeros, keys, source))[0]


def _ring_forward(queries, keys, own_key, negatives, temperature, axis):
    return _ring(queries, keys, own_key, negatives, temperature, axis), (queries, keys, own_key, negatives)


def _ring_backward(temperature, axis, saved, cotangent):
    queries, keys, own_key, negatives = saved

    def stop(_, carry):
        for_queries, visiting, for_visiting, source = carry

        def visit(queries, visiting):
            return _visit(queries, visiting, own_key, negatives, source, temperature)

        gradients = jax.vjp(visit, queries, visiting)[1](cotangent)
        return for_queries + gradients[0], *_send((visiting, for_visiting + gradients[1], source), axis)

    carry = (jnp.zeros_like(queries) * queries, keys, jnp.zeros_like(keys) * keys, jax.lax.axis_index(axis))
    for_queries, _, for_keys, _ = jax.lax.fori_loop(0, jax.lax.axis_size(axis), stop, carry)
    return for_queries, for_keys, None, None


_ring.defvjp(_ring_forward, _ring_backward)


def _send(tree, axis):
    """To the next device of the ring."""
    size = jax.lax.axis_size(axis)
    pairs = [(i, (i + 1) % size) for i in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, pairs), tree)


def _visit(queries, keys, own_key, negatives, source, temperature):
    """What the keys of device `source` add to the loss of each anchor here, (b,)."""
    similarity = _similarity(queries, keys, temperature)

    def here(rows):
        local = rows - source * len(keys)
        inside = (rows >= 0) & (local >= 0) & (local < len(keys))
        found = jnp.take_along_axis(similarity, jnp.where(inside, local, 0)[:, None, :], axis=2)
        return found, inside[:, None, :]

    (positive, is_own), (negative, is_negative) = here(own_key[:, None]), here(negatives)
    attracted = jnp.where(is_own, jax.nn.log_sigmoid(positive), 0.0).sum(axis=2)
    repelled = jnp.where(is_negative, jax.nn.log_sigmoid(-negative), 0.0).sum(axis=2)
    return -(attracted + repelled).mean(axis=1)


def bns_expected(
    queries: jax.Array, keys: jax.Array, own_key: jax.Array, weights: jax.Array, temperature: float
) -> jax.Array:
    """The mean of `bns` over the draw of its negatives: every key repels with the weight that it is drawn with.

    Args:
      queries: (B, m+1, d); keys: (G, d); own_key: (B,) as in `bns`.
      weights: (B, G) expected number of times that each key is drawn, of `negatives.expected`.
      temperature: t > 0.

    Returns:
      (B,) float32.
    """
    similarity = _similarity(queries, keys, temperature)
    positive = jnp.take_along_axis(similarity, own_key[:, None, None], axis=2)[..., 0]
    repelled = (weights[:, None, :] * jax.nn.log_sigmoid(-similarity)).sum(axis=2)
    return -(jax.nn.log_sigmoid(positive) + repelled).mean(axis=1)


def _similarity(queries, keys, temperature):
    """(B, m+1, d), (G, d) -> (B, m+1, G): the one product of each form of the BNS loss."""
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    return jnp.einsum("bmd,gd->bmg", queries, keys, precision=PRECISION) / temperature


def _cosines(embeddings):
    """(n, d) l2-normalised -> (n, n) float32."""
    embeddings = embeddings.astype(jnp.float32)
    return jnp.einsum("id,jd->ij", embeddings, embeddings, precision=PRECISION)


def bns_official(embeddings: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """The variant of the released code: all pairs of the batch, m and n do not appear.

        pos_i = mean over same-label others of exp(s_ip / t),  neg_i = 1/(2B) sum over other labels of exp(s_ij / t)
        L_i = -[ log sigmoid(pos_i) + log sigmoid(-neg_i) ]

    Args:
      embeddings: (2B, d) l2-normalised, both views.
      labels: (2B,).

    Returns:
      (2B,) float32.
    """
    scores = jnp.exp(_cosines(embeddings) / temperature)
    same = labels[:, None] == labels[None, :]
    others = same & ~jnp.eye(len(labels), dtype=bool)
    positive = jnp.where(others, scores, 0.0).sum(axis=1) / jnp.maximum(others.sum(axis=1, dtype=jnp.float32), 1.0)
    negative = jnp.where(same, 0.0, scores).sum(axis=1) / len(labels)
    return -(jax.nn.log_sigmoid(positive) + jax.nn.log_sigmoid(-negative))


def supcon(embeddings: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """Supervised contrast, L_out of Khosla et al. (NeurIPS 2020, Eq. 2): every other view of the class attracts.

        L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip / t) / sum_{a != i} exp(s_ia / t) )

    With the number of the image in place of its class only its other view attracts: SimCLR (see `simclr`).

    Args:
      embeddings: (2B, d) l2-normalised, both views.
      labels: (2B,).

    Returns:
      (2B,) float32.
    """
    scores = _cosines(embeddings) / temperature
    itself = jnp.eye(len(labels), dtype=bool)
    log_share = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, scores), axis=1)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    return -jnp.where(positive, log_share, 0.0).sum(axis=1) / positive.sum(axis=1, dtype=jnp.float32)


def simclr(embeddings: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """NT-Xent, Eq. 1 of Chen et al. (ICML 2020): the other view of an image attracts, all else repels.

    Args:
      embeddings: (2B, d) l2-normalised; row i + B is the other view of row i.
      labels: not looked at.

    Returns:
      (2B,) float32.
    """
    image = jnp.arange(len(labels), dtype=jnp.int32) % (len(labels) // 2)
    return supcon(embeddings, image, temperature)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label]. logits (B, C), labels (B,) -> (B,) float32."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]


def log_prior(counts: np.ndarray) -> np.ndarray:
    """(C,) counts -> log of the classes' shares, float32; a class without images counts as half of one."""
    return np.log(np.maximum(counts, 0.5) / counts.sum()).astype(np.float32)


def class_distances(embeddings: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean Euclidean distance between embeddings of one class and of two (what Theorem 4.1 speaks of).

    Args:
      embeddings: (B, d) l2-normalised.

    Returns:
      (intra, inter); NaN where the batch holds no such pair.
    """
    cosine = _cosines(embeddings)
    distance = jnp.sqrt(jnp.maximum(2.0 - 2.0 * cosine, 0.0))
    same = labels[:, None] == labels[None, :]
    pairs = ~jnp.eye(len(labels), dtype=bool)
    intra, inter = same & pairs, ~same
    return tuple(jnp.where(mask, distance, 0.0).sum() / mask.sum(dtype=jnp.float32) for mask in (intra, inter))  # type: ignore[return-value]
