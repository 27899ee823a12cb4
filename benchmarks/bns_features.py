"""Compares the residual adapter with and without Balanced Negative Sampling, on the features of a frozen encoder.

    python benchmarks/bns_features.py --features=DIR [--features=DIR...] [--seeds=3] [--no-write]

DIR is the work directory of a run with the token weights=, as `benchmarks/encoders.py` leaves. The gain is that over
the adapter without BNS, paired over the seeds, with its 95 % interval. The test images choose nothing.
Writes benchmarks/results/bns_features.json.
"""

import argparse
import pathlib

import jax
import keep
import numpy as np
import subsets

from lt_jax import methods, metrics

FORMS = {
    "adapter": ("adapter", {}),
    "bns_adapter, weight .1": ("bns_adapter", {}),
    "bns_adapter, weight 1": ("bns_adapter", {"bns_weight": 1.0}),
}


def main():
    options = parse()
    report = {}
    for folder in options.features:
        name, split, classes, groups = subsets.read(folder)
        measures = {form: fitted(form, split, classes, groups, options.seeds) for form in FORMS}
        report[name] = {form: subsets.summarised(x, measures["adapter"]) for form, x in measures.items()}
        for form, row in report[name].items():
            print(f"{name:10} {form:24} {keep.cell(row['overall'], 'std'):>14} {keep.cell(row['few'], 'std'):>14}")
    if not options.no_write:
        command = f"python benchmarks/bns_features.py {'--features=DIR ' * len(report)}--seeds={options.seeds}"
        keep.write({"seeds": options.seeds, "data": report}, "bns_features.json", command)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", action="append", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def fitted(form, split, classes, groups, seeds):
    """Returns the measures on the test images, one for each seed."""
    head_name, head_options = FORMS[form]
    measured = []
    for seed in range(seeds):
        arrays = split["train_features"], split["train_labels"]
        head = methods.HEADS[head_name](jax.random.key(seed), *arrays, classes, **head_options)
        logits = np.asarray(head(split["test_features"]))
        measured.append(metrics.measures(split["test_labels"], logits, groups))
    return measured


if __name__ == "__main__":
    main()
