"""Similarities of embeddings, and the precision of every matrix product.

Axes: b batch, m positives, g keys of the global batch, d features.
"""

import jax
import jax.numpy as jnp

# By default TPUs and recent GPUs compute float32 products in bfloat16 or TF32.
PRECISION = jax.lax.Precision.HIGHEST


def scaled(queries: jax.Array, keys: jax.Array, temperature: float) -> jax.Array:
    """Similarities / temperature (B, m+1, G) of queries (B, m+1, d) and keys (G, d)."""
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    return jnp.einsum("bmd,gd->bmg", queries, keys, precision=PRECISION) / temperature


def cosines(embeddings: jax.Array) -> jax.Array:
    """Cosines (n, n) float32 of l2-normalised embeddings (n, d)."""
    embeddings = embeddings.astype(jnp.float32)
    return jnp.einsum("id,jd->ij", embeddings, embeddings, precision=PRECISION)


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Products (n, m) float32 of each row of x (n, d) with each row of y (m, d)."""
    return jnp.einsum("ad,kd->ak", x.astype(jnp.float32), y.astype(jnp.float32), precision=PRECISION)


def unit(x: jax.Array) -> jax.Array:
    """Rows of x (n, d) at length 1; a row of zeros stays."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=1, keepdims=True), 1e-12))
