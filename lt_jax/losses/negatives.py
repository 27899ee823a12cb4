"""Balanced negative gathering: which keys of the global batch each anchor is pushed away from."""

import jax
import jax.numpy as jnp


def sample(key: jax.Array, labels: jax.Array, key_labels: jax.Array, n: int) -> jax.Array:
    """n negatives of each anchor: first a class uniformly among the OTHER classes present, then a key uniformly in it.

    Both draws are with replacement, so a rare class repels as often as a common one. The keys are sorted by class
    once; a class is then an interval of the sorted keys, and nothing of size (B, G) is ever made.

    Args:
      key: drawn once a step, over the global batch.
      labels: (B,) of the anchors.
      key_labels: (G,) of the keys.
      n: negatives of each anchor.

    Returns:
      (B, n) int32 rows of keys; -1 everywhere for an anchor whose batch holds no other class.
    """
    total = key_labels.shape[0]
    order = jnp.argsort(key_labels).astype(jnp.int32)
    ordered = key_labels[order]
    is_first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    first = jnp.nonzero(is_first, size=total, fill_value=total)[0]  # where the r-th class present begins
    size = jnp.append(first[1:], total) - first
    present = is_first.sum()

    # The rank of the anchor's own class among those present, and whether it is present at all.
    at = jnp.searchsorted(ordered, labels)
    own = jnp.cumsum(is_first)[jnp.minimum(at, total - 1)] - 1
    is_present = ordered[jnp.minimum(at, total - 1)] == labels
    own, others = jnp.where(is_present, own, total), present - is_present

    k_class, k_item = jax.random.split(key)
    shape = (labels.shape[0], n)
    rank = _uniform_below(k_class, shape, others[:, None])
    rank = rank + (rank >= own[:, None])
    place = first[rank] + _uniform_below(k_item, shape, size[rank])
    return jnp.where(others[:, None] > 0, order[jnp.minimum(place, total - 1)], -1)


def expected(labels: jax.Array, key_labels: jax.Array, n: int) -> jax.Array:
    """How often `sample` draws each key on average, (B, G): n / (other classes present) / (keys of the class).

    0 for the anchor's own class; rows sum to n where the batch holds another class.
    """
    same_class = key_labels[:, None] == key_labels[None, :]
    size = same_class.sum(axis=1, dtype=jnp.float32)
    classes = (1.0 / size).sum()
    other = labels[:, None] != key_labels[None, :]
    own_present = (~other).any(axis=1)
    others = classes - own_present
    return jnp.where(other & (others[:, None] > 0.5), n / (jnp.maximum(others[:, None], 1.0) * size[None, :]), 0.0)


def _uniform_below(key: jax.Array, shape: tuple[int, int], bound: jax.Array) -> jax.Array:
    """Integers in [0, bound), 0 where the bound is 0."""
    return jax.random.randint(key, shape, 0, jnp.maximum(bound, 1))
