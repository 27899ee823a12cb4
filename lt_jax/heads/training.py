"""Trains the parameters of a head on features that stay fixed: one compiled program for all steps."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax import losses, optim


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

    @staticmethod
    def short(items: int, steps: int, batch_size: int, learning_rate: float, weight_decay: float) -> "Settings":
        """AdamW whose rate falls from `learning_rate` to 0 by a cosine, over `steps` steps on `items` images."""
        batch = min(batch_size, items)
        return Settings(
            epochs=steps / math.ceil(items / batch),
            batch_size=batch,
            base_learning_rate=learning_rate * 256 / batch,
            warmup_epochs=0.0,
            weight_decay=weight_decay,
        )


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with some keyword arguments. Two with equal parts are equal, so a second fit compiles nothing."""

    function: Callable[..., Any]
    options: tuple[tuple[str, Any], ...]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **dict(self.options), **options)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained and how, fixed at compile time.

    Attributes:
      settings: rates and durations.
      logits: (params, features (b, d)) -> (b, C).
      loss: an entry of `lt_jax.methods.SUPERVISED`.
      class_balanced: an epoch draws n items, each from a uniformly drawn class; else it is a permutation.
      project: params -> params, after each step; None changes nothing.
      beside: (params, features (b, d), labels (b,), key) -> (b,), added to the loss; None adds nothing. Incomplete
        batches are filled up with the last item.
      draws: the loss needs random numbers; not together with `beside`.
    """

    settings: Settings
    logits: Callable[..., jax.Array]
    loss: Callable[..., jax.Array] = losses.cross_entropy
    class_balanced: bool = False
    project: Callable[..., Any] | None = None
    beside: Callable[..., jax.Array] | None = None
    draws: bool = False


def bind(function: Callable[..., Any], **options: Any) -> Bound:
    """The function with these keyword arguments."""
    return Bound(function, tuple(sorted(options.items())))


def fit(
    key: jax.Array,
    features: np.ndarray,
    labels: np.ndarray,
    classes: losses.Classes,
    start: dict[str, Any],
    plan: Plan,
) -> dict[str, np.ndarray]:
    """The trained parameters.

    Args:
      key: rng key of the batches.
      features: (n, d), scaled.
      labels: (n,).
      classes: of the training set.
      start: the parameters at the start.
      plan: what is trained and how.
    """
    if isinstance(plan.loss, functools.partial) and not plan.loss.args:
        plan = dataclasses.replace(plan, loss=bind(plan.loss.func, **plan.loss.keywords))
    arrays = jax.tree.map(jnp.asarray, (np.asarray(features, np.float32), np.asarray(labels), classes, start))
    return jax.tree.map(np.asarray, _fit(key, *arrays, plan))


def linear_start(features: np.ndarray, classes: losses.Classes) -> dict[str, np.ndarray]:
    """A kernel (d, C) and a bias (C,) of zeros."""
    num_classes = len(classes.counts)
    return {"kernel": np.zeros((features.shape[1], num_classes), np.float32), "bias": np.zeros(num_classes, np.float32)}


def linear_logits(params: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """Logits (b, C) of a linear layer."""
    return jnp.dot(features, params["kernel"], precision=losses.PRECISION) + params["bias"][None, :]


def weighted(
    logits: jax.Array, labels: jax.Array, classes: losses.Classes, *, loss: Any, key: jax.Array | None = None
) -> jax.Array:
    """A loss (b,) times the weight of the class of each item."""
    return classes.weights[labels] * loss(logits, labels, classes, key=key)


def by_effective_number(classes: losses.Classes, beta: float) -> losses.Classes:
    """The classes with weights by effective numbers."""
    return dataclasses.replace(classes, weights=losses.effective_number_weights(np.asarray(classes.counts), beta))


@functools.partial(jax.jit, static_argnums=5)
def _fit(key: jax.Array, features: jax.Array, labels: jax.Array, classes: Any, params: Any, plan: Plan) -> Any:
    settings, n = plan.settings, len(labels)
    size = optim.batch_size(settings, n)
    per_epoch = math.ceil(n / size)
    total = optim.total_steps(settings, per_epoch)
    optimizer = optim.create(settings, per_epoch, n)
    epoch_order = _class_balanced(labels, classes) if plan.class_balanced else _shuffled(n, per_epoch * size)

    def loss_of(params, positions, key):
        is_used = positions >= 0
        x, y = features[positions], labels[positions]
        options = {"key": key} if plan.draws else {}
        each = plan.loss(plan.logits(params, x), y, classes, **options)
        if plan.beside is not None:
            each = each + plan.beside(params, x, y, key)
        return jnp.where(is_used, each, 0.0).sum() / is_used.sum()

    def one_step(carry, batch):
        params, opt_state, number = carry
        gradients = jax.grad(loss_of)(params, *batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        trained = jax.tree.map(jnp.add, params, updates)
        trained = plan.project(trained) if plan.project else trained
        if total % per_epoch:  # the last epoch has steps that are not taken
            trained = jax.tree.map(lambda new, old: jnp.where(number < total, new, old), trained, params)
        return (trained, opt_state, number + 1), None

    def one_epoch(carry, key):
        keys = None
        if plan.beside is not None or plan.draws:
            key, k_steps = jax.random.split(key)
            keys = jax.random.split(k_steps, per_epoch)
        positions = epoch_order(key, per_epoch * size).reshape(per_epoch, size)
        return jax.lax.scan(one_step, carry, (positions, keys))

    epochs = jax.random.split(key, math.ceil(total / per_epoch))
    return jax.lax.scan(one_epoch, (params, optimizer.init(params), 0), epochs)[0][0]


def _shuffled(n: int, size: int) -> Callable[..., jax.Array]:
    """Key -> a permutation of n items, filled up with -1."""
    return lambda key, _: jnp.append(jax.random.permutation(key, n), jnp.full(size - n, -1))


def _class_balanced(labels: jax.Array, classes: Any) -> Callable[..., jax.Array]:
    """Key and size -> positions, each of a uniformly drawn item of a uniformly drawn class with items."""
    num_classes = classes.counts.shape[0]
    counts = jnp.bincount(labels, length=num_classes)
    by_class = jnp.argsort(labels)
    starts = jnp.cumsum(counts) - counts

    def draw(key, size):
        k_class, k_item = jax.random.split(key)
        drawn = jax.random.choice(k_class, num_classes, (size,), p=jnp.where(counts > 0, 1.0, 0.0))
        return by_class[starts[drawn] + jax.random.randint(k_item, drawn.shape, 0, counts[drawn])]

    return draw
