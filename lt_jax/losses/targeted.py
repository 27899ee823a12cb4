"""Targeted supervised contrastive learning: uniform targets, their assignment to classes, and the loss (TSC).

Axes: a anchors, c classes, d features.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lt_jax.losses import similarity

_RATE = 0.05  # of Adam, when targets are optimised


def tsc(
    embeddings: jax.Array,
    labels: jax.Array,
    targets: jax.Array,
    positive: jax.Array,
    *,
    temperature: float,
    weight: float,
) -> jax.Array:
    """Targeted supervised contrastive loss of Li et al. (CVPR 2022).

        L_i = -1/|P(i)| sum_{p in P(i)} log f_i(v_p) - weight * log f_i(u_i)
        f_i(x) = exp(v_i . x / t) / (sum_{j != i} exp(v_i . v_j / t) + sum_c exp(v_i . u_c / t))

    u_i is the target of the anchor's class. The released code divides both terms by |P(i)| + 1 instead.

    Args:
      embeddings: (A, d) l2-normalised, all views of the batch.
      labels: (A,).
      targets: (C, d) l2-normalised, that of each class.
      positive: (A, A) bool, P(i); an anchor without any has the second term alone.
      temperature: t > 0.
      weight: of the second term.

    Returns:
      (A,) float32.
    """
    keys = jnp.concatenate([embeddings, targets.astype(embeddings.dtype)]).astype(jnp.float32)
    scores = similarity.products(embeddings.astype(jnp.float32), keys) / temperature
    itself = jnp.eye(len(scores), scores.shape[1], dtype=bool)
    log_share = scores - jax.nn.logsumexp(jnp.where(itself, -jnp.inf, scores), axis=1, keepdims=True)
    a = len(labels)
    count = jnp.maximum(positive.sum(axis=1, dtype=jnp.float32), 1.0)
    of_class = jnp.where(positive, log_share[:, :a], 0.0).sum(axis=1) / count
    of_target = jnp.take_along_axis(log_share[:, a:], labels[:, None], axis=1)[:, 0]
    return -of_class - weight * of_target


def draw_positives(key: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Draws the positives of each anchor: its other view, and at most k other embeddings of its class.

    Source: KCL, Kang et al., "Exploring Balanced Feature Spaces for Representation Learning" (ICLR 2021).

    Args:
      key: rng key.
      labels: (2B,) of two views; row i + B is the other view of row i.
      k: drawn without replacement; a class with fewer gives all.

    Returns:
      (2B, 2B) bool.
    """
    a = len(labels)
    image = jnp.arange(a) % (a // 2)
    same_image = image[:, None] == image[None, :]
    candidate = (labels[:, None] == labels[None, :]) & ~same_image
    random = jnp.where(candidate, jax.random.uniform(key, (a, a)), -1.0)
    _, columns = jax.lax.top_k(random, min(k, a))
    chosen = jnp.zeros((a, a), bool).at[jnp.arange(a)[:, None], columns].set(True)
    return (chosen & candidate) | (same_image & ~jnp.eye(a, dtype=bool))


def uniform_targets(classes: int, width: int, steps: int = 500, temperature: float = 0.07) -> jax.Array:
    """Points on the sphere that are as far apart as possible: minima of mean_i log sum_j exp(u_i . u_j / t).

    Up to width + 1 points these are the corners of a regular simplex; more are optimised from a fixed random start.

    Args:
      classes: number of points.
      width: of a point.
      steps: of the optimisation.
      temperature: t of the energy.

    Returns:
      (classes, width) float32, l2-normalised.
    """
    if classes <= width + 1:
        return jnp.asarray(_simplex(classes, width))
    return _spread(classes, width, steps, temperature)


def _simplex(classes: int, width: int) -> np.ndarray:
    """Corners of a regular simplex: coordinates of the unit vectors in a basis of the space orthogonal to ones."""
    corners = np.zeros((classes, width))
    for k in range(1, classes):
        corners[:k, k - 1] = 1.0
        corners[k, k - 1] = -k
        corners[:, k - 1] /= np.sqrt(k * (k + 1))
    if classes == 1:
        corners[0, 0] = 1.0
    return (corners / np.linalg.norm(corners, axis=1, keepdims=True)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _spread(classes: int, width: int, steps: int, temperature: float) -> jax.Array:
    points = jax.random.normal(jax.random.key(0), (classes, width))
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

    def energy(points):
        points = similarity.unit(points)
        return jax.nn.logsumexp(similarity.products(points, points) / temperature, axis=1).mean()

    def step(carry, _):
        points, state = carry
        updates, state = optimizer.update(jax.grad(energy)(points), state)
        return (similarity.unit(points + updates), state), None

    (points, _), _ = jax.lax.scan(step, (similarity.unit(points), optimizer.init(points)), length=steps)
    return points


def improved_assignment(similarities: jax.Array, assigned: jax.Array, swaps: int) -> jax.Array:
    """Exchanges the targets of pairs of classes, each time of the pair that gains most, while any pair gains.

    Called in every step of a training it follows the classes. The Hungarian method of the paper is exact, but does not
    run inside of a compiled step; pairwise exchanges end where no pair gains.

    Args:
      similarities: (C, C) of each class (row) to each target (column).
      assigned: (C,) int32 permutation, the target of each class.
      swaps: the most exchanges.

    Returns:
      (C,) int32 permutation, whose sum of similarities is at least that of `assigned`.
    """

    def exchange(_, assigned):
        value = similarities[:, assigned]  # of class a (row) with the target of class b (column)
        own = jnp.diagonal(value)
        gain = value + value.T - own[:, None] - own[None, :]
        best = gain.argmax()
        a, b = best // len(own), best % len(own)
        exchanged = assigned.at[a].set(assigned[b]).at[b].set(assigned[a])
        return jnp.where(gain[a, b] > 1e-6, exchanged, assigned)

    return jax.lax.fori_loop(0, swaps, exchange, assigned)


def moved_centroids(centroids: jax.Array, embeddings: jax.Array, labels: jax.Array, momentum: float) -> jax.Array:
    """Moving averages of the directions of the classes; classes that are not in the batch stay as they are.

    Args:
      centroids: (C, d) l2-normalised, or 0 of a class that was never seen.
      embeddings: (A, d).
      labels: (A,).
      momentum: share of the old centroid.

    Returns:
      (C, d) float32.
    """
    of_class = jax.nn.one_hot(labels, len(centroids))
    direction = similarity.unit(jnp.einsum("ac,ad->cd", of_class, embeddings, precision=similarity.PRECISION))
    moved = similarity.unit(momentum * centroids + (1.0 - momentum) * direction)
    return jnp.where((of_class.sum(axis=0) > 0)[:, None], moved, centroids)
