"""Measures the time to detect changed images: the start of a run on many unchanged files, and reading all of them.

    python benchmarks/start.py [--files=100000] [--rounds=5]

Prints a table and writes benchmarks/results/start.json. The files are small PNGs in a temporary folder, 1,000 a class.
`list` loads the data set, which every start needs; `compare` adds the comparison of all files with the manifest of the
run; `read` is the first start, which reads every file. In a bucket the data are shards: the last row counts the
requests of a start on 64 shards that have local copies.
"""

import argparse
import collections
import io
import pathlib
import sys
import tempfile
import time

import fsspec
import keep
import numpy as np
from etils import epath
from etils.epath import backend
from PIL import Image

from lt_jax.core import files
from lt_jax.data import prepare
from lt_jax.run import config as config_lib
from lt_jax.run import inputs
from lt_jax.stages import experiment as experiments


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = local(pathlib.Path(folder), options)
        requests = bucket(pathlib.Path(folder))
    print(f"{options.files} files, median of {options.rounds} starts")
    for name, value in seconds.items():
        print(f"{name:10}{value:8.2f} s")
    print("requests of a start on 64 shards in a bucket: " + ", ".join(f"{k} {v}" for k, v in requests.items()))
    result = {"files": options.files, "rounds": options.rounds, "seconds": seconds, "bucket_requests": requests}
    keep.write(result, "start.json", f"python benchmarks/start.py --files={options.files} --rounds={options.rounds}")


def settings(name, folder):
    config_lib._make_importable()
    from configs import common

    config = common.base()
    config.data = common.data(name, largest=0, imbalance_factor=1.0)
    config.data.update(profile="all", dir=str(folder), workers=0)
    config.encoder = common.encoder("resnet18", width=64)
    return config


def png(seed):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def local(folder, options):
    contents = [png(seed) for seed in range(100)]
    for i in range(options.files):
        file = folder / "images" / f"class{i // 1000:03d}" / f"{i:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents[i % 100])
    config, workdir = settings("folder", folder / "images"), epath.Path(folder / "run")
    began = time.monotonic()
    inputs.write(workdir, inputs.read(experiments.Experiment(config, workdir)))
    first = time.monotonic() - began
    rounds = collections.defaultdict(list)
    for _ in range(options.rounds):
        began = time.monotonic()
        experiment = experiments.Experiment(config, workdir)
        assert len(experiment.dataset.train.labels) > 0
        listed = time.monotonic()
        current = inputs.read(experiment)
        assert current.changes == ""
        rounds["list"].append(listed - began)
        rounds["compare"].append(time.monotonic() - listed)
    return {**{name: float(np.median(x)) for name, x in rounds.items()}, "read": first}


class Counted(fsspec.get_filesystem_class("memory")):
    """A file system in memory that counts its requests."""

    requests = collections.Counter()

    def ls(self, path, *args, **kwargs):
        self.requests["listings"] += 1
        return super().ls(path, *args, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        self.requests[f"{'reads' if mode == 'rb' else 'writes'}"] += 1
        return super()._open(path, mode, **kwargs)

    def info(self, path, **kwargs):
        self.requests["questions"] += 1
        return super().info(path, **kwargs)


def bucket(folder):
    """Returns the number of requests of one start, after a first start that has copied the shards."""
    for i in range(128):
        file = folder / "few" / f"class{i % 2}" / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    store = Counted()
    type(backend.fsspec_backend)._get_filesystem = lambda self, name: store
    out = epath.Path(f"gs://bucket/{folder.name}")
    words = ["x", "--name=folder", f"--dir={folder / 'few'}", f"--out={out}", "--shard_size=2", "--workers=1"]
    assert prepare.main(words) == 0
    config, workdir = settings("prepared", out), epath.Path(folder / "bucket_run")
    inputs.write(workdir, inputs.read(experiments.Experiment(config, workdir)))
    Counted.requests.clear()
    assert inputs.read(experiments.Experiment(config, workdir)).changes == "" and files.read_json(workdir / "run.json")
    return {name: Counted.requests[name] for name in ("listings", "questions", "reads", "writes")}


if __name__ == "__main__":
    sys.exit(main())
