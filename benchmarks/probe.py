"""Compares linear probes on the pretrained encoder, on the same encoder at random initialisation, and on raw pixels.

    python benchmarks/probe.py --workdir=DIR

DIR is a work directory whose pretraining is finished. All three are trained by the plain protocol (every training
image, no augmentation, frozen encoder) with the same settings. Writes benchmarks/results/probe_NAME.json.
"""

import argparse
import json
import os
import pathlib

import keep
import ml_collections
import numpy as np
from etils import epath

from lt_jax import heads, losses, metrics
from lt_jax.stages import pretrain, probe
from lt_jax.stages.experiment import Experiment
from lt_jax.train import state

GROUPS = ("overall", "many", "medium", "few")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    options = parser.parse_args()
    config = ml_collections.ConfigDict(json.loads((options.workdir / "config.json").read_text()))
    config.data.dir = config.data.dir or os.environ.get("LT_JAX_DATA", "")
    experiment = Experiment(config, epath.Path(options.workdir))
    dataset = experiment.dataset
    rows = {
        "raw pixels": pixels(config, dataset),
        "random encoder": probe.plain(experiment, pretrain.first(experiment), write=False)["test"],
        "BNS encoder": probe.plain(experiment, experiment.encoder(), write=False)["test"],
    }
    print(f"{dataset.name}: plain linear probe, test accuracy in per cent")
    for name, measures in rows.items():
        print(
            f"{name:16}"
            + "".join(f"{100 * measures[g]:>10.1f}" if measures[g] is not None else "       n/a" for g in GROUPS)
        )
    accuracy = {name: {group: measures[group] for group in GROUPS} for name, measures in rows.items()}
    stage = json.loads((options.workdir / "stages" / "pretrain.json").read_text())
    about = {"config": config.pretrain.to_dict(), "encoder": config.encoder.to_dict(), "pretrain_s": stage["seconds"]}
    keep.write(
        {**about, "accuracy": accuracy}, f"probe_{dataset.name}.json", "python benchmarks/probe.py --workdir=DIR"
    )


def pixels(config, dataset):
    def flat(images):
        return images.reshape(len(images), -1).astype(np.float32) / 255

    key = state.stream(config.seed, "probe/pixels")
    classes = losses.Classes.of(dataset.counts)
    settings = heads.Settings.of(config.probe, config.probe.epochs)
    head = heads.linear(key, flat(dataset.train.images), dataset.train.labels, classes, settings=settings)
    return metrics.measures(dataset.test.labels, head(flat(dataset.test.images)), dataset.groups)


if __name__ == "__main__":
    main()
