"""Compares methods over seeds by `python -m lt_jax.compare` and measures how long that takes.

    python benchmarks/comparison.py [NAME] [--workdir=runs/comparison] [--jobs=2] [--no-write]

NAME is a comparison of `COMPARISONS`; the default is `digits`. Runs stay in the work directory, and the same command
continues them; the minutes are then those of the last call alone, and the result says so. Writes
benchmarks/results/comparison_NAME.json, from which benchmarks/readme.py makes the table of docs/methods.md.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import keep

COMPARISONS = {
    "digits": ["--config=configs/digits_lt.py", "--methods=all", "--seeds=3"],
    "cifar10_lt": [
        "--config=configs/cifar10_lt.py:100,encoder=resnet_small,epochs=40",
        "--methods=cross_entropy,ldam_drw,balanced_softmax,logit_adjustment,crt,cosine_mean,ride,paco,bcl,bns_ipdpp",
        "--seeds=3",
        "--folds=0",
        "--config.data.largest=1000",
        "--config.retrain.k=100",
        "--config.retrain.epochs=20",
        "--config.retrain.redraw_every=5",
    ],
}
MEASURES = ("overall", "many", "medium", "few", "balanced")


def main():
    options = parse()
    words = [*COMPARISONS[options.name], f"--jobs={options.jobs}"]
    workdir = options.workdir / options.name
    is_continued = workdir.exists()
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "lt_jax.compare", *words, f"--workdir={workdir}"], check=True, cwd=keep.ROOT)
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} minutes" + (", continued" if is_continued else ""))
    if not options.no_write:
        compared = json.loads((workdir / "compare.json").read_text())
        content = {"minutes": minutes, "continued": is_continued, **result(compared)}
        keep.write(content, f"comparison_{options.name}.json", "python -m lt_jax.compare " + " ".join(words))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="digits", choices=COMPARISONS)
    parser.add_argument("--workdir", type=pathlib.Path, default=keep.ROOT / "runs" / "comparison")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def result(compared):
    """Returns what the table needs of compare.json."""
    rows = {
        name: {
            "title": method["title"],
            "test": {measure: method["summary"][measure] for measure in MEASURES},
            "validation": method["validation"],
            "difference": method.get("difference", {}).get("balanced"),
            "seconds": method["seconds"],
        }
        for name, method in compared["methods"].items()
        if method["status"] == "complete"
    }
    failed = {name: method["reason"] for name, method in compared["methods"].items() if name not in rows}
    about = {key: compared[key] for key in ("reference", "selected", "folds", "protocol")}
    return {**about, "seeds": len(compared["seeds"]), "methods": rows, "failed": failed}


if __name__ == "__main__":
    main()
