"""Compares selectors of a balanced subset on the features of a frozen encoder, at equal steps.

    python benchmarks/subsets.py --features=[LABEL=]DIR,DIR... [--features=...] [--k=10,20,50] [--seeds=3] [--name=NAME]
                                 [--no-write]

DIR is a work directory with a folder `features`, as `benchmarks/encoders.py` and `benchmarks/ablation.py` leave;
several behind one --features are networks of several seeds. LABEL names the rows; the default is the data set. Each
selector takes at most k images of a class, once; a linear head is trained on them with as many steps as on all images.
Rows: selectors; the gain is that over the uniform subset, with its 95 % interval, paired over the networks, or of one
network over --seeds draws. Measured on the test images, which choose nothing. Writes benchmarks/results/subsets.json,
with --name subsets_NAME.json.
"""

import argparse
import json
import pathlib

import jax
import keep
import numpy as np

from lt_jax import losses, methods, metrics

K = (10, 20, 50)  # images that a class keeps
SELECTORS = ("uniform", "rank_one", "herding", "kmeans")


def main():
    options = parse()
    report = {}
    for text in options.features:
        label, _, folders = text.rpartition("=")
        networks = [measure(pathlib.Path(folder), options) for folder in folders.split(",")]
        label = label or f"{networks[0][0].upper()}-LT"
        report[label] = pooled([accuracies for _, accuracies in networks])
        show(label, report[label])
    if not options.no_write:
        content = {"seeds": options.seeds, "networks": len(networks), "data": report}
        words = ["--features=DIR"] * len(options.features) + [f"--seeds={options.seeds}"]
        words += [f"--k={','.join(map(str, options.k))}"] if options.k != K else []
        words += [f"--name={options.name}"] if options.name else []
        file = f"subsets_{options.name}.json" if options.name else "subsets.json"
        keep.write(content, file, "python benchmarks/subsets.py " + " ".join(words))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", action="append", required=True)
    parser.add_argument("--k", type=lambda text: tuple(map(int, text.split(","))), default=K)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", default="")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def read(folder):
    """Returns what a run left: name of the data set, arrays by split and kind, classes and groups of classes."""
    about = json.loads((folder / "result.json").read_text())["dataset"]
    split = {
        f"{name}_{kind}": np.load(folder / "features" / f"{name}.{kind}.npy")
        for name in ("train", "test")
        for kind in ("features", "labels")
    }
    split = {name: x.astype(np.float32) if name.endswith("features") else x for name, x in split.items()}
    classes = losses.Classes.of(np.bincount(split["train_labels"]))
    groups = {name: np.isin(np.arange(about["num_classes"]), x) for name, x in about["groups"].items()}
    return about["name"], split, classes, groups


def measure(folder, options):
    """Returns the name of the data set, and {k: {selector: measures of each draw}}."""
    data_name, split, classes, groups = read(folder)
    features, labels = split["train_features"], split["train_labels"]
    initial = methods.HEADS["linear"](jax.random.key(0), features, labels, classes, scaling="unit")
    measured = {}
    for k in options.k:
        each = {}
        for selector in SELECTORS:
            each[selector] = []
            for seed in range(options.seeds):
                fit = methods.HEADS["subset_linear"]
                head = fit(jax.random.key(seed), features, labels, classes, initial=initial, selector=selector, k=k)
                logits = np.asarray(head(split["test_features"]))
                each[selector].append(metrics.measures(split["test_labels"], logits, groups))
        measured[k] = each
    return data_name, measured


def pooled(networks):
    """Returns {k: {selector: accuracy and gain over uniform}}: over the draws of one network, or over networks.

    Draws of one network are no independent seeds of several, so their mean stands for the network.
    """
    summary = {}
    for k in networks[0]:
        each = {
            selector: networks[0][k][selector] if len(networks) == 1 else [mean(x[k][selector]) for x in networks]
            for selector in SELECTORS
        }
        summary[k] = {selector: summarised(x, each["uniform"]) for selector, x in each.items()}
    return summary


def mean(measures):
    """Returns the mean accuracies of several draws."""
    return {group: float(np.mean([x[group] for x in measures])) for group in ("overall", "few")}


def summarised(measures, reference):
    """Returns accuracy over the seeds, overall and on the rare classes, and the gain over the reference."""
    values, base = ([x["overall"] for x in each] for each in (measures, reference))
    few = keep.summary([x["few"] for x in measures])
    return {"overall": keep.summary(values), "few": few, "gain": keep.interval(values, base)}


def show(name, measured):
    for k, rows in measured.items():
        for selector, row in rows.items():
            cells = (
                keep.cell(row["overall"], "std"),
                keep.cell(row["few"], "std"),
                keep.cell(row["gain"], "half_width_95"),
            )
            print(f"{name:10} k = {k:<4} {selector:10} {cells[0]:>14} {cells[1]:>14} {cells[2]:>14}", flush=True)


if __name__ == "__main__":
    main()
