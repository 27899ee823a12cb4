"""Measures the feature pass of a frozen encoder beside PyTorch with the same network, in one run: images a second.

    python benchmarks/features.py [--python=PY...] --torch-python=PY [--batch=64] [--repeats=15]

Rows: EfficientNet-Lite0 on batches of images of 160 and of 224 pixels. Columns: lt_jax, for each Python that --python
names, as `lt_jax.train.extract` runs it, and PyTorch eager. Each column is a process of its own; each round runs all
rows once in a random order. Writes benchmarks/results/features.json.
"""

import argparse
import json
import os
import pathlib
import sys

import convolution
import keep
import numpy as np
import worker

HERE = pathlib.Path(__file__).resolve().parent
SIDES = (160, 224)
PYTORCH = "PyTorch eager"


def main():
    options = parse()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    columns = {}
    for python in options.python or [sys.executable]:
        columns[f"jax {convolution.version_of(python)}"] = [python, __file__]
    columns[PYTORCH] = [options.torch_python, HERE / "features_torch.py"]
    workers = {
        name: worker.Worker([*command, "--serve", str(options.batch)], environment) for name, command in columns.items()
    }
    rows = {name: one.ready() for name, one in workers.items()}
    times = convolution.measured(workers, rows, options.repeats)
    for one in workers.values():
        one.close()
    cells = {name: cells_of(column, times[PYTORCH], options.batch) for name, column in times.items()}
    for name, column in cells.items():
        text = ", ".join(f"{row}: {x['images_per_s']:.0f} images/s, {x['of_pytorch']:.2f}" for row, x in column.items())
        print(f"{name:16} {text}")
    if not options.no_write:
        words = convolution.words_of(sys.argv[1:])
        content = {"batch": options.batch, "repeats": options.repeats, "columns": cells}
        keep.write(content, "features.json", f"python benchmarks/features.py {words}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="a Python that has lt_jax; may be given several times")
    parser.add_argument("--torch-python", required=True, help="a Python that has PyTorch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def cells_of(column, reference, batch):
    """Returns images a second and the share of PyTorch's, medians over the rounds, of each row."""
    cells = {}
    for row, seconds in column.items():
        by_clock, torch_by_clock = (np.array(x)[:, 0] for x in (seconds, reference[row]))
        cells[row] = {
            "images_per_s": batch / float(np.median(by_clock)),
            "of_pytorch": float(np.median(torch_by_clock / by_clock)),
        }
    return cells


def serve(batch):
    """Serves the rows of a column of JAX."""
    import jax

    from configs import common
    from lt_jax import models
    from lt_jax.core import allocator
    from lt_jax.train import extract

    allocator.keep_freed_memory()
    network = models.classifier(common.encoder("efficientnet_lite0", 64), 10, "float32")
    extractor = extract.Extractor(network, batch)
    rows = {}
    for side in SIDES:
        variables = models.initialise(network, jax.random.key(0), (side, side, 3))
        images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        rows[f"{side} pixels"] = lambda variables=variables, images=images: extractor(variables, images)
    worker.serve(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
