"""Linear classifiers on frozen features, fitted by one compiled program."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses, optim


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """Logits (n, C) = features (n, d) @ kernel (d, C) + bias (C,)."""

    kernel: Any
    bias: Any

    def __call__(self, features: Any) -> Any:
        return features @ self.kernel + self.bias[None, :]

    def params(self) -> dict[str, Any]:
        """Parameters in the layout of `lt_jax.models.projectors.Linear`."""
        return {"dense": {"kernel": self.kernel, "bias": self.bias}}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a linear head is trained; the fields are those of `configs.common.training`."""

    epochs: float = 100.0
    steps: int = 0
    batch_size: int = 64
    base_learning_rate: float = 1e-2
    warmup_epochs: float = 5.0
    schedule: str = "cosine"
    decay_epochs: tuple[float, ...] = ()
    decay_factor: float = 0.1
    optimizer: str = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.05
    decay_norms: bool = False
    clip_norm: float = 0.0

    @staticmethod
    def of(config: Any, epochs: float | None = None) -> "Settings":
        """The settings of a config block, with another number of epochs where one is given.

        A warm-up that is meant for longer training is cut to a quarter of the epochs.
        """
        values = {field.name: config[field.name] for field in dataclasses.fields(Settings)}
        if epochs is not None:
            values.update(epochs=float(epochs), steps=0, warmup_epochs=min(values["warmup_epochs"], epochs / 4))
        return Settings(**{**values, "decay_epochs": tuple(values["decay_epochs"])})


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
) -> Linear:
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
    """
    del initial
    mean = features.mean(axis=0)
    deviation = features.std(axis=0) + 1e-6
    standardised = jnp.asarray((features - mean) / deviation, jnp.float32)
    static = (settings or Settings(), loss, class_balanced)
    fitted = _fit(key, standardised, jnp.asarray(labels), jax.tree.map(jnp.asarray, classes), static)
    kernel = np.asarray(fitted["kernel"]) / deviation[:, None]
    return Linear(kernel, np.asarray(fitted["bias"]) - mean @ kernel)


def crt(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear | None = None,
    settings: Settings | None = None,
) -> Linear:
    """cRT.

    A new linear layer trained with classes drawn equally often; here on clean features, which stay fixed.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020).

    Args: as in `linear`.
    """
    return linear(key, features, labels, classes, initial=initial, class_balanced=True, settings=settings)


def lws(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    *,
    initial: Linear,
    settings: Settings | None = None,
) -> Linear:
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
    logits = jnp.asarray(initial(features), jnp.float32)
    static = (settings or Settings(), losses.cross_entropy, True)
    start = {"scale": jnp.ones(logits.shape[1])}
    fitted = _fit(key, logits, jnp.asarray(labels), jax.tree.map(jnp.asarray, classes), static, start)
    scale = np.asarray(fitted["scale"])
    return Linear(initial.kernel * scale[None, :], initial.bias * scale)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitLinear:
    """Logits (n, C) of features (n, d) that are centred and scaled to unit length."""

    kernel: Any
    bias: Any
    centre: Any

    def __call__(self, features: Any) -> Any:
        return _unit(features - self.centre[None, :]) @ self.kernel + self.bias[None, :]


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
) -> UnitLinear:
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
    """
    del initial
    batch = min(batch_size, len(labels))
    settings = Settings(
        epochs=steps / math.ceil(len(labels) / batch),
        batch_size=batch,
        base_learning_rate=learning_rate * 256 / batch,
        warmup_epochs=0.0,
        weight_decay=weight_decay,
    )
    centre = features.mean(axis=0)
    unit = jnp.asarray(_unit(features - centre), jnp.float32)
    loss = functools.partial(losses.logit_adjustment, tau=tau)
    fitted = _fit(key, unit, jnp.asarray(labels), jax.tree.map(jnp.asarray, classes), (settings, loss, False))
    return UnitLinear(np.asarray(fitted["kernel"]), np.asarray(fitted["bias"]), centre)


def _unit(x: Any) -> Any:
    numpy = jnp if isinstance(x, jax.Array) else np
    return x / numpy.maximum(numpy.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnums=4)
def _fit(
    key: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    classes: Any,
    static: tuple[Any, ...],
    start: dict[str, jax.Array] | None = None,
) -> dict[str, Any]:
    settings, loss_function, class_balanced = static
    n, d = features.shape
    num_classes = classes.counts.shape[0]
    size = optim.batch_size(settings, n)
    per_epoch = math.ceil(n / size)
    optimizer = optim.create(settings, per_epoch, n)
    params = start or {"kernel": jnp.zeros((d, num_classes)), "bias": jnp.zeros(num_classes)}

    def loss_of(params, positions):
        logits = _logits(params, features[positions])
        is_used = positions >= 0
        each = loss_function(logits, labels[positions], classes)
        return jnp.where(is_used, each, 0.0).sum() / is_used.sum()

    def one_step(carry, positions):
        params, opt_state = carry
        gradients = jax.grad(loss_of)(params, positions)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state), None

    counts = jnp.bincount(labels, length=num_classes)
    by_class = jnp.argsort(labels)
    starts = jnp.cumsum(counts) - counts

    def one_of_each(key):
        k_class, k_item = jax.random.split(key)
        drawn = jax.random.choice(k_class, num_classes, (per_epoch * size,), p=jnp.where(counts > 0, 1.0, 0.0))
        return by_class[starts[drawn] + jax.random.randint(k_item, drawn.shape, 0, counts[drawn])]

    def one_epoch(carry, key):
        if class_balanced:
            order = one_of_each(key)
        else:
            order = jnp.append(jax.random.permutation(key, n), jnp.full(per_epoch * size - n, -1))
        return jax.lax.scan(one_step, carry, order.reshape(per_epoch, size))

    epochs = jax.random.split(key, math.ceil(settings.epochs))
    return jax.lax.scan(one_epoch, (params, optimizer.init(params)), epochs)[0][0]


def _logits(params: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    if "scale" in params:
        return features * params["scale"][None, :]
    return jnp.dot(features, params["kernel"], precision=losses.PRECISION) + params["bias"][None, :]
