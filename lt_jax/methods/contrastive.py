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
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lt_jax import losses
from lt_jax.core import errors
from lt_jax.losses import negatives as balanced_negatives
from lt_jax.losses import similarity, targeted
from lt_jax.train import sharding


@dataclasses.dataclass(frozen=True)
class Objective:
    """An entry of `lt_jax.methods.CONTRASTIVE`.

    Attributes:
      loss: the function described above.
      one_pass: all views go through the network together, so that BatchNorm sees them as one batch; else one after the
        other.
      init_params: (key, classes, width, **options) -> the `params` before the first step; None for {}. `classes` is
        the number of classes, `width` that of the embeddings.
      init_memory: (classes, width, **options) -> the `memory` before the first step; None for None. The result has
        the structure, shapes and types of what the loss returns.
    """

    loss: Callable[..., tuple[jax.Array, Any]]
    one_pass: bool = False
    init_params: Callable[..., dict[str, jax.Array]] | None = None
    init_memory: Callable[..., Any] | None = None

    @property
    def partners(self) -> int:
        """Number of same-class partners of each anchor in `views`: the option `m`, 0 for an objective without it."""
        option = inspect.signature(self.loss).parameters.get("m")
        return 0 if option is None else option.default

    def with_options(self, options: dict[str, Any]) -> "Objective":
        """The objective with these options of its loss; the functions that initialise it get those that they take."""
        bound: dict[str, Any] = {"loss": functools.partial(self.loss, **options)}
        for name in ("init_params", "init_memory"):
            function = getattr(self, name)
            if function is not None:
                taken = inspect.signature(function).parameters
                used = {option: value for option, value in options.items() if option in taken}
                bound[name] = functools.partial(function, **used)
        return dataclasses.replace(self, **bound)

    def start(self, key: jax.Array, classes: int, width: int) -> tuple[dict[str, jax.Array], Any]:
        """(params, memory) before the first step."""
        params = {} if self.init_params is None else self.init_params(key, classes, width)
        return params, None if self.init_memory is None else self.init_memory(classes, width)


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
      params: as in the module, and so are views, labels, classes, key and memory; V is m + 2.
      temperature: of the similarities.
      n: negatives of each anchor.
      m: partners of each anchor, which `views` holds already.
      negatives: "sampled", or "expected": the mean over the draw.
      ring: sends keys round the devices instead of gathering them.

    Returns:
      (B,) losses, and the memory as it was.
    """
    del params, classes, m
    if negatives not in ("sampled", "expected"):
        raise errors.BadInput(f"negatives: expected sampled or expected, found {negatives!r}")
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

    All pairs of the batch attract or repel, without sampled negatives. It takes exp(1 / temperature), which overflows
    below a temperature of .012.

    Source: released code of arXiv 2510.08836 (NeurIPS 2025).
    """
    del params, classes, key
    if temperature < 0.02:
        raise errors.BadInput(f"temperature: expected at least .02 for bns_official, found {temperature}")
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


def tsc(
    params: Any,
    views: Any,
    labels: Any,
    classes: Any,
    key: Any,
    memory: Any,
    *,
    temperature: float = 0.07,
    k: int = 6,
    weight: float = 0.2,
    momentum: float = 0.9,
    swaps: int = 8,
) -> tuple[jax.Array, Any]:
    """TSC.

    Embeddings of a class also attract to a target; the targets are spread uniformly over the sphere. Keys are those of
    the batch, not of a queue.

    Source: Li et al., "Targeted Supervised Contrastive Learning for Long-Tailed Recognition" (CVPR 2022).

    Args:
      params: as in the module, and so are views, labels, classes, key and memory, which is that of `tsc_memory`.
      temperature: of the similarities.
      k: embeddings of the class that attract an anchor, beside its other view.
      weight: of the target.
      momentum: of the mean directions of the classes, by which targets are assigned.
      swaps: the most pairs of classes that exchange their targets in one step.

    Returns:
      (2B,) losses, and the memory.
    """
    del params, classes
    both, labels = _both(views), jnp.tile(labels, 2)
    centroids = targeted.moved_centroids(memory["centroids"], jax.lax.stop_gradient(both), labels, momentum)
    similarities = jnp.einsum("cd,td->ct", centroids, memory["targets"], precision=losses.PRECISION)
    assigned = targeted.improved_assignment(similarities, memory["assigned"], swaps)
    positive = targeted.draw_positives(key, labels, k)
    of_class = memory["targets"][assigned]
    each = losses.tsc(both, labels, of_class, positive, temperature=temperature, weight=weight)
    return each, {**memory, "centroids": centroids, "assigned": assigned}


def tsc_memory(classes: int, width: int) -> dict[str, jax.Array]:
    """Targets, the target of each class, and the mean direction of each class, 0 before it is seen."""
    return {
        "targets": losses.uniform_targets(classes, width),
        "assigned": jnp.arange(classes, dtype=jnp.int32),
        "centroids": jnp.zeros((classes, width), jnp.float32),
    }


def bcl(
    params: Any, views: Any, labels: Any, classes: Any, key: Any, memory: Any, *, temperature: float = 0.1
) -> tuple[jax.Array, Any]:
    """BCL.

    Class means repel, not images, and every class has a prototype in every batch. The released code computes the
    prototypes from the weights of the classifier; here they are parameters.

    Source: Zhu et al., "Balanced Contrastive Learning for Long-Tailed Visual Recognition" (CVPR 2022).
    """
    del classes, key
    prototypes = similarity.unit(params["prototypes"])
    return losses.bcl(_both(views), jnp.tile(labels, 2), prototypes, temperature), memory


def bcl_params(key: jax.Array, classes: int, width: int) -> dict[str, jax.Array]:
    """A random direction of each class."""
    return {"prototypes": similarity.unit(jax.random.normal(key, (classes, width)))}


def paco(
    params: Any,
    views: Any,
    labels: Any,
    classes: Any,
    key: Any,
    memory: Any,
    *,
    temperature: float = 0.05,
    alpha: float = 0.01,
    beta: float = 1.0,
    gamma: float = 1.0,
    queue: int = 1024,
) -> tuple[jax.Array, Any]:
    """PaCo.

    A learnt centre of each class is a key too, with a far larger weight, and its logit is adjusted by the class prior.
    The released code takes the logits of the classifier for those of the centres; here they are products with the
    embeddings.

    Source: Cui et al., "Parametric Contrastive Learning" (ICCV 2021).

    Args:
      params: as in the module, and so are views, labels, classes, key and memory; params and memory are those of
        `paco_params` and `paco_memory`.
      temperature: of the similarities of embeddings.
      alpha: weight of an embedding that attracts.
      beta: weight of the centre that attracts.
      gamma: weight of the embeddings that repel.
      queue: embeddings of earlier steps that are keys; 0 for none.

    Returns:
      (2B,) losses, and the queue with the newest keys.
    """
    del key
    both = _both(views)
    logits = jnp.einsum("ad,cd->ac", both, params["centres"], precision=losses.PRECISION)
    keys = (both[:0], labels[:0]) if memory is None else (memory["keys"], memory["labels"])
    options = {"temperature": temperature, "alpha": alpha, "beta": beta, "gamma": gamma}
    each = losses.paco(both, jnp.tile(labels, 2), logits + classes.log_prior[None, :], keys, **options)
    if memory is None:
        return each, None
    newest = jnp.concatenate([jax.lax.stop_gradient(views[:, 1]), memory["keys"]])[:queue]
    newest_labels = jnp.concatenate([labels.astype(jnp.int32), memory["labels"]])[:queue]
    return each, {"keys": newest, "labels": newest_labels}


def paco_params(key: jax.Array, classes: int, width: int) -> dict[str, jax.Array]:
    """A random centre of each class."""
    return {"centres": similarity.unit(jax.random.normal(key, (classes, width)))}


def paco_memory(classes: int, width: int, queue: int = 1024) -> dict[str, jax.Array] | None:
    """An empty queue: keys, and their labels, which are -1."""
    del classes
    if queue == 0:
        return None
    return {"keys": jnp.zeros((queue, width), jnp.float32), "labels": jnp.full(queue, -1, jnp.int32)}


def proco(
    params: Any, views: Any, labels: Any, classes: Any, key: Any, memory: Any, *, temperature: float = 0.1
) -> tuple[jax.Array, Any]:
    """ProCo.

    The expected loss over infinitely many keys, drawn from a von Mises-Fisher law of each class. Its parameters are
    estimated from the embeddings of this epoch and the last one. A class that was not seen has the uniform law.

    Source: Du et al., "Probabilistic Contrastive Learning for Long-Tailed Visual Recognition" (TPAMI 2024).
    """
    del params, key
    both, labels = _both(views), jnp.tile(labels, 2)
    memory = _counted(memory, jax.lax.stop_gradient(both), labels, 2.0 * classes.counts.sum())
    total = memory["sum"] + memory["last_sum"]
    count = memory["count"] + memory["last_count"]
    length = jnp.linalg.norm(total, axis=1) / jnp.maximum(count, 1.0)
    concentrations = losses.concentration(length, both.shape[1])
    logits = losses.proco_logits(both, similarity.unit(total), concentrations, temperature)
    return losses.logit_adjustment(logits, labels, classes), memory


def proco_memory(classes: int, width: int) -> dict[str, jax.Array]:
    """Sums of the embeddings of each class and their numbers, in this epoch and in the last one."""
    sums, counts = jnp.zeros((classes, width), jnp.float32), jnp.zeros(classes, jnp.float32)
    return {"sum": sums, "count": counts, "last_sum": sums, "last_count": counts}


def _counted(memory: Any, embeddings: Any, labels: Any, of_epoch: Any) -> Any:
    """The memory of `proco` with a batch added; after `of_epoch` embeddings a new epoch begins."""
    is_over = memory["count"].sum() >= of_epoch
    of_class = jax.nn.one_hot(labels, len(memory["count"]))
    current = jax.tree.map(lambda x: jnp.where(is_over, 0.0, x), {name: memory[name] for name in ("sum", "count")})
    last = {f"last_{name}": jnp.where(is_over, memory[name], memory[f"last_{name}"]) for name in current}
    sums = jnp.einsum("ac,ad->cd", of_class, embeddings, precision=losses.PRECISION)
    return {**last, "sum": current["sum"] + sums, "count": current["count"] + of_class.sum(axis=0)}


def _both(views: jax.Array) -> jax.Array:
    """Embeddings (2B, d) of both views, the second view last."""
    return jnp.concatenate([views[:, 0], views[:, 1]])
