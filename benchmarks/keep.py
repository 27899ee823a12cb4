"""Functions that the benchmarks share: statistics over seeds, numbers as text, result files."""

import json
import os
import pathlib
import platform
import subprocess

import numpy as np

from lt_jax import statistics

ROOT = pathlib.Path(__file__).resolve().parent.parent
GROUPS = ("overall", "many", "medium", "few")


def summary(values):
    """Returns the mean and the standard deviation over seeds; None for both where a value is None, as of no class."""
    if None in values:
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def interval(values, reference):
    """Returns the mean paired difference with its 95 % interval (Student's t); None for a single pair.

    Both are None where a value is.
    """
    if None in (*values, *reference):
        return {"mean": None, "half_width_95": None}
    gain = statistics.paired(values, reference)
    if gain is None:
        return {"mean": float(np.mean(np.subtract(values, reference))), "half_width_95": None}
    return {"mean": gain["mean"], "half_width_95": gain["half_width"]}


def cell(value, spread):
    if value["mean"] is None:
        return "n/a"
    text = f"{100 * value['mean']:.1f}"
    return text if value[spread] is None else f"{text} ± {100 * value[spread]:.1f}"


def percent(value):
    return "n/a" if value is None else f"{100 * value:.1f}"


def output(command):
    """Returns what a command prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def commit():
    """Returns the commit that is checked out, marked where files differ from it; results of other benchmarks may.

    Where files travel without git, it is what LT_JAX_COMMIT says; else None.
    """
    if named := os.environ.get("LT_JAX_COMMIT"):
        return named
    described = _git("describe", "--always")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return described + ("-dirty" if changed else "") or None


def _git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def write(result, name, command):
    """Writes a result with its command, commit and device to benchmarks/results/NAME; NAME may be a whole path."""
    path = ROOT / "benchmarks" / "results" / name
    path.parent.mkdir(exist_ok=True)
    about = {
        "command": command,
        "commit": commit(),
        "device": platform.machine() + " CPU",
    }
    path.write_text(json.dumps({**about, **result}, indent=1) + "\n")
