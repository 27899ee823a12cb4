"""Linear probing of the pretrained encoder, by two protocols.

`plain`: all training images, clean, the encoder and its BatchNorm statistics at rest.
`official`: as the released code does it: a random class-balanced subset under SimCLR augmentation, the encoder frozen
but in training mode, so that its BatchNorm statistics keep moving.
"""

import math
from typing import Any

import numpy as np
from etils import epath

from lt_jax import data, metrics, optim
from lt_jax import models as encoder
from lt_jax.core import files
from lt_jax.data import batches
from lt_jax.heads import linear
from lt_jax.sampling import orders
from lt_jax.stages import pretrain
from lt_jax.train import extract as features
from lt_jax.train import loop as train
from lt_jax.train import sharding, state
from lt_jax.train import steps as step


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Writes `probe.json` and `features/`."""
    dataset = data.load(config.data)
    pretrained = pretrain.load(config, workdir, dataset)
    result = {
        "plain": plain(config, dataset, pretrained, workdir),
        "official": official(config, dataset, pretrained, workdir),
    }
    files.write_json(workdir / "probe.json", result)
    return {}


def plain(config: Any, dataset: data.Dataset, encoder_variables: dict[str, Any], workdir: epath.Path | None = None):
    """Measures of a linear layer on frozen features; features go to `workdir` where one is given."""
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    extract = features.Extractor(network, config.evaluate.batch_size)
    blank = with_new_head(config, dataset, encoder_variables, "probe/blank")
    train_features, _ = extract(blank, dataset.train.images)
    head = linear.fit(
        state.stream(config.seed, "probe/plain"),
        train_features,
        dataset.train.labels,
        dataset.num_classes,
        config.probe,
        config.probe.epochs,
    )
    variables = {**blank, "params": {**blank["params"], "head": {"dense": head}}}
    test_features, logits = extract(variables, dataset.test.images)
    if workdir is not None:
        train_logits = train_features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        features.write(workdir, "train", train_features, train_logits, dataset.train)
        features.write(workdir, "test", test_features, logits, dataset.test)
    return metrics.measures(dataset.test.labels, logits, dataset.groups, config.evaluate.ece_bins)


def official(config: Any, dataset: data.Dataset, encoder_variables: dict[str, Any], workdir: epath.Path):
    """Measures of the released code's protocol, trained by the loop of all stages."""
    options = config.probe
    subset = balanced_subset(dataset.train.labels, options.per_class, state.number(config.seed, "probe/subset"))
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    size = optim.batch_size(options, len(subset))
    per_epoch = math.ceil(len(subset) / size)
    tx = optim.adamw(options, per_epoch, len(subset))
    variables = with_new_head(config, dataset, encoder_variables, "probe/official")
    order = orders.Subset(subset, orders.Order(len(subset), size, state.number(config.seed, "probe/order")))
    crops, smallest = state.number(config.seed, "probe/crops"), options.augment.crop_scale
    job = train.Job(
        stage="probe",
        seed=config.seed,
        step=step.classify(network, tx, options.augment, accumulate=options.accumulate),
        feed=batches.feed(dataset.train, order, size, crops, smallest, **sharding.host()),
        steps=optim.total_steps(options, per_epoch),
        steps_per_epoch=per_epoch,
        batch_size=size,
        learning_rate=optim.schedule(options, per_epoch, len(subset)),
    )
    final, _ = train.train(job, state.create(variables, tx, trainable="head"), workdir, config)
    _, logits = features.Extractor(network, config.evaluate.batch_size)(final.variables(), dataset.test.images)
    return metrics.measures(dataset.test.labels, logits, dataset.groups, config.evaluate.ece_bins)


def with_new_head(config: Any, dataset: data.Dataset, encoder_variables: dict[str, Any], name: str) -> dict[str, Any]:
    """Variables of a classifier: the given encoder under a fresh linear head."""
    network = encoder.classifier(config.encoder, dataset.num_classes, config.dtype)
    head = encoder.initialise_head(network, state.stream(config.seed, name), dataset.image_shape)
    params = {**encoder_variables["params"], "head": head}
    return {"params": params, "batch_stats": encoder_variables["batch_stats"]}


def balanced_subset(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Up to `per_class` random positions of each class, sorted, int32."""
    generator = np.random.default_rng(seed)
    chosen = [generator.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
    return np.sort(np.concatenate(chosen)).astype(np.int32)
