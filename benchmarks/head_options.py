"""Cross-validates options of heads on training features; the test images are not looked at.

    python benchmarks/head_options.py [HEAD...] [--draws=3]

The features are random ReLU features of the long-tailed digits, a new draw for each seed. Prints the balanced accuracy
of each option, pooled over five stratified folds and averaged over the draws, and marks the option that
`lt_jax.heads.tuning.choose` takes in at least one draw. It checks the defaults of these heads. Writes
benchmarks/results/head_options.json.
"""

import argparse
import collections
import itertools
import json

import jax
import keep
import numpy as np

from configs import digits_lt
from lt_jax import data, losses, methods
from lt_jax.heads import tuning

WIDTH = 512  # features of an image
GRIDS = {
    "maxnorm": {"radius": (2.0, 5.0, 10.0, 20.0)},
    "adapter": {"learning_rate": (0.0001, 0.0003, 0.001), "weight_decay": (0.1, 1.0), "steps": (500, 1000)},
    "cosine_mean": {"scale": (8.0, 16.0, 32.0)},
}


def main():
    options = parse()
    dataset = data.load(digits_lt.get_config("").data)
    labels, classes = dataset.train.labels, losses.Classes.of(dataset.counts)
    report = {}
    for name in options.heads or GRIDS:
        grid = [dict(zip(GRIDS[name], values, strict=True)) for values in itertools.product(*GRIDS[name].values())]
        scores, chosen = [], collections.Counter()
        for seed in range(options.draws):
            features = random_features(dataset.train.images, seed)
            key = jax.random.key(seed)
            best, each = tuning.choose(methods.HEADS[name], key, features, labels, classes, grid)
            scores.append([score["balanced"] for score in each])
            chosen[json.dumps(best)] += 1
        means = np.mean(scores, axis=0)
        report[name] = [
            {"options": x, "balanced": float(y), "chosen": chosen[json.dumps(x)]}
            for x, y in zip(grid, means, strict=True)
        ]
        show(name, report[name])
    if not options.no_write:
        content = {"draws": options.draws, "heads": report}
        words = ["python benchmarks/head_options.py", *options.heads, f"--draws={options.draws}"]
        keep.write(content, "head_options.json", " ".join(words))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", nargs="*", choices=[[], *GRIDS], metavar="HEAD")
    parser.add_argument("--draws", type=int, default=3, help="of features")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def random_features(images, seed):
    """Returns (n, WIDTH) rectified random projections of the pixels."""
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255
    rng = np.random.default_rng(seed)
    projection = rng.normal(size=(pixels.shape[1], WIDTH)) / np.sqrt(pixels.shape[1])
    return np.maximum((pixels - pixels.mean()) @ projection.astype(np.float32), 0)


def show(name, rows):
    print(f"\n{name}: balanced accuracy on held-out folds")
    for row in rows:
        words = ", ".join(f"{key}={value:g}" for key, value in row["options"].items())
        print(f"  {words:50} {100 * row['balanced']:.1f}" + ("  chosen" * (row["chosen"] > 0)))


if __name__ == "__main__":
    main()
