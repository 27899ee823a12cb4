"""Kills a tiny run of the demo at random points of every stage and compares its results with an uninterrupted run.

    python benchmarks/kill.py [--points=30] [--workdir=runs/benchmark_kill] [--seconds=450]

A point is a stage, a signal and a moment: when the checkpoint of a certain step exists, while one is being written, or
a random time after the stage began. Then the same command runs again. If it succeeds, its result, subsets and losses
must equal those of the uninterrupted run to the last digit. Finished points are saved: the same command continues with
the next ones, and stops after --seconds. The table is written to benchmarks/results/kill.json after the last point.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keep
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAINED = ("pretrain", "probe", "baseline", "retrain")
STAGES = (*TRAINED, "evaluate", "report")
MOMENTS = ("saved", "inside a save", "any time")
WORDS = (
    "--config=configs/digits_lt.py:smoke",
    "--config.encoder.width=4",
    "--config.pretrain.projector=(16,8)",
    "--config.pretrain.epochs=10",
    "--config.probe.per_class=20",
    "--config.probe.epochs=8",
    "--config.baseline.epochs=8",
    "--config.retrain.epochs=10",
    "--config.retrain.redraw_every=3",
    "--config.checkpoint.every_steps=1",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "benchmark_kill")
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    options.workdir.mkdir(parents=True, exist_ok=True)
    unbroken = options.workdir / "unbroken"
    assert finish(start(unbroken))[0] == 0
    done = options.workdir / "points.json"
    rows = json.loads(done.read_text()) if done.exists() else []
    for number in range(len(rows), options.points):
        if time.monotonic() > end:
            break
        rows.append(one_point(options.workdir / "run", unbroken, plan(number)))
        done.write_text(json.dumps(rows))
        print(line(rows[-1]), flush=True)
    show(rows)
    if len(rows) >= options.points:
        table = {"points": len(rows), "identical": sum(row["identical"] for row in rows), "rows": rows}
        keep.write(table, "kill.json", "python benchmarks/kill.py")


def plan(number):
    """Returns point `number`: stages and moments in turn, step and delay at random; one signal of three is SIGTERM."""
    generator = np.random.default_rng(number)
    stage = STAGES[number % len(STAGES)]
    return {
        "stage": stage,
        "moment": MOMENTS[(number // len(STAGES)) % len(MOMENTS)] if stage in TRAINED else "any time",
        "signal": "SIGTERM" if generator.random() < 1 / 3 else "SIGKILL",
        "after_step": int(generator.integers(1, 20)),
        "delay": float(generator.random() * (6.0 if stage in TRAINED else 1.5)),
    }


def one_point(workdir, unbroken, point):
    """Starts a run, kills it and starts it again; the stages before the point's stage are copied from `unbroken`."""
    prepare(workdir, unbroken, point["stage"])
    process = start(workdir)
    hit = kill_at(process, workdir, point)
    first, _ = finish(process)
    second, log = finish(start(workdir))
    resumed = [text.partition("] ")[2] for text in log.splitlines() if "resuming from step" in text]
    ok = second == 0 and differences(workdir, unbroken) == []
    return {**point, "hit": hit, "status": first, "resumed": resumed, "second_status": second, "identical": ok}


def prepare(workdir, unbroken, stage):
    """Copies the uninterrupted run as it was before `stage`."""
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(unbroken, workdir)
    for later in STAGES[STAGES.index(stage) :]:
        (workdir / "stages" / f"{later}.json").unlink()
        shutil.rmtree(workdir / "checkpoints" / later, ignore_errors=True)
        if later == "retrain":
            shutil.rmtree(workdir / "subsets")
        if later == "evaluate":
            (workdir / "result.json").unlink()


def start(workdir, words=WORDS):
    command = [sys.executable, "-m", "lt_jax.main", *words, f"--workdir={workdir}"]
    # Compile time dominates here: the programs run for milliseconds.
    flags = os.environ.get("XLA_FLAGS", "") or "--xla_backend_optimization_level=0"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XLA_FLAGS": flags}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def finish(process):
    log = process.communicate(timeout=400)[1]
    return process.returncode, log


def kill_at(process, workdir, point):
    """Sends the signal at the point's moment; returns False if the run ended before it."""
    folder = workdir / "checkpoints" / point["stage"]
    began = None
    while process.poll() is None:
        if began is None and (workdir / "stages" / f"{point['stage']}.json").exists():
            began = time.monotonic()
        if is_there(folder, began, point):
            process.send_signal(getattr(signal, point["signal"]))
            return True
        time.sleep(0.0005 if point["moment"] == "inside a save" else 0.005)
    return False


def is_there(folder, began, point):
    if point["moment"] == "any time":
        return began is not None and time.monotonic() - began > point["delay"]
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    if point["moment"] == "saved":
        return any(name.isdigit() and int(name) >= point["after_step"] for name in names)
    half = [name.partition(".")[0] for name in names if ".orbax-checkpoint-tmp" in name]
    return any(name.isdigit() and int(name) >= point["after_step"] for name in half)


def differences(workdir, unbroken):
    """Returns the names of the files whose numbers differ between the two runs."""
    different = [] if without_time(workdir) == without_time(unbroken) else ["result.json"]
    different += [] if losses(workdir) == losses(unbroken) else ["metrics.jsonl"]
    for path in sorted((unbroken / "subsets").iterdir()):
        ours = workdir / "subsets" / path.name
        if not ours.exists() or (np.load(ours)["indices"] != np.load(path)["indices"]).any():
            different.append(f"subsets/{path.name}")
    return different


def without_time(workdir):
    """Returns the result without measured times."""
    result = json.loads((workdir / "result.json").read_text())
    del result["timing"]
    for method in result["methods"].values():
        del method["seconds"]
    return result


def losses(workdir):
    """Returns (stage, step) -> loss of all stages, copied ones included."""
    lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(row["stage"], row["step"]): row["loss"] for row in lines}


def line(row):
    verdict = "identical" if row["identical"] else "DIFFERS"
    resumed = "; ".join(row["resumed"]) or "nothing to resume"
    return f"{row['stage']:9} {row['moment']:14} {row['signal']:8} status {row['status']:4}  {resumed:48} {verdict}"


def show(rows):
    print()
    for row in rows:
        print(line(row))
    print(f"{sum(row['identical'] for row in rows)} of {len(rows)} resumed and ended with identical numbers")


if __name__ == "__main__":
    main()
