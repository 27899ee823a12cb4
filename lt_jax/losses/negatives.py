"""Balanced sampling of negatives: the keys of the global batch that repel each anchor."""

import jax
import jax.numpy as jnp


def sample(key: jax.Array, labels: jax.Array, key_labels: jax.Array, n: int) -> jax.Array:
    """Draws n negatives of each anchor: a class uniformly among the OTHER classes present, then one of its keys.

    Both draws are with replacement, so a rare class repels as often as a common one. The keys are sorted by class
    once, so that a class is an interval of them and no array of size (B, G) is created.

    Args:
      key: one rng key per step, for the global batch.
      labels: (B,) of the anchors.
      key_labels: (G,) of the keys.
      n: negatives of each anchor.

    Returns:
      (B, n) int32 rows of keys; all -1 if the batch has no other class.
    """
    total = key_labels.shape[0]
    order = jnp.argsort(key_labels).astype(jnp.int32)
    ordered = key_labels[order]
    is_first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    first = jnp.nonzero(is_first, size=total, fill_value=total)[0]  # start of the r-th class present
    size = jnp.append(first[1:], total) - first
    present = is_first.sum()

    # Rank of the anchor's class among those present, and whether it is present.
    at = jnp.searchsorted(ordered, labels)
    own = jnp.cumsum(is_first)[jnp.minimum(at, total - 1)] - 1
    is_present = ordered[jnp.minimum(at, total - 1)] == labels
    own = jnp.where(is_present, own, total)
    other_classes = present - is_present

    k_class, k_item = jax.random.split(key)
    shape = (labels.shape[0], n)
    rank = _uniform_below(k_class, shape, other_classes[:, None])
    rank = rank + (rank >= own[:, None])
    position = first[rank] + _uniform_below(k_item, shape, size[rank])
    return jnp.where(other_classes[:, None] > 0, order[jnp.minimum(position, total - 1)], -1)


def expected(labels: jax.Array, key_labels: jax.Array, n: int) -> jax.Array:
    """Expected number of draws of each key by `sample`, (B, G): n / (other classes present) / (keys of the class).

    0 for the anchor's own class; rows sum to n if the batch has another class.
    """
    same_class = key_labels[:, None] == key_labels[None, :]
    size = same_class.sum(axis=1, dtype=jnp.float32)
    classes = (1.0 / size).sum()
    other = labels[:, None] != key_labels[None, :]
    own_present = (~other).any(axis=1)
    other_classes = (classes - own_present)[:, None]
    return jnp.where(other & (other_classes > 0.5), n / (jnp.maximum(other_classes, 1.0) * size[None, :]), 0.0)


def _uniform_below(key: jax.Array, shape: tuple[int, int], bound: jax.Array) -> jax.Array:
    """Uniform integers in [0, bound); 0 if the bound is 0."""
    return jax.random.randint(key, shape, 0, jnp.maximum(bound, 1))
