"""Supervised contrastive losses with a learnt vector of each class among the keys: BCL and PaCo.

Axes: a anchors, k keys, c classes, d features. Anchors are l2-normalised embeddings of all views of a batch.
"""

import jax
import jax.numpy as jnp

from lt_jax.losses import similarity


def bcl(embeddings: jax.Array, labels: jax.Array, prototypes: jax.Array, temperature: float) -> jax.Array:
    """Balanced contrastive loss of Zhu et al. (CVPR 2022).

        L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip / t) / sum_j 1/|K_j| sum_{k in K_j} exp(s_ik / t) )

    K_j are the embeddings of class j in the batch, without the anchor, and the prototype of the class. P(i) is K_j of
    the anchor's class. Class-averaging is the mean over K_j: a frequent class repels as much as a rare one.
    Class-complement is the prototype: every class is in every batch, also one without images.

    Args:
      embeddings: (A, d) l2-normalised.
      labels: (A,).
      prototypes: (C, d) l2-normalised.
      temperature: t > 0.

    Returns:
      (A,) float32.
    """
    classes = jnp.arange(len(prototypes), dtype=labels.dtype)
    key_labels = jnp.concatenate([labels, classes])
    scores = similarity.products(embeddings, jnp.concatenate([embeddings, prototypes])) / temperature
    itself = jnp.eye(len(scores), scores.shape[1], dtype=bool)
    same = labels[:, None] == key_labels[None, :]
    size = 1.0 + jax.nn.one_hot(labels, len(prototypes)).sum(axis=0)  # with the prototype
    size = size[key_labels][None, :] - same.astype(jnp.float32)  # and without the anchor
    total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, scores - jnp.log(size)), axis=1, keepdims=True)
    positive = same & ~itself
    return -jnp.where(positive, scores - total, 0.0).sum(axis=1) / positive.sum(axis=1, dtype=jnp.float32)


def paco(
    embeddings: jax.Array,
    labels: jax.Array,
    centre_logits: jax.Array,
    queue: tuple[jax.Array, jax.Array],
    *,
    temperature: float,
    alpha: float,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> jax.Array:
    """Parametric contrastive loss of Cui et al. (ICCV 2021).

        L_i = -1/W_i sum_p w_p log( exp(z_ip) / (sum_c exp(l_ic) + gamma sum_{k != i} exp(s_ik / t)) )

    where p runs over the keys of the anchor's class with z_ip = s_ip / t and w_p = alpha, and the centre of that class
    with z_ip = l_ip and w_p = beta. W_i is the sum of the weights. Keys are the other embeddings and the queue.

    Args:
      embeddings: (A, d) l2-normalised.
      labels: (A,).
      centre_logits: (A, C) similarities to the centres of the classes, scaled and adjusted as logits are.
      queue: keys (K, d) l2-normalised and their labels (K,); a label of -1 is an empty row.
      temperature: t > 0.
      alpha: weight of a key.
      beta: weight of the centre.
      gamma: weight of all keys among what repels, above 0.

    Returns:
      (A,) float32.
    """
    centre_logits = centre_logits.astype(jnp.float32)
    key_labels = jnp.concatenate([labels, queue[1].astype(labels.dtype)])
    scores = (
        similarity.products(embeddings, jnp.concatenate([embeddings, queue[0].astype(embeddings.dtype)])) / temperature
    )
    left_out = jnp.eye(len(scores), scores.shape[1], dtype=bool) | (key_labels < 0)[None, :]
    keys = jnp.where(left_out, -jnp.inf, scores + jnp.log(gamma))
    total = jax.nn.logsumexp(jnp.concatenate([centre_logits, keys], axis=1), axis=1, keepdims=True)
    positive = (labels[:, None] == key_labels[None, :]) & ~left_out
    of_keys = jnp.where(positive, scores - total, 0.0).sum(axis=1)
    of_centre = jnp.take_along_axis(centre_logits, labels[:, None], axis=1)[:, 0] - total[:, 0]
    return -(alpha * of_keys + beta * of_centre) / (alpha * positive.sum(axis=1, dtype=jnp.float32) + beta)
