"""The parts of BCE3S: binary cross-entropy of mixed labels, and of the likeness between the vectors of a classifier."""

import jax
import jax.numpy as jnp


def mixed_bce(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits (..., C) with probabilities (..., C), summed over the classes: (...) float32.

        L = sum_c [ -y_c log sigmoid(z_c) - 1[y_c = 0] log sigmoid(-z_c) ]

    A class with a part of the label is only attracted, however small that part is.

    Source: the released code of Fan et al., "BCE3S: Binary Cross-Entropy Based Tripartite Synergistic Learning for
    Long-tailed Recognition" (AAAI 2026).
    """
    logits = logits.astype(jnp.float32)
    return (targets * jax.nn.softplus(-logits) + (targets == 0) * jax.nn.softplus(logits)).sum(axis=-1)


def uniformity(kernel: jax.Array) -> jax.Array:
    """How little the vectors of the classes, the columns of kernel (d, C), are separated: a scalar.

        L = mean_c [ -log sigmoid(s_cc) - sum_{c' != c} log sigmoid(-s_cc') ],   s the cosines

    Source: as `mixed_bce`.
    """
    unit = kernel.astype(jnp.float32)
    unit = unit * jax.lax.rsqrt(jnp.maximum((unit * unit).sum(axis=0, keepdims=True), 1e-12))
    cosines = jnp.matmul(unit.T, unit, precision=jax.lax.Precision.HIGHEST)
    return mixed_bce(cosines, jnp.eye(len(cosines))).mean()


def remembered(memory: jax.Array, embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    """The memory (C, d) in which each class of the batch has the embedding (B, d) of its last image (B,)."""
    last = jax.ops.segment_max(jnp.arange(len(labels)), labels, len(memory))
    return jnp.where(last[:, None] >= 0, embeddings[jnp.maximum(last, 0)], memory)
