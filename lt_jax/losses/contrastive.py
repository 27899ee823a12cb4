"""Contrastive losses of two views of each image, and distances within and between classes."""

import jax
import jax.numpy as jnp

from lt_jax.losses import similarity


def supcon(embeddings: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """Supervised contrastive loss, L_out of Khosla et al. (NeurIPS 2020, Eq. 2): other views of the class attract.

        L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip / t) / sum_{a != i} exp(s_ia / t) )

    With image numbers as labels only the other view of the image attracts, as in SimCLR (see `simclr`).

    Args:
      embeddings: (2B, d) l2-normalised, both views.
      labels: (2B,).

    Returns:
      (2B,) float32.
    """
    scores = similarity.cosines(embeddings) / temperature
    itself = jnp.eye(len(labels), dtype=bool)
    log_share = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, scores), axis=1)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    return -jnp.where(positive, log_share, 0.0).sum(axis=1) / positive.sum(axis=1, dtype=jnp.float32)


def simclr(embeddings: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """NT-Xent, Eq. 1 of Chen et al. (ICML 2020): the other view of the image attracts, all others repel.

    Args:
      embeddings: (2B, d) l2-normalised; row i + B is the other view of row i.
      labels: ignored.

    Returns:
      (2B,) float32.
    """
    image = jnp.arange(len(labels), dtype=jnp.int32) % (len(labels) // 2)
    return supcon(embeddings, image, temperature)


def class_distances(embeddings: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean Euclidean distance between embeddings within a class and between classes (as in Theorem 4.1).

    Args:
      embeddings: (B, d) l2-normalised.

    Returns:
      (intra, inter); NaN if the batch has no such pair.
    """
    cosine = similarity.cosines(embeddings)
    distance = jnp.sqrt(jnp.maximum(2.0 - 2.0 * cosine, 0.0))
    same = labels[:, None] == labels[None, :]
    pairs = ~jnp.eye(len(labels), dtype=bool)
    intra, inter = same & pairs, ~same
    return tuple(jnp.where(mask, distance, 0.0).sum() / mask.sum(dtype=jnp.float32) for mask in (intra, inter))  # type: ignore[return-value]
