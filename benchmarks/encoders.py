"""Heads on the features of a pretrained encoder, on CIFAR-100-LT and CIFAR-10-LT.

    python benchmarks/encoders.py --workdir=DIR [--seeds=3] [--factor=100] [--weights=efficientnet_lite0]

Runs configs/cifar100_lt.py and configs/cifar10_lt.py with the token weights=, all heads, cross-validated, for each
seed. The features do not depend on the seed and are computed once. The archives are those that LT_JAX_DATA names. The
same command again resumes. Writes benchmarks/results/encoders.json.
"""

import argparse
import json
import pathlib
import shutil
import sys
import time

import keep

from lt_jax import main as command_line
from lt_jax.run import command

DATA_SETS = ("cifar100", "cifar10")


def main():
    options = parse()
    report, seconds = {}, 0.0
    for name in DATA_SETS:
        results, spent = zip(*(run(name, seed, options) for seed in range(options.seeds)), strict=True)
        seconds += sum(spent)
        report[name] = summarised(results)
        show(name, report[name])
    words = f"python benchmarks/encoders.py --workdir=DIR --seeds={options.seeds} --factor={options.factor:g}"
    if options.weights != "efficientnet_lite0":
        words += f" --weights={options.weights}"
    content = {"weights": options.weights, "factor": options.factor, "seeds": options.seeds, "seconds": seconds}
    if not options.no_write:
        keep.write({**content, "data": report}, "encoders.json", words)
    print(f"\n{seconds:.0f} seconds in all")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=100.0, help="of the imbalance")
    parser.add_argument("--weights", default="efficientnet_lite0")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def run(name, seed, options):
    """Returns the result of one run and its seconds; of all seeds but the first it takes the features of the first."""
    workdir, first = (options.workdir / f"{name}-seed{number}" for number in (seed, 0))
    if seed and not (workdir / "features").exists():
        shutil.copytree(first / "features", workdir / "features")
    words = [
        "lt_jax", f"--config=configs/{name}_lt.py:{options.factor:g},weights={options.weights}",
        f"--config.seed={seed}", "--config.stages=('features','heads','evaluate')", f"--workdir={workdir}",
    ]  # fmt: skip
    for stage in ("features", "all"):
        if not (workdir / f"seconds_{stage}.json").exists():
            began = time.monotonic()
            command_line.run(*command.parse([*words, f"--stage={stage}"]))
            (workdir / f"seconds_{stage}.json").write_text(json.dumps(time.monotonic() - began))
    each = [json.loads((workdir / f"seconds_{stage}.json").read_text()) for stage in ("features", "all")]
    print(f"{name}, seed {seed}: features {each[0]:.0f} s, heads {each[1]:.0f} s", file=sys.stderr)
    return json.loads((workdir / "result.json").read_text()), sum(each)


def summarised(results):
    """Returns the accuracy of every head, mean and spread over seeds, and that of the heads that were selected."""
    first = results[0]
    heads = {}
    for name, about in first["methods"].items():
        each = [result["methods"][name] for result in results]
        validation = [x["validation"]["balanced"] for x in each]
        heads[name] = {"title": about["title"], **over_seeds([x["test"] for x in each])}
        heads[name] |= {"validation": keep.summary(validation), "seconds": keep.summary([x["seconds"] for x in each])}
    return {
        "dataset": {key: first["dataset"][key] for key in ("train_size", "index_digest")},
        "side": first["protocol"]["input"][0],
        "folds": first["selection"]["folds"],
        "heads": heads,
        "selected": {"names": [x["selected"] for x in results], **over_seeds([x["test"] for x in results])},
    }


def over_seeds(measures):
    return {group: keep.summary([x[group] for x in measures]) for group in keep.GROUPS}


def show(name, about):
    print(f"\n{name}: test accuracy in per cent, mean and standard deviation over seeds")
    width = max(len(x["title"]) for x in about["heads"].values())
    columns = (*keep.GROUPS, "validation")
    print(" " * width + "".join(f"{column:>15}" for column in columns))
    for head in about["heads"].values():
        print(f"{head['title']:{width}}" + "".join(f"{keep.cell(head[x], 'std'):>15}" for x in columns))
    cells = "".join(f"{keep.cell(about['selected'][x], 'std'):>15}" for x in keep.GROUPS)
    print(f"{'selected':{width}}{cells}  {' '.join(about['selected']['names'])}")


if __name__ == "__main__":
    main()
