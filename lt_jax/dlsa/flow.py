"""Masked autoregressive flow from features to a mixture of Gaussians.

    x -> [ MADE -> BatchNorm ] x blocks -> z,     log p(x) = log base(z) + log |det dz/dx|

MADE is from Germain et al. (ICML 2015) in the affine form of MAF (Papamakarios et al., NeurIPS 2017), the invertible
BatchNorm from RealNVP (Dinh et al., ICLR 2017). Every second block reverses the order of the features. A flow is a
pytree whose leaves are parameters, running statistics and centres; it works with jit, grad and orbax.

Axes: b batch, d features, h hidden, k clusters.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses

_EPSILON = 1e-5  # added to a variance
_MOMENTUM = 0.9  # share of the old running statistics after a batch


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params", "stats", "centres"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Flow:
    """Parameters, running statistics and mixture centres (K, D). Methods use evaluation mode."""

    params: tuple[dict[str, Any], ...]
    stats: tuple[dict[str, jax.Array], ...]
    centres: jax.Array

    def forward(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z (B, D) and log |det dz/dx| (B,) of x (B, D), with the running statistics."""
        z, log_det, _ = transform(self.params, self.stats, x, train=False)
        return z, log_det

    def inverse(self, z: jax.Array) -> jax.Array:
        """The x with forward(x) = z, computed feature by feature: D passes through each block."""
        x = z
        for number in reversed(range(len(self.params))):
            params = self.params[number]
            x = _batch_norm_inverse(params["norm"], self.stats[number], x)
            x = _made_inverse(params["made"], x, number % 2 == 1)
        return x

    def log_prob(self, x: jax.Array) -> jax.Array:
        """log p(x) in nats, (B,)."""
        z, log_det = self.forward(x)
        return base_log_prob(cluster_logits(z, self.centres), z) + log_det

    def clusters(self, x: jax.Array) -> jax.Array:
        """Unnormalised log posterior of the K equal clusters, (B, K)."""
        return cluster_logits(self.forward(x)[0], self.centres)

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        """`count` draws from the density, (count, D)."""
        k_cluster, k_noise = jax.random.split(key)
        chosen = jax.random.randint(k_cluster, (count,), 0, len(self.centres))
        return self.inverse(self.centres[chosen] + jax.random.normal(k_noise, (count, self.centres.shape[1])))


def create(key: jax.Array, dimension: int, clusters: int, blocks: int = 2, centre_deviation: float = 0.05) -> Flow:
    """A new flow: hidden layers as wide as the input, and fixed centres drawn from N(0, centre_deviation^2)."""
    k_centres, *k_blocks = jax.random.split(key, blocks + 1)
    params = tuple({"made": _made_init(k, dimension), "norm": _norm_init(dimension)} for k in k_blocks)
    stats = tuple({"mean": jnp.zeros(dimension), "variance": jnp.ones(dimension)} for _ in k_blocks)
    return Flow(params, stats, centre_deviation * jax.random.normal(k_centres, (clusters, dimension)))


def transform(params: Any, stats: Any, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, Any]:
    """z (B, D), log |det| (B,) and the updated running statistics, of x (B, D).

    With `train`, blocks normalise by batch statistics. The determinant is that of the map with these statistics held
    constant, since the map of a whole batch through them is singular.
    """
    log_det = jnp.zeros(x.shape[0])
    after = []
    for number, (block, running) in enumerate(zip(params, stats, strict=True)):
        x, gained = _made_forward(block["made"], x, number % 2 == 1)
        used, new_running = _statistics(x, running) if train else (running, running)
        x, scaled = _batch_norm(block["norm"], used, x)
        log_det = log_det + gained + scaled[None]
        after.append(new_running)
    return x, log_det, tuple(after)


def cluster_logits(z: jax.Array, centres: jax.Array) -> jax.Array:
    """z.m - |m|^2/2 for every centre m, (B, K): log N(z; m, I) up to a constant shared by all clusters."""
    return jnp.dot(z, centres.T, precision=losses.PRECISION) - 0.5 * (centres**2).sum(axis=1)[None, :]


def base_log_prob(logits: jax.Array, z: jax.Array) -> jax.Array:
    """log density of the equal mixture of unit Gaussians, (B,); `logits` from `cluster_logits`."""
    clusters, dimension = logits.shape[1], z.shape[1]
    constant = math.log(clusters) + 0.5 * dimension * math.log(2 * math.pi)
    return jax.nn.logsumexp(logits, axis=1) - 0.5 * (z**2).sum(axis=1) - constant


def masks(dimension: int, flipped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks (in, out) of the three layers: output i depends only on the inputs before i in the order.

    Input i has degree i (counted from the end if flipped), hidden units cycle through 0..D-2, output i has one less
    than input i; connections go from a degree to an equal or larger one.
    """
    order = np.arange(dimension)[::-1] if flipped else np.arange(dimension)
    hidden = np.arange(dimension) % max(dimension - 1, 1)
    first = order[:, None] <= hidden[None, :]
    second = hidden[:, None] <= hidden[None, :]
    last = hidden[:, None] <= (order - 1)[None, :]
    return first.astype(np.float32), second.astype(np.float32), np.tile(last, (1, 2)).astype(np.float32)


def _made_init(key: jax.Array, dimension: int) -> list[Any]:
    """Weights and biases drawn uniformly from +-1/sqrt(fan-in)."""
    bound = dimension**-0.5
    widths = (dimension, dimension, 2 * dimension)
    return [
        {
            "kernel": jax.random.uniform(
                jax.random.fold_in(key, 2 * i), (dimension, width), minval=-bound, maxval=bound
            ),
            "bias": jax.random.uniform(jax.random.fold_in(key, 2 * i + 1), (width,), minval=-bound, maxval=bound),
        }
        for i, width in enumerate(widths)
    ]


def _shift_and_log_scale(layers: list[Any], x: Any, flipped: bool) -> list[Any]:
    for i, (layer, mask) in enumerate(zip(layers, masks(x.shape[1], flipped), strict=True)):
        x = jax.nn.relu(x) if i else x
        x = jnp.dot(x, layer["kernel"] * mask, precision=losses.PRECISION) + layer["bias"][None, :]
    return jnp.split(x, 2, axis=1)


def _made_forward(layers: list[Any], x: Any, flipped: bool) -> tuple[Any, ...]:
    shift, log_scale = _shift_and_log_scale(layers, x, flipped)
    return (x - shift) * jnp.exp(-log_scale), -log_scale.sum(axis=1)


def _made_inverse(layers: list[Any], u: jax.Array, flipped: bool) -> jax.Array:
    """The x that maps to u. Feature i depends only on earlier ones, so all are correct after D rounds."""

    def one_round(_, x):
        shift, log_scale = _shift_and_log_scale(layers, x, flipped)
        return u * jnp.exp(log_scale) + shift

    return jax.lax.fori_loop(0, u.shape[1], one_round, jnp.zeros_like(u))


def _norm_init(dimension: int) -> dict[str, Any]:
    return {"log_gamma": jnp.zeros(dimension), "beta": jnp.zeros(dimension)}


def _statistics(x: jax.Array, running: dict[str, Any]) -> tuple[Any, ...]:
    """Mean and unbiased variance of the batch, and the updated running statistics."""
    mean = x.mean(axis=0)
    variance = ((x - mean[None, :]) ** 2).sum(axis=0) / max(len(x) - 1, 1)
    batch = {"mean": mean, "variance": variance}
    moved = jax.tree.map(
        lambda old, new: _MOMENTUM * old + (1 - _MOMENTUM) * jax.lax.stop_gradient(new), running, batch
    )
    return batch, moved


def _batch_norm(params: dict[str, Any], stats: dict[str, Any], x: jax.Array) -> tuple[Any, ...]:
    log_scale = params["log_gamma"] - 0.5 * jnp.log(stats["variance"] + _EPSILON)
    return (x - stats["mean"][None, :]) * jnp.exp(log_scale)[None, :] + params["beta"][None, :], log_scale.sum()


def _batch_norm_inverse(params: dict[str, Any], stats: dict[str, Any], y: jax.Array) -> jax.Array:
    log_scale = params["log_gamma"] - 0.5 * jnp.log(stats["variance"] + _EPSILON)
    return (y - params["beta"][None, :]) * jnp.exp(-log_scale)[None, :] + stats["mean"][None, :]
