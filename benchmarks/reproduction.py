"""Trains the narrow ResNet-32 by the standard CIFAR-LT recipe, fits every head on it, and writes the rows beside the
published ones.

    python benchmarks/reproduction.py [NAME...] [--workdir=runs/reproduction] [--tokens=TOKENS] [--no-write]

NAME is a run of `RUNS`; the default is `cifar100_lt`. LT_JAX_DATA names the folder of the CIFAR archives. A run of 200
epochs takes two hours on two CPU cores, with jax 0.12 and nothing beside it; the same command resumes it. --tokens adds
tokens to the config, as `smoke`, for a rehearsal with --no-write. Writes benchmarks/results/reproduction_NAME.json.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys

import keep

from lt_jax import methods

# Config and its tokens, recipe of the network, and the published accuracies of its rows, in per cent.
RUNS = {
    "cifar100_lt": (
        "configs/cifar100_lt.py:100,standard",
        "cross_entropy",
        {
            "cross_entropy": (38.3, 39.1), "tau_norm": (41.0,), "crt": (40.3,), "lws": (40.2,),
            "logit_adjustment": (41.8,),
        },
    ),
    "cifar100_lt_balanced_softmax": ("configs/cifar100_lt.py:100,standard", "balanced_softmax", {}),
    "cifar100_lt_ldam_drw": ("configs/cifar100_lt.py:100,standard", "ldam_drw", {"ldam_drw": (42.0,)}),
    "cifar10_lt": (
        "configs/cifar10_lt.py:100,standard",
        "cross_entropy",
        {"cross_entropy": (70.4, 71.4), "tau_norm": (72.7,), "crt": (75.0,), "lws": (72.6,)},
    ),
}  # fmt: skip
GROUPS = ("overall", "many", "medium", "few", "balanced")


def main():
    options = parse()
    for name in options.names or ["cifar100_lt"]:
        config, recipe, published = RUNS[name]
        workdir = options.workdir / name
        words = command_of(config, recipe, options.tokens)
        subprocess.run([sys.executable, "-m", "lt_jax.main", *words, f"--workdir={workdir}"], check=True, cwd=keep.ROOT)
        rows = rows_of(workdir, published)
        show(name, rows)
        if not options.no_write:
            stage = json.loads((workdir / "stages" / "baseline.json").read_text())
            content = {"rows": rows, "trained_at": stage["commit"]}
            keep.write(content, f"reproduction_{name}.json", shlex.join(["python", "-m", "lt_jax.main", *words]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *RUNS], metavar="NAME")
    parser.add_argument("--workdir", type=pathlib.Path, default=keep.ROOT / "runs" / "reproduction")
    parser.add_argument("--tokens", default="")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def command_of(config, recipe, tokens):
    """Returns the words of the command line; every head is fitted that fits the network."""
    parts = [config, *filter(None, [tokens]), f"method={recipe}"]
    heads = ",".join(f"'{name}'" for name in methods.HEADS)
    return [f"--config={','.join(parts)}", f"--config.heads=({heads})"]


def rows_of(workdir, published):
    """Returns one row for each method of the run."""
    result = json.loads((workdir / "result.json").read_text())
    config = json.loads((workdir / "config.json").read_text())
    about = {
        "network": f"{result['protocol']['network']}, width {config['encoder']['width']}",
        "epochs": config["baseline"]["epochs"],
        "seed": result["seed"],
        "subset_digest": result["protocol"]["subset_digest"],
    }
    rows = []
    for name, method in result["methods"].items():
        measures = {group: method["test"][group] for group in GROUPS}
        row = {"method": name, "title": method["title"], **about, **measures, "published": published.get(name)}
        rows.append(row)
    return rows


def show(name, rows):
    print(f"\n{name}: {rows[0]['network']}, {rows[0]['epochs']:g} epochs, subset {rows[0]['subset_digest'][:12]}")
    print(f"{'':32}" + "".join(f"{group:>10}" for group in GROUPS) + "  published")
    for row in rows:
        cells = "".join(f"{keep.percent(row[group]):>10}" for group in GROUPS)
        print(f"{row['title'][:31]:32}{cells}  {' to '.join(map(str, row['published'] or ())) or '-'}")


if __name__ == "__main__":
    main()
