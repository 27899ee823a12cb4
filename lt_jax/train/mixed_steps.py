"""Training steps of methods that mix each image into two views: GLMC and BCE3S. Signatures are those of `steps`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from lt_jax import augment, losses
from lt_jax.augment import mix as mixes
from lt_jax.train import steps


@dataclasses.dataclass(frozen=True)
class Consistency:
    """What two mixed views of an image add to the training of a classifier.

    Attributes:
      modules: "projector", "predictor" and "plain_head", each with its parameters under that name.
      weight: of the agreement of the views.
      steps: of the whole training.
    """

    modules: dict[str, nn.Module]
    weight: float
    steps: int


def consistent(network: nn.Module, tx: optax.GradientTransformation, options: Any, parts: Consistency) -> steps.Step:
    """One step of GLMC: a classifier on a mixup and a CutMix view, which predict each other. batch: (B, 1) positions.

    Args:
      network: images -> logits of the head with re-weighted labels.
      tx: the optimizer.
      options: of the augmentation.
      parts: what is trained beside the network.
    """

    def step(current, data, batch):
        k_augment, k_mix = steps.step_keys(data, current.step, 2)
        images, labels, is_cropped = steps.take_views(data, batch)
        views = augment.apply(k_augment, images.reshape(-1, *images.shape[2:]), options, is_cropped)
        targets = jax.nn.one_hot(labels, len(data["classes"].counts))
        mixed, targets = mixes.both(k_mix, views.reshape(images.shape), targets)
        targets = jnp.repeat(targets, 2, axis=0)
        progress = current.step.astype(jnp.float32) / parts.steps

        def loss_of(params):
            def apply(name, inputs):
                return parts.modules[name].apply({"params": params[name]}, inputs)

            features, stats = steps.run_network(network, current, params, mixed.reshape(views.shape), method="features")
            logits = steps.apply_head(network, params, features)
            each = losses.cumulative(apply("plain_head", features), logits, targets, data["classes"], progress)
            embeddings = apply("projector", features)
            predicted = apply("predictor", embeddings)
            pairs = [x.reshape(len(labels), 2, -1) for x in (predicted, embeddings)]
            agreement = losses.agreement(*pairs).mean()
            accuracy = (logits.reshape(len(labels), 2, -1).mean(axis=1).argmax(-1) == labels).mean()
            metrics = {"accuracy": accuracy, "agreement": -agreement / 2}
            return 2 * each.mean() + parts.weight * agreement, (stats, metrics)

        return steps.update(current, tx, loss_of)

    return step


@dataclasses.dataclass(frozen=True)
class Tripartite:
    """What the three parts of BCE3S have beside the network.

    Attributes:
      projector: features -> l2-normalised embeddings, with parameters params["projector"].
      loss: of the image that is not mixed, an entry of `lt_jax.methods.SUPERVISED`.
      weight: of the likeness of the mixed views and the last image of each class.
      uniformity: weight of the separation of the classifier's vectors.
      first_epoch: steps of the first epoch, in which the last images of the classes are collected.
    """

    projector: nn.Module
    loss: Any
    weight: float
    uniformity: float
    first_epoch: int


def tripartite(network: nn.Module, tx: optax.GradientTransformation, options: Any, parts: Tripartite) -> steps.Step:
    """One step of BCE3S: an image, its mixup and its CutMix view, each against all classes. batch: (B,) positions.

    The memory of the state, (C, d), is the embedding of the last image of each class, zeros before the first one.

    Source: Fan et al., "BCE3S: Binary Cross-Entropy Based Tripartite Synergistic Learning for Long-tailed Recognition"
    (AAAI 2026), and its released code: the mean of the three classification losses, .1 times the sum of those of the
    embeddings, and the uniformity of the classifier.

    Args:
      network: images -> logits of the head "unit_kernel", whose parameter params["head"]["kernel"] is (d, C).
      tx: the optimizer.
      options: of the augmentation.
      parts: what is trained beside the network.
    """

    def step(current, data, batch):
        k_augment, k_mix, k_loss = steps.step_keys(data, current.step, 3)
        images, labels, is_cropped = steps.take(data, batch)
        images = augment.apply(k_augment, images, options, is_cropped)[:, None]
        targets = jax.nn.one_hot(labels, len(data["classes"].counts))
        mixed, soft = mixes.both(k_mix, jnp.repeat(images, 2, axis=1), targets, alpha=1.0)
        views = jnp.concatenate([images, mixed], axis=1)
        is_first_epoch = current.step < parts.first_epoch

        def loss_of(params):
            inputs = views.reshape(-1, *views.shape[2:])
            features, stats = steps.run_network(network, current, params, inputs, method="features")
            logits = steps.apply_head(network, params, features).reshape(*views.shape[:2], -1)
            embeddings = parts.projector.apply({"params": params["projector"]}, features)
            embeddings = embeddings.reshape(*views.shape[:2], -1)
            plain = parts.loss(logits[:, 0], labels, data["classes"], key=k_loss)
            each = (plain + losses.mixed_bce(logits[:, 1:], soft[:, None]).sum(axis=1)) / 3
            likeness = jnp.matmul(embeddings[:, 1:], current.memory.T, precision=jax.lax.Precision.HIGHEST)
            pairs = losses.mixed_bce(likeness, soft[:, None]).sum(axis=1).mean()
            pairs = jnp.where(is_first_epoch, 0.0, pairs)
            separation = losses.uniformity(params["head"]["kernel"])
            metrics = {"accuracy": (logits[:, 0].argmax(-1) == labels).mean(), "likeness_loss": pairs}
            memory = losses.remembered(current.memory, jax.lax.stop_gradient(embeddings[:, 0]), labels)
            total = each.mean() + parts.weight * pairs + parts.uniformity * separation
            return total, (stats, metrics, memory)

        return steps.update_with_memory(current, tx, loss_of)

    return step
