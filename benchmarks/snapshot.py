"""Writes the numbers that runs compute, to check that a refactoring does not change them.

    python benchmarks/snapshot.py --out=FILE [--only=NAME,...]

Runs short forms of the configs on 1 and on 4 CPU devices, and one run that is killed and resumed. For each run, FILE
holds the losses of metrics.jsonl, the positions of every subset, and the test measures. Compare two files with `cmp`.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNS = {
    "digits": ("--config=configs/digits_lt.py:smoke",),
    "digits_lt_eigen": ("--config=configs/digits_lt_eigen.py:smoke",),
    "dlsa_digits": ("--config=configs/dlsa_digits.py:smoke",),
    "cifar10_lt": ("--config=configs/cifar10_lt.py:smoke,encoder=resnet_small",),
    "folder": ("--config=configs/folder.py:smoke", "--config.encoder.name=resnet18"),
}
KILLED_AT = 8  # the run is killed when the checkpoint of this pretraining step exists


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", default=",".join(RUNS))
    options = parser.parse_args()
    runs = {}
    for name in options.only.split(","):
        for devices in (1, 4):
            with tempfile.TemporaryDirectory() as folder:
                start(RUNS[name], folder, devices).wait()
                runs[f"{name}, {devices} devices"] = read(pathlib.Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        runs["digits, killed and resumed"] = killed(pathlib.Path(folder))
    options.out.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")


def start(words, folder, devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "lt_jax.main", *words, f"--workdir={folder}"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def killed(folder):
    words = (*RUNS["digits"], "--config.pretrain.epochs=6", "--config.checkpoint.every_steps=4")
    process = start(words, folder, 1)
    while not (folder / "checkpoints/pretrain" / str(KILLED_AT)).exists():
        assert process.poll() is None, "the run has ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(words, folder, 1).wait() == 0
    return read(folder)


def read(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    subsets = sorted((folder / "subsets").glob("*.npz")) if (folder / "subsets").exists() else []
    return {
        "losses": [[line["stage"], line["step"], line["loss"]] for line in lines],
        "subsets": {path.stem: np.load(path)["indices"].tolist() for path in subsets},
        "test": result["test"],
    }


if __name__ == "__main__":
    sys.exit(main())
