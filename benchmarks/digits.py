"""The demo over many seeds, against cross-entropy trained as long: mean, spread, and the paired difference.

    python benchmarks/digits.py [--seeds=10] [--config=configs/digits_lt.py] [--workdir=runs/benchmark_digits]

A seed is one run of the command line in its own work directory; the same command again continues. The result goes to
benchmarks/results/digits.json with the commit and the command, and is printed as a table.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parent.parent
GROUPS = ("overall", "many", "medium", "few")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--config", default="configs/digits_lt.py")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "benchmark_digits")
    options = parser.parse_args()
    results = [run(options, seed) for seed in range(options.seeds)]
    rows = {
        "cross-entropy": [r["baseline"]["cross_entropy"] for r in results],
        "linear probe": [r["probe"]["plain"] for r in results],
        "BNS + IP-DPP": [r["test"] for r in results],
    }
    table = {name: {group: summary([r[group] for r in found]) for group in GROUPS} for name, found in rows.items()}
    gain = {
        g: interval([a[g] - b[g] for a, b in zip(rows["BNS + IP-DPP"], rows["cross-entropy"], strict=True)])
        for g in GROUPS
    }
    show(table, gain, options.seeds)
    write(
        {"seeds": options.seeds, "config": options.config, "accuracy": table, "gain": gain},
        "digits.json",
        "python benchmarks/digits.py",
    )


def run(options, seed):
    workdir = options.workdir / f"seed{seed}"
    words = ["-m", "lt_jax.main", f"--config={options.config}", f"--workdir={workdir}", f"--config.seed={seed}"]
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT)
    return json.loads((workdir / "result.json").read_text())


def summary(values):
    """Mean and standard deviation over seeds."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def interval(differences):
    """Mean paired difference with its 95 % interval (Student)."""
    mean, n = float(np.mean(differences)), len(differences)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n)) if n > 1 else None
    return {"mean": mean, "half_width_95": half}


def show(table, gain, seeds):
    print(f"\ntest accuracy in per cent, mean ± standard deviation over {seeds} seeds")
    print(f"{'':16}" + "".join(f"{group:>14}" for group in GROUPS))
    for name, cells in table.items():
        print(f"{name:16}" + "".join(f"{cell(cells[group], 'std'):>14}" for group in GROUPS))
    print(f"{'gain, 95 %':16}" + "".join(f"{cell(gain[group], 'half_width_95'):>14}" for group in GROUPS))


def cell(value, spread):
    text = f"{100 * value['mean']:.1f}"
    return text if value[spread] is None else f"{text} ± {100 * value[spread]:.1f}"


def percent(value):
    return "n/a" if value is None else f"{100 * value:.1f}"


def write(result, name, command):
    """benchmarks/results/NAME: the result with the command, commit and device that it came from."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    path = ROOT / "benchmarks" / "results" / name
    path.parent.mkdir(exist_ok=True)
    about = {
        "command": command,
        "commit": said.stdout.strip() or None,
        "device": platform.machine() + " CPU",
    }
    path.write_text(json.dumps({**about, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
