"""configs/folder.py on small folders of CIFAR-10 images: four classes of 400, 80, 20 and 5, 100 of each to test on.

    python benchmarks/folder.py --workdir=DIR [--scratch]

Writes PNG files and runs the command line on them, once for each of four choices of classes; --scratch also runs
configs/folder.py:cpu on the first choice. The archive is the one that LT_JAX_DATA names. The same command resumes.
Writes benchmarks/results/folder.json.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import keep
import numpy as np
from PIL import Image

from lt_jax import data
from lt_jax.run import config as config_lib

CHOICES = {"a": (0, 1, 3, 8), "b": (2, 4, 7, 9), "c": (5, 6, 0, 9), "d": (8, 3, 4, 6)}  # largest class first
TRAIN, TEST = (400, 80, 20, 5), 100  # images of each class


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--scratch", action="store_true", help="also trains networks on the first choice")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    write_images(options.workdir)
    rows = [run(options.workdir, name, "") for name in CHOICES]
    if options.scratch:
        rows.append(run(options.workdir, "a", "cpu"))
    for row in rows:
        print(row)
    if not options.no_write:
        words = "python benchmarks/folder.py --workdir=DIR" + " --scratch" * options.scratch
        keep.write({"train": TRAIN, "test": TEST, "rows": rows}, "folder.json", words)


def write_images(workdir):
    """Writes the images of every choice; the seed of the draw is its position."""
    if all((workdir / name).exists() for name in CHOICES):
        return
    config_lib._make_importable()
    from configs import common

    config = common.data("cifar10", largest=5000, imbalance_factor=1.0)
    dataset = data.load(config)
    for seed, (name, classes) in enumerate(CHOICES.items()):
        rng = np.random.default_rng(seed)
        for split, counts in (("train", TRAIN), ("test", (TEST,) * 4)):
            part = getattr(dataset, split)
            for c, count in zip(classes, counts, strict=True):
                folder = workdir / name / split / dataset.class_names[c]
                folder.mkdir(parents=True, exist_ok=True)
                for i in rng.permutation(np.flatnonzero(part.labels == c))[:count]:
                    Image.fromarray(part.images[i]).save(folder / f"{i:05d}.png")


def run(workdir, name, token):
    """Returns what one run gives: the classes, seconds, balanced accuracy of the selected method and of others."""
    folder = workdir / f"{token or 'run'}_{name}"
    clock = workdir / f"{folder.name}.json"
    if not clock.exists():
        words = [f"--config=configs/folder.py{':' * bool(token)}{token}", f"--config.data.dir={workdir / name}"]
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "lt_jax.main", *words, f"--workdir={folder}"], check=True, cwd=keep.ROOT)
        clock.write_text(json.dumps(time.monotonic() - began))
    result = json.loads((folder / "result.json").read_text())
    balanced = {method: about["test"]["balanced"] for method, about in result["methods"].items()}
    return {
        "config": f"folder.py{':' * bool(token)}{token}",
        "classes": sorted(result["dataset"]["class_names"], key=lambda c: -count_of(result, c)),
        "seconds": json.loads(clock.read_text()),
        "selected": result["methods"][result["selected"]]["title"],
        "balanced": balanced[result["selected"]],
        "worst_class": result["methods"][result["selected"]]["test"]["worst_class"],
        "methods": {result["methods"][method]["title"]: value for method, value in balanced.items()},
    }


def count_of(result, class_name):
    return result["dataset"]["counts"][result["dataset"]["class_names"].index(class_name)]


if __name__ == "__main__":
    main()
