"""Linear heads that bound or order the norms of the class vectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses
from lt_jax.heads import training
from lt_jax.heads.cosine import directions
from lt_jax.heads.linear import Linear, UnitLinear, of_scaled
from lt_jax.heads.scaling import scaled, unit
from lt_jax.heads.training import Plan, Settings


def maxnorm(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    radius: float = 10.0,
    beta: float = 0.9999,
    learning_rate: float = 0.03,
    weight_decay: float = 0.1,
    steps: int = 1000,
    batch_size: int = 256,
    scaling: str = "unit",
) -> Linear | UnitLinear:
    """MaxNorm with weight decay.

    A linear layer trained from zero by cross-entropy weighted by effective numbers; after each step a class vector that
    is longer than the radius is cut to it.

    Source: Alshammari et al., "Long-Tailed Recognition via Weight Balancing" (CVPR 2022).

    Args:
      key: rng key of the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: their counts give the weights.
      initial: unused.
      radius: largest norm of the vector of a class, on scaled features.
      beta: of the effective numbers.
      learning_rate: peak rate of AdamW; it decays to 0 by a cosine.
      weight_decay: of the class vectors.
      steps: of training.
      batch_size: images a step.
      scaling: of the features: "raw", "standard" or "unit".
    """
    del initial
    x, centre, deviation = scaled(features, scaling)
    settings = Settings.short(len(labels), steps, batch_size, learning_rate, weight_decay)
    project = training.bind(cut, radius=radius)
    loss = training.bind(training.weighted, loss=losses.cross_entropy)
    plan = Plan(settings, training.linear_logits, loss, project=project)
    weighted_classes = training.by_effective_number(classes, beta)
    fitted = training.fit(key, x, labels, weighted_classes, training.linear_start(x, classes), plan)
    return of_scaled(fitted, centre, deviation, scaling)


def samn(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    tau: float = 0.0,
    learning_rate: float = 0.03,
    steps: int = 1000,
    batch_size: int = 256,
    scaling: str = "unit",
) -> Linear | UnitLinear:
    """SAMN.

    A linear layer whose class vectors have trained directions, and norms that never fall from a class to a rarer one:
    exp(1 / softplus(r)), where r is the isotonic regression, by class size, of trained numbers. Offsets that are made
    in the same way are added to the biases. Directions start from the class means.

    Source: Zhang et al., "Why Not Hyperparameter-Friendly Optimisation? A Monotonic Adaptive Norm Rescaling Approach
    For Long-Tailed Recognition" (CVPR 2026) and its released code.

    Args:
      key: rng key of the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: their counts order the classes.
      initial: unused.
      tau: strength of the class prior in the loss; 0 is the cross-entropy of the released code.
      learning_rate: peak rate of AdamW; it decays to 0 by a cosine.
      steps: of training.
      batch_size: images a step.
      scaling: of the features: "raw", "standard" or "unit".
    """
    del initial
    x, centre, deviation = scaled(features, scaling)
    counts = np.asarray(classes.counts, np.float32)
    shares = (counts - counts.min()) / max(float(counts.max() - counts.min()), 1.0)
    start = {
        "directions": directions(unit(x), labels, classes),
        "bias": np.zeros_like(counts),
        "raw": shares + np.float32(1e-6),
        "raw_bias": shares + np.float32(1e-6),
    }
    order = tuple(np.argsort(counts, kind="stable").tolist())
    settings = Settings.short(len(labels), steps, batch_size, learning_rate, weight_decay=0.0)
    plan = Plan(settings, training.bind(_ordered_logits, order=order), training.bind(losses.logit_adjustment, tau=tau))
    fitted = training.fit(key, x, labels, classes, start, plan)
    linear = jax.tree.map(np.asarray, ordered_linear(fitted, order))
    return of_scaled(linear, centre, deviation, scaling)


@jax.custom_vjp
def isotonic(y: jax.Array) -> jax.Array:
    """The non-decreasing sequence (n,) nearest to y (n,), by pooling adjacent violators.

    A gradient is averaged within each pool.
    """
    return _pool_means(y, _pools(y))


def ordered_linear(params: dict[str, Any], order: tuple[int, ...]) -> dict[str, jax.Array]:
    """Kernel (d, C) and bias (C,) of a head whose norms do not rise along `order`.

    Args:
      params: directions (C, d) of any length; bias (C,); raw and raw_bias (C,), which give norms and offsets.
      order: the classes from the smallest to the largest.
    """
    rows = jnp.asarray(unit(jnp.asarray(params["directions"])))
    norms, offsets = (_ordered(jnp.asarray(params[name]), jnp.asarray(order)) for name in ("raw", "raw_bias"))
    return {"kernel": rows.T * norms[None, :], "bias": params["bias"] + offsets}


def cut(params: dict[str, jax.Array], *, radius: float) -> dict[str, jax.Array]:
    """The linear layer whose class vectors, columns of `kernel`, are no longer than the radius."""
    norms = jnp.linalg.norm(params["kernel"], axis=0, keepdims=True)
    return {**params, "kernel": params["kernel"] * jnp.minimum(1.0, radius / jnp.maximum(norms, 1e-12))}


def _ordered_logits(params: dict[str, jax.Array], x: jax.Array, *, order: tuple[int, ...]) -> jax.Array:
    return training.linear_logits(ordered_linear(params, order), x)


def _ordered(raw: jax.Array, order: jax.Array) -> jax.Array:
    """Positive numbers (C,) that do not rise along `order`."""
    increasing = isotonic(raw[order])
    return jnp.zeros_like(raw).at[order].set(jnp.exp(1.0 / (jax.nn.softplus(increasing) + 1e-6)))


def _pools(y: jax.Array) -> jax.Array:
    """Number of the pool of each item (n,). In each round every run of falling means becomes one pool."""

    def merge(state):
        pools, _ = state
        means = _pool_means(y, pools)
        starts = (pools[1:] != pools[:-1]) & (means[1:] >= means[:-1])
        merged = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(starts.astype(jnp.int32))])
        return merged, (merged != pools).any()

    start = (jnp.arange(len(y), dtype=jnp.int32), jnp.bool_(True))
    return jax.lax.while_loop(lambda state: state[1], merge, start)[0]


def _pool_means(y: jax.Array, pools: jax.Array) -> jax.Array:
    counts = jax.ops.segment_sum(jnp.ones_like(y), pools, len(y))
    return (jax.ops.segment_sum(y, pools, len(y)) / jnp.maximum(counts, 1.0))[pools]


def _isotonic_forward(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    pools = _pools(y)
    return _pool_means(y, pools), pools


def _isotonic_backward(pools: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (_pool_means(gradient, pools),)


isotonic.defvjp(_isotonic_forward, _isotonic_backward)
