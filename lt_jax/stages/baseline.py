"""The plain yardstick: the same encoder with a linear head, trained on all images.

`loss` is cross-entropy, or the balanced softmax, cross-entropy of logits + log prior (Ren et al., NeurIPS 2020, Eq. 3),
which is also the loss of logit adjustment with tau = 1 (Menon et al., ICLR 2021, Eq. 10). `sampling` draws images, or
with `class_aware` classes, equally often.
"""

import math
from typing import Any

from etils import epath

from lt_jax import data, losses, optim
from lt_jax import models as encoder
from lt_jax.data import batches
from lt_jax.sampling import orders
from lt_jax.train import checkpoint, sharding, state
from lt_jax.train import loop as train
from lt_jax.train import steps as step


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    dataset = data.load(config.data)
    network, tx, current, per_epoch = _parts(config, dataset)
    options, labels = config.baseline, dataset.train.labels
    size, seed = optim.batch_size(options, len(labels)), state.number(config.seed, "baseline/order")
    by_class = options.sampling == "class_aware"
    order = orders.ClassAware(labels, size, seed) if by_class else orders.Order(len(labels), size, seed)
    prior = losses.log_prior(dataset.counts) if options.loss == "balanced_softmax" else None
    crops, smallest = state.number(config.seed, "baseline/crops"), options.augment.crop_scale
    job = train.Job(
        stage="baseline",
        seed=config.seed,
        step=step.classify(network, tx, options.augment, accumulate=options.accumulate, log_prior=prior),
        feed=batches.feed(dataset.train, order, size, crops, smallest, **sharding.host()),
        steps=optim.total_steps(options, per_epoch),
        steps_per_epoch=per_epoch,
        batch_size=size,
        learning_rate=optim.schedule(options, per_epoch, len(labels)),
    )
    _, progress = train.train(job, current, workdir, config)
    return {"seconds": progress["seconds"]}


def load(config: Any, workdir: epath.Path, dataset: data.Dataset) -> dict[str, Any]:
    """Variables of the trained network."""
    like = sharding.abstract(lambda: _parts(config, dataset)[2], config.host.shard_params)
    return checkpoint.load(workdir, "baseline", like).variables()


def _parts(config, dataset):
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    items = len(dataset.train.labels)
    per_epoch = math.ceil(items / optim.batch_size(config.baseline, items))
    tx = optim.adamw(config.baseline, per_epoch, items)
    shape = dataset.image_shape
    variables = encoder.initialise(network, state.stream(config.seed, "baseline/init"), shape, config.encoder.weights)
    return network, tx, state.create(variables, tx), per_epoch
