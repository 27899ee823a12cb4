"""Changes one ingredient of joint training with BNS at a time, on CIFAR-10-LT, and fits heads on every network.

    python benchmarks/ablation.py [--workdir=runs/ablation] [--seeds=1] [--settings="NAME;NAME"] [--no-write]

A short form that two CPU cores finish: 1,000 to 10 training images a class, a ResNet of 16 channels that halves the
image at once, 30 epochs. The ingredients are compared on validation images, 1,000 of each class that the long-tailed
subset leaves; the test set chooses nothing. A gain is that over all ingredients, with its 95 % interval: paired over
the seeds; of one seed by the number of validation images. --settings trains these alone, as further seeds of the best
ones; the table has all runs of the work directory. LT_JAX_DATA names the folder of the CIFAR archives. The same command
continues the runs. Every work directory has a folder `features`, which `benchmarks/subsets.py` reads. Writes
benchmarks/results/ablation.json.
"""

import argparse
import json
import pathlib

import keep
import numpy as np

CONFIG = "configs/cifar10_lt.py:100,encoder=resnet_small,epochs=30,method=bns_joint"
MEASURES = ("balanced", "many", "medium", "few")
HEADS = ("balanced_linear", "crt", "maxnorm", "nearest_class_mean", "tau_norm")
# The recipe `bns_joint` with further ingredients. A small network needs mild views, and many steps at a high rate.
BASE = {
    "data.largest": 1000,
    "data.validation_unused": 1000,
    "heads": HEADS,
    "stages": ("baseline", "heads", "evaluate"),
    "baseline.batch_size": 128,
    "baseline.base_learning_rate": 4e-3,
    "baseline.ema": 0.99,
    "baseline.augment.mix": "mixup",
    "baseline.augment.policy": "trivial",
    "baseline.augment.cutout": 0.5,
    "baseline.contrastive_augment.strength": 0.5,
    "baseline.contrastive_augment.crop_scale": 0.25,
    "baseline.contrastive_augment.blur": False,
}
WHOLE = "all ingredients"
MOST_SEEDS = 10
WITHOUT = {
    "baseline.augment.mix": "",
    "baseline.augment.policy": "",
    "baseline.augment.cutout": 0.0,
    "baseline.contrastive": "",
    "baseline.loss": "cross_entropy",
    "baseline.ema": 0.0,
}
SETTINGS = {
    WHOLE: {},
    "cross-entropy alone": WITHOUT,
    "adjusted loss alone": {key: value for key, value in WITHOUT.items() if key != "baseline.loss"},
    "CutMix for mixup": {"baseline.augment.mix": "cutmix"},
    "no mix": {"baseline.augment.mix": ""},
    "cross-entropy for the adjusted loss": {"baseline.loss": "cross_entropy"},
    "crops and flips alone": {"baseline.augment.policy": "", "baseline.augment.cutout": 0.0},
    "no BNS": {"baseline.contrastive": ""},
    "BNS, weight .3": {"baseline.contrastive_weight": 0.3},
    "no moving average": {"baseline.ema": 0.0},
}


def main():
    options = parse()
    train([(name, seed) for seed in range(options.seeds) for name in options.settings], options.workdir)
    runs = {key: read(folder) for key, folder in finished(options.workdir)}
    rows = {name: row(name, runs) for name in SETTINGS if (name, 0) in runs}
    show(rows)
    if not options.no_write:
        commits = sorted({run["commit"] for run in runs.values()})
        content = {"config": CONFIG, "base": BASE, "reference": WHOLE, "trained_at": commits, "rows": rows}
        keep.write(content, "ablation.json", command_of(rows))


def command_of(rows):
    """Returns the commands that train these rows: every setting with one seed, some with more."""
    most = max(each["seeds"] for each in rows.values())
    further = ";".join(name for name, each in rows.items() if each["seeds"] == most)
    command = "python benchmarks/ablation.py --workdir=DIR"
    return command if most == 1 else f'{command}, then with --seeds={most} --settings="{further}"'


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=keep.ROOT / "runs" / "ablation")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--settings", type=lambda text: text.split(";"), default=list(SETTINGS), help="NAME;NAME")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.settings) - set(SETTINGS):
        parser.error(f"--settings: expected some of {'; '.join(SETTINGS)}, found {sorted(unknown)[0]!r}")
    return options


def config_of(name, seed):
    """Returns the config of a run."""
    from lt_jax.run import command

    config, _ = command.parse(["lt_jax", f"--config={CONFIG}"])
    config.update_from_flattened_dict({**BASE, **SETTINGS[name], "seed": seed})
    return config


def folder_of(workdir, name, seed):
    return workdir / name.replace(" ", "-").replace(",", "") / f"seed{seed}"


def train(keys, workdir):
    """Trains the networks that are not trained yet, and saves their features."""
    from lt_jax.compare import workers
    from lt_jax.stages import experiment as experiments

    folders = {key: folder_of(workdir, *key) for key in keys}
    failed = workers.run_all([workers.Task(str(folder), config_of(*key)) for key, folder in folders.items()], 1)
    for folder, reason in failed.items():
        print(f"{folder} failed: {reason}")
    for key, folder in folders.items():
        if str(folder) not in failed and not (folder / "features" / "test.labels.npy").exists():
            save_features(experiments.Experiment(config_of(*key), folder))


def finished(workdir):
    """Returns ((setting, seed), folder) of every run of the work directory that has a result."""
    keys = [(name, seed) for name in SETTINGS for seed in range(MOST_SEEDS)]
    return [(key, folder) for key in keys if ((folder := folder_of(workdir, *key)) / "result.json").exists()]


def save_features(experiment):
    from lt_jax.train import extract

    variables = experiment.trained("baseline")
    for name in ("train", "test"):
        split = getattr(experiment.dataset, name)
        extract.write(experiment.workdir, name, *experiment.extract_baseline(variables, split.images), split)


def read(folder):
    """Returns what a run left."""
    return {
        "result": json.loads((folder / "result.json").read_text()),
        "commit": json.loads((folder / "stages" / "baseline.json").read_text())["commit"],
    }


def row(name, runs):
    """Returns the measures of a setting over the seeds, those of its heads, and its gain over all ingredients."""
    seeds = [seed for seed in range(MOST_SEEDS) if (name, seed) in runs and (WHOLE, seed) in runs]
    own = [network(runs[name, seed]["result"]) for seed in seeds]
    whole = [network(runs[WHOLE, seed]["result"]) for seed in seeds]
    heads = {
        head: keep.summary([runs[name, seed]["result"]["methods"][head]["validation"]["balanced"] for seed in seeds])
        for head in HEADS
    }
    return {
        "seeds": len(seeds),
        "seconds": float(np.median([x["seconds"] for x in own])),
        "validation": summaries(own, "validation"),
        "test": summaries(own, "test"),
        "gain": None if name == WHOLE else gain(own, whole),
        "heads": heads,
    }


def network(result):
    """Returns what a result says of the network's own classifier."""
    return result["methods"][result["final"]]


def summaries(methods, split):
    return {measure: keep.summary([x[split][measure] for x in methods]) for measure in MEASURES}


def gain(own, whole):
    """Returns the mean difference of balanced validation accuracy with its 95 % interval.

    The errors of two networks on the same validation images count as independent where there is one pair of them.
    """
    values, reference = ([x["validation"]["balanced"] for x in each] for each in (own, whole))
    difference = keep.interval(values, reference)
    if difference["half_width_95"] is None:
        error = np.hypot(*(x[0]["validation"]["balanced_error"] for x in (own, whole)))
        difference["half_width_95"] = float(1.96 * error)
    return difference


def show(rows):
    print(f"{'balanced accuracy, validation':38}{'own':>14}{'gain':>14}" + "".join(f"{x[:12]:>14}" for x in HEADS))
    for name, each in rows.items():
        own = keep.cell(each["validation"]["balanced"], "std")
        difference = keep.cell(each["gain"], "half_width_95") if each["gain"] else ""
        heads = [keep.cell(each["heads"][x], "std") for x in HEADS]
        print(f"{name:38}{own:>14}{difference:>14}" + "".join(f"{head:>14}" for head in heads))


if __name__ == "__main__":
    main()
