"""Linear classifiers on frozen features, fitted by one compiled program."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lt_jax import losses
from lt_jax.heads import training
from lt_jax.heads.scaling import product, scaled, unit
from lt_jax.heads.training import Plan, Settings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """Logits (n, C) = features (n, d) @ kernel (d, C) + bias (C,)."""

    kernel: Any
    bias: Any

    def __call__(self, features: Any) -> Any:
        return product(features, self.kernel) + self.bias[None, :]

    def params(self) -> dict[str, Any]:
        """Parameters in the layout of `lt_jax.models.projectors.Linear`."""
        return {"dense": {"kernel": self.kernel, "bias": self.bias}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitLinear:
    """Logits (n, C) of features (n, d) that are centred and scaled to unit length."""

    kernel: Any
    bias: Any
    centre: Any

    def __call__(self, features: Any) -> Any:
        return product(unit(features - self.centre[None, :]), self.kernel) + self.bias[None, :]


def of_scaled(
    params: dict[str, np.ndarray], centre: np.ndarray, deviation: np.ndarray, scaling: str
) -> Linear | UnitLinear:
    """The head on original features whose linear layer was trained on scaled ones."""
    if scaling == "unit":
        return UnitLinear(params["kernel"], params["bias"], centre)
    kernel = params["kernel"] / deviation[:, None]
    return Linear(kernel, params["bias"] - centre @ kernel)


def linear(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    loss: Callable[..., jax.Array] = losses.cross_entropy,
    class_balanced: bool = False,
    settings: Settings | None = None,
    scaling: str = "standard",
) -> Linear | UnitLinear:
    """Linear probe.

    Features are standardised by their mean and deviation, so that one learning rate suits every encoder; the returned
    head takes the original features. Incomplete batches are used.

    Args:
      key: rng key of the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: of the training set.
      initial: unused: training starts from zero.
      loss: an entry of `lt_jax.methods.SUPERVISED`.
      class_balanced: an epoch draws n items, each from a uniformly drawn class; else it is a permutation.
      settings: rates and durations.
      scaling: of the features: "raw", "standard" or "unit" (centred, then of length 1).
    """
    del initial
    x, centre, deviation = scaled(features, scaling)
    plan = Plan(settings or Settings(), training.linear_logits, loss, class_balanced)
    fitted = training.fit(key, x, labels, classes, training.linear_start(x, classes), plan)
    return of_scaled(fitted, centre, deviation, scaling)


def crt(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    settings: Settings | None = None,
    scaling: str = "standard",
) -> Linear | UnitLinear:
    """cRT.

    A new linear layer trained with classes drawn equally often; here on clean features, which stay fixed.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020).

    Args: as in `linear`.
    """
    return linear(
        key, features, labels, classes, initial=initial, class_balanced=True, settings=settings, scaling=scaling
    )


def lws(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | UnitLinear,
    settings: Settings | None = None,
) -> Linear | UnitLinear:
    """LWS.

    The network's own head with one learned scale for each class, trained with classes drawn equally often.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020).

    Args:
      key: rng key of the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: of the training set.
      initial: the head of the network.
      settings: rates and durations.
    """
    logits = initial(features)
    plan = Plan(settings or Settings(), _rescaled, class_balanced=True)
    start = {"scale": np.ones(logits.shape[1], np.float32)}
    scale = training.fit(key, logits, labels, classes, start, plan)["scale"]
    return dataclasses.replace(initial, kernel=initial.kernel * scale[None, :], bias=initial.bias * scale)


def balanced_linear(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    tau: float = 1.0,
    learning_rate: float = 0.03,
    weight_decay: float = 0.3,
    steps: int = 1000,
    batch_size: int = 256,
    scaling: str = "unit",
) -> Linear | UnitLinear:
    """Balanced linear head.

    A linear layer on features of unit length, trained by the balanced softmax from zero with AdamW.

    Source: the loss is that of Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition" (NeurIPS 2020).

    Args:
      key: rng key of the batches.
      features: (n, d) float32.
      labels: (n,).
      classes: of the training set.
      initial: unused.
      tau: strength of the class prior in the loss.
      learning_rate: peak rate; it decays to 0 by a cosine.
      weight_decay: of the kernel; high, since unit features of strong encoders overfit.
      steps: of training.
      batch_size: images a step.
      scaling: of the features: "raw", "standard" or "unit" (centred, then of length 1).
    """
    del initial
    x, centre, deviation = scaled(features, scaling)
    settings = Settings.short(len(labels), steps, batch_size, learning_rate, weight_decay)
    plan = Plan(settings, training.linear_logits, training.bind(losses.logit_adjustment, tau=tau))
    fitted = training.fit(key, x, labels, classes, training.linear_start(x, classes), plan)
    return of_scaled(fitted, centre, deviation, scaling)


def unit_bce(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | UnitLinear,
    negatives: float = 0.4,
    beta: float = 0.9999,
    learning_rate: float = 1e-4,
    epochs: float = 20.0,
    batch_size: int = 64,
) -> Linear | UnitLinear:
    """Sigmoid BCE head.

    The network's own head, its class vectors kept at unit length, trained on by the binary cross-entropy of every class
    with drawn negatives, weighted by effective numbers; SGD with momentum .9 on the features that the head sees.

    Source: the second stage of Fan et al., "BCE3S: Binary Cross-Entropy Based Tripartite Synergistic Learning for
    Long-tailed Recognition" (AAAI 2026), as its released code has it; here on clean features, which stay fixed.

    Args:
      key: rng key of the batches and negatives.
      features: (n, d) float32.
      labels: (n,).
      classes: their counts give the weights.
      initial: the head of the network, meant to have class vectors of unit length ("unit_kernel"). Of another head the
        vector and the bias of each class are divided by the length of the vector.
      negatives: share or number of the other classes, as in `lt_jax.losses.sigmoid_bce`.
      beta: of the effective numbers.
      learning_rate: peak rate; it decays to 0 by a cosine.
      epochs: passes over the images.
      batch_size: images a step.
    """
    batch = min(batch_size, len(labels))
    settings = Settings(
        epochs=epochs,
        batch_size=batch,
        base_learning_rate=learning_rate * 256 / batch,
        warmup_epochs=0.0,
        optimizer="sgd",
        weight_decay=0.0,
    )
    loss = training.bind(training.weighted, loss=training.bind(losses.sigmoid_bce, negatives=negatives))
    plan = Plan(settings, _unit_logits, loss, draws=True)
    kernel = np.asarray(initial.kernel)
    start = {"kernel": kernel, "bias": np.asarray(initial.bias) / np.maximum(np.linalg.norm(kernel, axis=0), 1e-12)}
    x = unit(features - initial.centre[None, :]) if isinstance(initial, UnitLinear) else features
    fitted = training.fit(key, x, labels, training.by_effective_number(classes, beta), start, plan)
    kernel = np.asarray(unit(fitted["kernel"].T)).T
    if isinstance(initial, UnitLinear):
        return UnitLinear(kernel, fitted["bias"], initial.centre)
    return Linear(kernel, fitted["bias"])


def _unit_logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return training.linear_logits({**params, "kernel": unit(params["kernel"].T).T}, x)


def _rescaled(params: dict[str, jax.Array], logits: jax.Array) -> jax.Array:
    return logits * params["scale"][None, :]
