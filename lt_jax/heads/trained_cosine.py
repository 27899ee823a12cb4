"""Classifiers by cosine similarity that start from the class means and are trained with the balanced softmax."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses
from lt_jax.heads import training
from lt_jax.heads.cosine import Cosine, directions, is_present
from lt_jax.heads.linear import Linear
from lt_jax.heads.scaling import product, scaled, unit
from lt_jax.heads.training import Plan, Settings
from lt_jax.losses import negatives


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """Cosines, times `scale`, of x + relu(x @ down + bias) @ up and the means (C, d).

    x is (features - centre) / deviation, of length 1 where `is_unit`. A class where `present` is False has the logit
    -2 * scale.
    """

    means: Any
    centre: Any
    present: Any
    deviation: Any
    scale: Any
    is_unit: Any
    down: Any
    bias: Any
    up: Any

    def __call__(self, features: Any) -> Any:
        numpy = jnp if isinstance(features, jax.Array) else np
        x = (features - self.centre[None, :]) / self.deviation
        x = numpy.where(self.is_unit, unit(x), x)
        adapted = x + product(numpy.maximum(product(x, self.down) + self.bias[None, :], 0.0), self.up)
        return self.scale * numpy.where(self.present[None, :], product(unit(adapted), self.means.T), -2.0)


def cosine_mean(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    tau: float = 1.0,
    scale: float = 16.0,
    learning_rate: float = 0.01,
    weight_decay: float = 0.0,
    steps: int = 1000,
    batch_size: int = 256,
    scaling: str = "unit",
) -> Cosine:
    """Cosine head from class means.

    Cosines of features and one vector for each class, which starts as the class mean, trained by the balanced softmax.

    Source: a cosine classifier as in Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting" (CVPR
    2018); the loss is that of Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition" (NeurIPS 2020).

    Args:
      key: rng key of the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: of the training set; a class without items in `labels` is never predicted.
      initial: unused.
      tau: strength of the class prior in the loss.
      scale: of the cosines.
      learning_rate: peak rate of AdamW; it decays to 0 by a cosine.
      weight_decay: of the vectors, whose length does not matter.
      steps: of training.
      batch_size: images a step.
      scaling: of the features: "raw", "standard" or "unit".
    """
    del initial
    x, centre, deviation = scaled(features, scaling)
    settings = Settings.short(len(labels), steps, batch_size, learning_rate, weight_decay)
    logits = training.bind(_cosine_logits, scale=scale)
    plan = Plan(settings, logits, training.bind(losses.logit_adjustment, tau=tau))
    start = {"means": directions(unit(x), labels, classes)}
    means = unit(training.fit(key, x, labels, classes, start, plan)["means"])
    return Cosine(means, centre, is_present(labels, classes), deviation[None, :], np.float32(scale))


def adapter(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    width: int = 256,
    tau: float = 1.0,
    scale: float = 16.0,
    learning_rate: float = 0.0003,
    weight_decay: float = 1.0,
    steps: int = 500,
    batch_size: int = 256,
    scaling: str = "unit",
) -> Adapted:
    """Residual adapter.

    A hidden layer whose output, zero at the start, is added to the features; then the cosine head from class means.

    Source: adapters as in Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters" (IJCV 2024);
    the loss is that of Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition" (NeurIPS 2020).

    Args:
      key: rng key of the hidden layer and the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: of the training set; a class without items in `labels` is never predicted.
      initial: unused.
      width: of the hidden layer.
      tau: strength of the class prior in the loss.
      scale: of the cosines.
      learning_rate: peak rate of AdamW; it decays to 0 by a cosine.
      weight_decay: of the adapter and the vectors of the classes.
      steps: of training.
      batch_size: images a step.
      scaling: of the features: "raw", "standard" or "unit".
    """
    del initial
    form = _Form(width, tau, scale, scaling)
    settings = Settings.short(len(labels), steps, batch_size, learning_rate, weight_decay)
    return _fit_adapted(key, features, labels, classes, form, settings, None)


def bns_adapter(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    bns_weight: float = 0.1,
    temperature: float = 0.5,
    n: int = 16,
    width: int = 256,
    tau: float = 1.0,
    scale: float = 16.0,
    learning_rate: float = 0.0003,
    weight_decay: float = 1.0,
    steps: int = 500,
    batch_size: int = 256,
    scaling: str = "unit",
) -> Adapted:
    """Residual adapter with BNS.

    The residual adapter, whose adapted features are also trained by Balanced Negative Sampling: in each batch an item
    is attracted by a random item of its class, and repelled by n items whose classes are drawn uniformly.

    Source: BNS + IP-DPP (NeurIPS 2025, arXiv 2510.08836), Eq. 12 with m = 1, here on frozen features; both views of an
    item are equal.

    Args: as in `adapter`, and
      bns_weight: of the BNS loss beside the balanced softmax.
      temperature: of the similarities.
      n: negatives of each item.
    """
    del initial
    form = _Form(width, tau, scale, scaling)
    settings = Settings.short(len(labels), steps, batch_size, learning_rate, weight_decay)
    beside = training.bind(_weighted_bns, weight=bns_weight, temperature=temperature, n=n)
    return _fit_adapted(key, features, labels, classes, form, settings, beside)


class _Form(NamedTuple):
    width: int
    tau: float
    scale: float
    scaling: str


def _fit_adapted(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    form: _Form,
    settings: Settings,
    beside: Callable[..., jax.Array] | None,
) -> Adapted:
    """The head of `adapter`; `beside` is added to its loss."""
    x, centre, deviation = scaled(features, form.scaling)
    k_down, k_fit = jax.random.split(key)
    d = x.shape[1]
    start = {
        "means": directions(unit(x), labels, classes),
        "down": np.asarray(jax.random.normal(k_down, (d, form.width))) * np.float32((2.0 / d) ** 0.5),
        "bias": np.zeros(form.width, np.float32),
        "up": np.zeros((form.width, d), np.float32),
    }
    logits = training.bind(_adapted_logits, scale=form.scale)
    plan = Plan(settings, logits, training.bind(losses.logit_adjustment, tau=form.tau), beside=beside)
    params = training.fit(k_fit, x, labels, classes, start, plan)
    return Adapted(
        **{**params, "means": unit(params["means"])},
        centre=centre,
        present=is_present(labels, classes),
        deviation=deviation[None, :],
        scale=np.float32(form.scale),
        is_unit=np.bool_(form.scaling == "unit"),
    )


def _weighted_bns(
    params: dict[str, jax.Array], x: jax.Array, labels: jax.Array, key: jax.Array, *, weight: float, temperature: float,
    n: int,
) -> jax.Array:  # fmt: skip
    """BNS loss (b,) of the adapted features, times the weight."""
    k_partner, k_negatives = jax.random.split(key)
    embeddings = unit(_adapted(params, x))
    partner = _of_same_class(k_partner, labels)
    queries = jnp.stack([embeddings, embeddings[partner]], axis=1)
    rows = negatives.sample(k_negatives, labels, labels, n)
    return weight * losses.bns(queries, embeddings, jnp.arange(len(labels)), rows, temperature)


def _of_same_class(key: jax.Array, labels: jax.Array) -> jax.Array:
    """(b,) positions of a random other item of the same class; an item that is alone is its own partner."""
    is_alike = labels[:, None] == labels[None, :]
    chance = jax.random.uniform(key, is_alike.shape, minval=1.0, maxval=2.0)
    return jnp.where(is_alike, jnp.where(jnp.eye(len(labels), dtype=bool), 0.5, chance), 0.0).argmax(axis=1)


def _cosine_logits(params: dict[str, jax.Array], x: jax.Array, *, scale: float) -> jax.Array:
    return scale * jnp.dot(unit(x), unit(params["means"]).T, precision=losses.PRECISION)


def _adapted(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    hidden = jnp.dot(x, params["down"], precision=losses.PRECISION) + params["bias"][None, :]
    return x + jnp.dot(jax.nn.relu(hidden), params["up"], precision=losses.PRECISION)


def _adapted_logits(params: dict[str, jax.Array], x: jax.Array, *, scale: float) -> jax.Array:
    return _cosine_logits(params, _adapted(params, x), scale=scale)
