"""Balanced Negative Sampling: the loss of the paper in three forms, and that of the released code.

Axes: b batch, m positives, n negatives, g keys of the global batch, d features.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lt_jax.losses import similarity


def bns(queries: jax.Array, keys: jax.Array, own_key: jax.Array, negatives: jax.Array, temperature: float) -> jax.Array:
    """Balanced Negative Sampling, Eq. 12 of arXiv 2510.08836.

        L_i = -1/(m+1) sum_q [ log sigmoid(q . v_own / t) + sum_j log sigmoid(-q . v_j / t) ]

    where q runs over the anchor's own query and its m same-class partners. The negatives are summed, not averaged.

    Args:
      queries: (B, m+1, d) l2-normalised query views.
      keys: (G, d) l2-normalised key views of the global batch.
      own_key: (B,) row of the anchor's own key.
      negatives: (B, n) rows of its negatives; -1 adds no term.
      temperature: t > 0.

    Returns:
      (B,) float32.
    """
    scores = similarity.scaled(queries, keys, temperature)
    positive = jnp.take_along_axis(scores, own_key[:, None, None], axis=2)[..., 0]
    negative = jnp.take_along_axis(scores, jnp.maximum(negatives, 0)[:, None, :], axis=2)
    repelled = jnp.where((negatives >= 0)[:, None, :], jax.nn.log_sigmoid(-negative), 0.0)
    return -(jax.nn.log_sigmoid(positive) + repelled.sum(axis=2)).mean(axis=1)


def bns_ring(
    queries: jax.Array, keys: jax.Array, own_key: jax.Array, negatives: jax.Array, temperature: float, axis: str
) -> jax.Array:
    """`bns` inside shard_map: keys rotate through the devices; each holds at most the keys of two devices.

    The backward pass rotates the keys again together with their gradients; plain differentiation would store the
    products of every device.

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
def _ring(queries: Any, keys: Any, own_key: Any, negatives: Any, temperature: Any, axis: Any) -> Any:
    def stop(_, carry):
        total, visiting, source = carry
        total = total + _visit(queries, visiting, own_key, negatives, source, temperature)
        return total, *_send((visiting, source), axis)

    source = jax.lax.axis_index(axis)
    zeros = 0.0 * queries[:, 0, 0]
    return jax.lax.fori_loop(0, jax.lax.axis_size(axis), stop, (zeros, keys, source))[0]


def _ring_forward(queries: Any, keys: Any, own_key: Any, negatives: Any, temperature: Any, axis: Any) -> Any:
    return _ring(queries, keys, own_key, negatives, temperature, axis), (queries, keys, own_key, negatives)


def _ring_backward(temperature: Any, axis: Any, saved: Any, cotangent: Any) -> Any:
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


def _send(tree: Any, axis: Any) -> Any:
    """The tree received from the previous device of the ring; sends the own one to the next."""
    size = jax.lax.axis_size(axis)
    pairs = [(i, (i + 1) % size) for i in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, pairs), tree)


def _visit(queries: Any, keys: Any, own_key: Any, negatives: Any, source: Any, temperature: Any) -> Any:
    """Loss terms of the local anchors from the keys of device `source`, (b,)."""
    scores = similarity.scaled(queries, keys, temperature)

    def here(rows):
        local = rows - source * len(keys)
        inside = (rows >= 0) & (local >= 0) & (local < len(keys))
        picked = jnp.take_along_axis(scores, jnp.where(inside, local, 0)[:, None, :], axis=2)
        return picked, inside[:, None, :]

    positive, is_own = here(own_key[:, None])
    negative, is_negative = here(negatives)
    attracted = jnp.where(is_own, jax.nn.log_sigmoid(positive), 0.0).sum(axis=2)
    repelled = jnp.where(is_negative, jax.nn.log_sigmoid(-negative), 0.0).sum(axis=2)
    return -(attracted + repelled).mean(axis=1)


def bns_expected(
    queries: jax.Array, keys: jax.Array, own_key: jax.Array, weights: jax.Array, temperature: float
) -> jax.Array:
    """Expectation of `bns` over the draw of negatives: every key is weighted by its expected number of draws.

    Args:
      queries: (B, m+1, d); keys: (G, d); own_key: (B,) as in `bns`.
      weights: (B, G) expected number of draws of each key, from `negatives.expected`.
      temperature: t > 0.

    Returns:
      (B,) float32.
    """
    scores = similarity.scaled(queries, keys, temperature)
    positive = jnp.take_along_axis(scores, own_key[:, None, None], axis=2)[..., 0]
    repelled = (weights[:, None, :] * jax.nn.log_sigmoid(-scores)).sum(axis=2)
    return -(jax.nn.log_sigmoid(positive) + repelled).mean(axis=1)


def bns_official(embeddings: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """BNS loss as in the released code: all pairs of the batch, without m and n.

        pos_i = mean over other views p of the label of exp(s_ip / t)
        neg_i = 1/(2B) sum over views j of other labels of exp(s_ij / t)
        L_i = -[ log sigmoid(pos_i) + log sigmoid(-neg_i) ]

    Args:
      embeddings: (2B, d) l2-normalised, both views.
      labels: (2B,).

    Returns:
      (2B,) float32.
    """
    scores = jnp.exp(similarity.cosines(embeddings) / temperature)
    same = labels[:, None] == labels[None, :]
    other_views = same & ~jnp.eye(len(labels), dtype=bool)
    count = jnp.maximum(other_views.sum(axis=1, dtype=jnp.float32), 1.0)
    positive = jnp.where(other_views, scores, 0.0).sum(axis=1) / count
    negative = jnp.where(same, 0.0, scores).sum(axis=1) / len(labels)
    return -(jax.nn.log_sigmoid(positive) + jax.nn.log_sigmoid(-negative))
