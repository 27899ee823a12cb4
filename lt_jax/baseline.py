"""The plain yardstick: the same encoder with a linear head, trained on all images with cross-entropy."""

import math
from typing import Any

from etils import epath

from lt_jax import checkpoint, data, encoder, optim, sharding, state, step, train
from lt_jax.data import pipeline


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    dataset = data.load(config.data)
    network, tx, current, per_epoch = _parts(config, dataset)
    size = min(config.baseline.batch_size, len(dataset.train.labels))
    options = config.baseline
    order = pipeline.Order(len(dataset.train.labels), size, state.number(config.seed, "baseline/order"))
    crops, smallest = state.number(config.seed, "baseline/crops"), options.augment.crop_scale
    job = train.Job(
        stage="baseline",
        step=step.classify(network, tx, options.augment, config.seed, "baseline", accumulate=options.accumulate),
        feed=pipeline.feed(dataset.train, order, size, crops, smallest, **sharding.host()),
        steps=optim.total_steps(options, per_epoch),
        steps_per_epoch=per_epoch,
        batch_size=size,
        learning_rate=optim.schedule(options, per_epoch),
    )
    _, seconds = train.train(job, current, workdir, config)
    return {"seconds": seconds}


def load(config: Any, workdir: epath.Path, dataset: data.Dataset) -> dict[str, Any]:
    """Variables of the trained network."""
    like = sharding.abstract(lambda: _parts(config, dataset)[2])
    return checkpoint.load(workdir / "checkpoints" / "baseline", like).variables()


def _parts(config, dataset):
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    per_epoch = math.ceil(len(dataset.train.labels) / config.baseline.batch_size)
    tx = optim.adamw(config.baseline, per_epoch)
    shape = dataset.image_shape
    variables = encoder.initialise(network, state.stream(config.seed, "baseline/init"), shape, config.encoder.weights)
    return network, tx, state.create(variables, tx), per_epoch
