"""Contrastive objectives in the form that a training step calls.

An objective is `f(params, views, labels, classes, key, memory, **options) -> (losses, memory)`:

params   {name: array} that the objective trains beside the network; {} where it has none
views    (B, V, d) l2-normalised embeddings: queries of the anchor and its partners, then the anchor's key
labels   (B,) classes of the anchors
classes  `lt_jax.losses.Classes` of the training set
key      rng key of the step
memory   what the objective carries from step to step; None where it carries nothing
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lt_jax import losses
from lt_jax.losses import negatives as balanced_negatives
from lt_jax.train import sharding


@dataclasses.dataclass(frozen=True)
class Objective:
    """An entry of `lt_jax.methods.CONTRASTIVE`.

    Attributes:
      loss: the function described above.
      one_pass: all views go through the network together, so that BatchNorm sees them as one batch; else one after the
        other.
    """

    loss: Callable[..., tuple[jax.Array, Any]]
    one_pass: bool = False


def bns(
    params: dict[str, Any],
    views: jax.Array,
    labels: jax.Array,
    classes: losses.Classes,
    key: jax.Array,
    memory: Any,
    *,
    temperature: float = 0.5,
    n: int = 16,
    m: int = 1,
    negatives: str = "sampled",
    ring: bool = False,
) -> tuple[jax.Array, Any]:
    """BNS.

    Balanced Negative Sampling, with negatives drawn class first, once for the global batch.

    Source: arXiv 2510.08836 (NeurIPS 2025), Eq. 12.

    Args:
      params, views, labels, classes, key, memory: as in the module; V is m + 2.
      temperature: of the similarities.
      n: negatives of each anchor.
      m: partners of each anchor, which `views` holds already.
      negatives: "sampled", or "expected": the mean over the draw.
      ring: sends keys round the devices instead of gathering them.

    Returns:
      (B,) losses, and the memory as it was.
    """
    del params, classes, m
    queries = views[:, :-1]
    keys = views[:, -1]
    own = jnp.arange(len(labels))
    if negatives == "expected":
        weights = balanced_negatives.expected(labels, labels, n)
        return losses.bns_expected(queries, keys, own, weights, temperature), memory
    drawn = balanced_negatives.sample(key, labels, labels, n)
    if not ring:
        return losses.bns(queries, keys, own, drawn, temperature), memory
    ring_loss = functools.partial(losses.bns_ring, temperature=temperature, axis=sharding.AXIS)
    return sharding.per_device(ring_loss, sharding.mesh(len(labels)))(queries, keys, own, drawn), memory


def bns_official(
    params: Any, views: Any, labels: Any, classes: Any, key: Any, memory: Any, *, temperature: float = 0.5
) -> tuple[jax.Array, Any]:
    """BNS, released code.

    All pairs of the batch attract or repel, without sampled negatives.

    Source: released code of arXiv 2510.08836 (NeurIPS 2025).
    """
    del params, classes, key
    return losses.bns_official(_both(views), jnp.tile(labels, 2), temperature), memory


def supcon(
    params: Any, views: Any, labels: Any, classes: Any, key: Any, memory: Any, *, temperature: float = 0.5
) -> tuple[jax.Array, Any]:
    """SupCon.

    Other views of the class attract, all others repel.

    Source: Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), Eq. 2.
    """
    del params, classes, key
    return losses.supcon(_both(views), jnp.tile(labels, 2), temperature), memory


def simclr(
    params: Any, views: Any, labels: Any, classes: Any, key: Any, memory: Any, *, temperature: float = 0.5
) -> tuple[jax.Array, Any]:
    """SimCLR.

    The other view of the image attracts, all others repel.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (ICML 2020), Eq. 1.
    """
    del params, classes, key
    return losses.simclr(_both(views), jnp.tile(labels, 2), temperature), memory


def _both(views: jax.Array) -> jax.Array:
    """Embeddings (2B, d) of both views, the second view last."""
    return jnp.concatenate([views[:, 0], views[:, 1]])
