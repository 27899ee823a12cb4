"""Linear probing of the pretrained encoder, by two protocols; `probe.per_class=0` leaves out the second.

`plain`: all training images, clean; the encoder and its BatchNorm statistics stay fixed.
`official`: as the released code does it: a random class-balanced subset under SimCLR augmentation, the encoder frozen
but in training mode, so that its BatchNorm statistics keep moving.
"""

from typing import Any

import numpy as np

from lt_jax import heads, metrics, optim
from lt_jax.core import files
from lt_jax.sampling import orders
from lt_jax.stages import experiment as experiments
from lt_jax.stages import heads as saved_heads
from lt_jax.train import extract, steps


def run(experiment: experiments.Experiment) -> dict[str, Any]:
    """Writes `probe.json` and `features/`."""
    encoder = experiment.encoder()
    has_official = experiment.config.probe.per_class > 0
    measures = {
        "plain": plain(experiment, encoder),
        "official": official(experiment, encoder) if has_official else None,
    }
    files.write_json(experiment.workdir / "probe.json", by_split(measures))
    return {}


def by_split(measures: dict[str, Any]) -> dict[str, Any]:
    """Content of `probe.json`: test measures by protocol, and under "validation" those on validation images."""
    validation = {protocol: x and x.get("validation") for protocol, x in measures.items()}
    return {**{protocol: x and x["test"] for protocol, x in measures.items()}, "validation": validation}


def plain(experiment: experiments.Experiment, encoder: dict[str, Any], write: bool = True) -> dict[str, Any]:
    """Measures by split of a linear layer on the frozen features of this encoder; with `write` these are saved."""
    config, dataset = experiment.config, experiment.dataset
    blank = experiment.under_new_head(encoder, "probe/blank")
    train_features, _ = experiment.extract(blank, dataset.train.images)
    head = heads.linear(
        experiment.stream("probe/plain"),
        train_features,
        dataset.train.labels,
        experiment.classes,
        settings=heads.Settings.of(config.probe, optim.epochs(config.probe, len(train_features))),
    )
    assert isinstance(head, heads.Linear)  # standardised features need no other kind
    variables = {**blank, "params": {**blank["params"], "head": head.params()}}
    outputs = {name: experiment.extract(variables, split.images) for name, split in dataset.evaluated.items()}
    if write:
        saved_heads.save(experiment.workdir, "probe", "linear_probe", head)
        outputs_of_train = {"train": (train_features, head(train_features))}
        for name, (features, logits) in {**outputs_of_train, **outputs}.items():
            extract.write(experiment.workdir, name, features, logits, getattr(dataset, name))
    return _measures(experiment, {name: logits for name, (_, logits) in outputs.items()})


def official(experiment: experiments.Experiment, encoder: dict[str, Any]) -> dict[str, Any]:
    """Measures by split of the released code's protocol."""
    config, dataset, network = experiment.config, experiment.dataset, experiment.network
    settings = config.probe
    subset = balanced_subset(dataset.train.labels, settings.per_class, experiment.number("probe/subset"))
    final, _ = experiment.fit(
        "probe",
        variables=experiment.under_new_head(encoder, "probe/official"),
        step=lambda optimizer: steps.classify(network, optimizer, settings.augment, accumulate=settings.accumulate),
        order=lambda batch_size, seed: orders.Subset(subset, orders.Order(subset, batch_size, seed)),
        items=len(subset),
        trainable=("head",),
    )
    splits = dataset.evaluated.items()
    return _measures(experiment, {name: experiment.extract(final.averaged(), x.images)[1] for name, x in splits})


def _measures(experiment: experiments.Experiment, logits: dict[str, Any]) -> dict[str, Any]:
    dataset, bins = experiment.dataset, experiment.config.evaluate.ece_bins
    return {
        split: metrics.measures(getattr(dataset, split).labels, x, dataset.groups, bins) for split, x in logits.items()
    }


def balanced_subset(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Up to `per_class` random positions of each class, sorted, int32."""
    generator = np.random.default_rng(seed)
    positions = [generator.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
    return np.sort(np.concatenate(positions)).astype(np.int32)
