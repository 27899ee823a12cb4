"""Losses: pure, per example, the reduction left to the caller.

Axes: b batch, m positives, n negatives, g keys of the global batch, d features, c classes.
"""

import jax
import jax.numpy as jnp

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
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    similarity = jnp.einsum("bmd,gd->bmg", queries, keys, precision=PRECISION) / temperature
    positive = jnp.take_along_axis(similarity, own_key[:, None, None], axis=2)[..., 0]
    negative = jnp.take_along_axis(similarity, jnp.maximum(negatives, 0)[:, None, :], axis=2)
    repelled = jnp.where((negatives >= 0)[:, None, :], jax.nn.log_sigmoid(-negative), 0.0)
    return -(jax.nn.log_sigmoid(positive) + repelled.sum(axis=2)).mean(axis=1)


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
    embeddings = embeddings.astype(jnp.float32)
    scores = jnp.exp(jnp.einsum("id,jd->ij", embeddings, embeddings, precision=PRECISION) / temperature)
    same = labels[:, None] == labels[None, :]
    others = same & ~jnp.eye(len(labels), dtype=bool)
    positive = jnp.where(others, scores, 0.0).sum(axis=1) / jnp.maximum(others.sum(axis=1, dtype=jnp.float32), 1.0)
    negative = jnp.where(same, 0.0, scores).sum(axis=1) / len(labels)
    return -(jax.nn.log_sigmoid(positive) + jax.nn.log_sigmoid(-negative))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label]. logits (B, C), labels (B,) -> (B,) float32."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]


def class_distances(embeddings: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean Euclidean distance between embeddings of one class and of two (what Theorem 4.1 speaks of).

    Args:
      embeddings: (B, d) l2-normalised.

    Returns:
      (intra, inter); NaN where the batch holds no such pair.
    """
    cosine = jnp.einsum("id,jd->ij", embeddings, embeddings, precision=PRECISION)
    distance = jnp.sqrt(jnp.maximum(2.0 - 2.0 * cosine, 0.0))
    same = labels[:, None] == labels[None, :]
    pairs = ~jnp.eye(len(labels), dtype=bool)
    intra, inter = same & pairs, ~same
    return tuple(jnp.where(mask, distance, 0.0).sum() / mask.sum(dtype=jnp.float32) for mask in (intra, inter))  # type: ignore[return-value]
