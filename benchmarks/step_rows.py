"""The programs that benchmarks/step.py measures: whole training steps, the network alone, and the parts of a step."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from lt_jax import augment, losses, methods, optim
from lt_jax import models as encoder
from lt_jax.losses import negatives
from lt_jax.train import sharding, state
from lt_jax.train import steps as step

N, CLASSES, TEMPERATURE = 16, 10, 0.5
KEY = np.zeros(2, np.uint32)


def supervised(options, images, labels):
    """Returns name -> (function, arguments): the network alone, the whole step, then its parts."""
    config = common.encoder(options.encoder, options.width)
    network = encoder.classifier(config, CLASSES, options.dtype)
    training = common.training(100, options.batch, 1e-3, 5)
    variables = encoder.initialise(network, jax.random.key(0), images.shape[1:])
    tx = optim.create(training, 100, len(images))
    current = state.create(variables, tx)
    settings = common.augment(strength=0.4, grey=0.0, blur=False)
    whole = step.classify(network, tx, settings)
    data = on_device(images, labels)
    batch = jnp.arange(options.batch, dtype=jnp.int32)
    floats = jnp.asarray(images[: options.batch], jnp.float32) / 255
    y = jnp.asarray(labels[: options.batch])

    def alone(params, stats, x, y):
        def loss_of(params):
            out, moved = network.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
            return losses.cross_entropy(out, y).mean(), moved

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    def of_augmentation(key, x):
        return augment.apply(key, x, settings)

    def of_optimiser(gradients, current):
        updates, opt_state = tx.update(gradients, current.opt_state, current.params)
        return jax.tree.map(jnp.add, current.params, updates), opt_state

    return {
        "network, forward and backward": compiled(alone, current.params, current.batch_stats, floats, y),
        "supervised step, whole": (AsTrained(whole, current, data, batch), ()),
        "  augmentation": compiled(of_augmentation, jax.random.key(1), data["images"][: options.batch]),
        "  AdamW": compiled(of_optimiser, current.params, current),
    }


def on_device(images, labels):
    """Returns what a step reads besides its batch."""
    classes = losses.Classes.of(np.bincount(labels, minlength=CLASSES))
    return {"images": jnp.asarray(images), "labels": jnp.asarray(labels), "classes": classes, "key": KEY}


def contrastive(options, images, labels):
    config = common.encoder(options.encoder, options.width)
    network = encoder.contrastive(config, (2048, 128), options.dtype)
    training = common.training(100, options.batch, 1e-3, 5)
    settings = common.augment(strength=1.0)
    options_of_loss = {"temperature": TEMPERATURE, "n": N}
    objective = methods.entry("CONTRASTIVE", "bns", "pretrain.loss", options_of_loss)
    variables = encoder.initialise(network, jax.random.key(0), images.shape[1:])
    tx = optim.create(training, 100, len(images))
    current = state.create(variables, tx)
    data = on_device(images, labels)
    b = options.batch
    batch = jnp.stack([jnp.arange(b), jnp.arange(b) + b], axis=1).astype(jnp.int32)
    views = jnp.asarray(images[: 3 * b], jnp.float32) / 255
    unit = jax.random.normal(jax.random.key(2), (b, 3, 128))
    unit = unit / jnp.linalg.norm(unit, axis=2, keepdims=True)
    y = data["labels"][:b]

    def alone(params, stats, x):
        def loss_of(params):
            out, moved = network.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
            return (out * x[0, 0, 0, 0]).sum(), moved

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    def of_loss(key, embeddings):
        def loss_of(embeddings):
            drawn = negatives.sample(key, y, y, N)
            own = jnp.arange(b)
            return losses.bns(embeddings[:, :2], embeddings[:, 2], own, drawn, TEMPERATURE).mean()

        return jax.value_and_grad(loss_of)(embeddings)

    def of_augmentation(key, x):
        return augment.apply(key, x, settings)

    pixels = jnp.asarray(images[: 3 * b])
    return {
        "network and projector, 3 views": compiled(alone, current.params, current.batch_stats, views),
        "BNS step, whole": (AsTrained(step.pretrain(network, tx, objective, settings), current, data, batch), ()),
        "  augmentation of 3 views": compiled(of_augmentation, jax.random.key(1), pixels),
        "  negatives and loss": compiled(of_loss, jax.random.key(3), unit),
    }


class Jitted:
    """A jitted function. Counts the operations before compilation, which hides some of them in library calls."""

    def __init__(self, function, arguments, **options):
        self.run = jax.jit(function, **options)
        lowered = self.run.lower(*arguments)
        self.cost_analysis, self.memory_analysis = lowered.cost_analysis, lowered.compile().memory_analysis

    def __call__(self, *arguments):
        return self.run(*arguments)


class AsTrained(Jitted):
    """A step as training runs it: the state is donated, so that the next state uses the same buffers."""

    def __init__(self, function, current, data, batch):
        mesh = sharding.mesh(1)
        self.state = sharding.put_replicated(jax.tree.map(jnp.copy, current), mesh)
        self.inputs = sharding.put_replicated((data, batch), mesh)
        shardings = jax.tree.map(lambda x: x.sharding, self.state)
        super().__init__(function, (self.state, *self.inputs), donate_argnums=0, out_shardings=(shardings, None))

    def __call__(self):
        self.state, metrics = self.run(self.state, *self.inputs)
        return self.state, metrics


def compiled(function, *arguments):
    """Returns (jitted function, arguments on the mesh)."""
    arguments = sharding.put_replicated(arguments, sharding.mesh(1))
    return Jitted(function, arguments), arguments
