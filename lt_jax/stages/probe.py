"""Linear probing of the pretrained encoder, by two protocols.

`plain`: all training images, clean; the encoder and its BatchNorm statistics stay fixed.
`official`: as the released code does it: a random class-balanced subset under SimCLR augmentation, the encoder frozen
but in training mode, so that its BatchNorm statistics keep moving.
"""

from typing import Any

import numpy as np

from lt_jax import metrics
from lt_jax.core import files
from lt_jax.heads import linear
from lt_jax.sampling import orders
from lt_jax.stages import experiment as experiments
from lt_jax.train import extract, steps


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Writes `probe.json` and `features/`."""
    encoder = experiment.encoder()
    measures = {"plain": plain(experiment, encoder), "official": official(experiment, encoder)}
    files.write_json(experiment.workdir / "probe.json", measures)
    return {}


def plain(experiment: experiments.Experiment, encoder: dict[str, Any], write: bool = True) -> dict[str, Any]:
    """Test measures of a linear layer on the frozen features of this encoder; with `write` they go to `features/`."""
    config, dataset = experiment.config, experiment.dataset
    blank = experiment.under_new_head(encoder, "probe/blank")
    train_features, _ = experiment.extract(blank, dataset.train.images)
    head = linear.fit(
        experiment.stream("probe/plain"),
        train_features,
        dataset.train.labels,
        dataset.num_classes,
        config.probe,
        config.probe.epochs,
    )
    variables = {**blank, "params": {**blank["params"], "head": {"dense": head}}}
    test_features, test_logits = experiment.extract(variables, dataset.test.images)
    if write:
        train_logits = train_features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        extract.write(experiment.workdir, "train", train_features, train_logits, dataset.train)
        extract.write(experiment.workdir, "test", test_features, test_logits, dataset.test)
    return metrics.measures(dataset.test.labels, test_logits, dataset.groups, config.evaluate.ece_bins)


def official(experiment: experiments.Experiment, encoder: dict[str, Any]) -> dict[str, Any]:
    """Test measures of the released code's protocol."""
    config, dataset, network = experiment.config, experiment.dataset, experiment.network
    settings = config.probe
    subset = balanced_subset(dataset.train.labels, settings.per_class, experiment.number("probe/subset"))
    final, _ = experiment.fit(
        "probe",
        variables=experiment.under_new_head(encoder, "probe/official"),
        step=lambda optimizer: steps.classify(network, optimizer, settings.augment, accumulate=settings.accumulate),
        order=lambda batch_size, seed: orders.Subset(subset, orders.Order(len(subset), batch_size, seed)),
        items=len(subset),
        trainable="head",
    )
    _, test_logits = experiment.extract(final.averaged(), dataset.test.images)
    return metrics.measures(dataset.test.labels, test_logits, dataset.groups, config.evaluate.ece_bins)


def balanced_subset(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Up to `per_class` random positions of each class, sorted, int32."""
    generator = np.random.default_rng(seed)
    positions = [generator.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
    return np.sort(np.concatenate(positions)).astype(np.int32)
