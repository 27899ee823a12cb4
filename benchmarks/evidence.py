"""One thing changed at a time, over many seeds, each variant paired with the first one of its table or factor.

    python benchmarks/evidence.py [TABLE...] [--seeds=N] [--config=configs/digits_lt.py] [--set=KEY=VALUE...]
                                  [--workdir=runs/evidence]

Without a name: the tables for which one pretraining a seed is enough. `roads` (how the subset is drawn), `scale` (of
the kernel), `redraw` (R), `k`, `trainable`, `yardsticks`. The others pretrain once more for each variant: `m`, `n`,
`negatives`, `loss` (by the plain linear probe), `start` (the same runs after retraining), `imbalance`. A variant that
stands in several tables runs once. --set changes a knob of every run, such as retrain.epochs. Runs are kept in the work
directory, and the same command again continues; other settings want another one. Each table goes to
benchmarks/results/evidence_TABLE.json, whatever it shows; with another config, or --set, its name stands before
that of the table.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import sys
import time
from typing import NamedTuple

import digits

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Run(NamedTuple):
    """One run of the command line, and the measures of its result.json that are looked at."""

    stages: tuple[str, ...]
    flags: tuple[str, ...]  # what differs from the config
    path: str = "test"


def retrained(*flags):
    return Run(("retrain", "evaluate"), flags)


def pretrained(*flags):
    return Run(("pretrain", "retrain", "evaluate"), flags)


def probed(*flags):
    return Run(("pretrain", "probe", "retrain", "evaluate"), flags, "probe.plain")


def trained(path, *flags):
    return Run(("baseline", "evaluate"), flags, path)


METHODS = {name: retrained(*flags) for name, flags in {
    "uniform": ("retrain.method=uniform",), "rank_one": (), "eigen": ("retrain.method=eigen",),
    "paper": ("retrain.method=paper",),
}.items()}  # fmt: skip
LOSSES = {
    "paper": probed(),
    **{name: probed(f"pretrain.loss={name}") for name in ("official", "simclr", "supcon")},
    "random encoder": probed("pretrain.steps=1", "pretrain.base_learning_rate=0.0"),
}
TABLES = {
    "roads": METHODS,
    "scale": {"1/N": retrained(), "1/N²": retrained("retrain.scale_power=2")},
    "redraw": {
        "never": retrained("retrain.redraw_every=1000000"),
        **{f"R = {r}": retrained(*([f"retrain.redraw_every={r}"] if r != 10 else [])) for r in (1, 10, 50)},
    },
    "k": {f"k = {k}": retrained(*([f"retrain.k={k}"] if k != 10 else [])) for k in (10, 4, 6, 20, 40)},
    "trainable": {"whole network": retrained(), "head alone": retrained("retrain.trainable=head")},
    "yardsticks": {
        "cross-entropy": trained("test"),
        "balanced softmax": trained("test", "baseline.loss=balanced_softmax"),
        "class-aware sampling": trained("test", "baseline.sampling=class_aware"),
        "logit adjustment": trained("yardsticks.logit_adjustment"),
        "cRT": trained("yardsticks.crt"),
        "nearest class mean": trained("yardsticks.nearest_class_mean"),
        "BNS, uniform subset": METHODS["uniform"],
        "BNS + IP-DPP": METHODS["rank_one"],
    },
    "m": {f"m = {m}": pretrained(*([f"pretrain.m={m}"] if m != 1 else [])) for m in (1, 0, 2, 4)},
    "n": {f"n = {n}": pretrained(*([f"pretrain.n={n}"] if n != 16 else [])) for n in (16, 4, 64)},
    "negatives": {"sampled": pretrained(), "expected": pretrained("pretrain.negatives=expected")},
    "loss": LOSSES,
    "start": {name: run._replace(path="test") for name, run in LOSSES.items()},
    "imbalance": {
        f"{name}, IF {factor}": run(f"data.imbalance_factor={factor}.0")
        for factor in (10, 50, 100)
        for name, run in (("cross-entropy", lambda flag: trained("test", flag)), ("BNS + IP-DPP", pretrained))
    },
}
SEEDS = {"roads": 10}  # of the others 5
TOGETHER = {"imbalance": 2}  # so many rows are compared with the first of them; in the other tables all
PRETRAINING = Run(("pretrain",), ())
FROM_ONE_PRETRAINING = ("roads", "scale", "redraw", "k", "trainable", "yardsticks")


def main():
    options = parse()
    began = time.monotonic()
    seeds = {name: range(options.seeds or SEEDS.get(name, 5)) for name in options.tables}
    wanted = {(run, seed): None for name in options.tables for run in TABLES[name].values() for seed in seeds[name]}
    bases = {(PRETRAINING, seed): None for run, seed in wanted if run.stages[0] == "retrain"}
    for several in (bases, wanted):
        finish({folder(options, run, seed): told(options, run, seed) for run, seed in several}, options)
    for name in options.tables:
        found = {row: [result(options, run, seed) for seed in seeds[name]] for row, run in TABLES[name].items()}
        commits = {commit(options, run, seed) for run in TABLES[name].values() for seed in seeds[name]}
        report(name, found, ", ".join(sorted(commits)), options)
    print(
        f"\n{len(bases)} pretrainings, {len(wanted)} runs; {(time.monotonic() - began) / 60:.0f} minutes in this call"
    )


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], metavar="TABLE")
    parser.add_argument("--seeds", type=int, help="of every table; without it 10 of roads, 5 of the others")
    parser.add_argument("--config", default="configs/digits_lt.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the config, in every run")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    options.tables = options.tables or FROM_ONE_PRETRAINING
    options.stem = pathlib.Path(options.config.partition(":")[0]).stem
    return options


def folder(options, run, seed):
    """Where a run lives: by what is trained and changed, not by the table that asks for it."""
    changed = ",".join(run.flags).replace("=", "_") or "default"
    return options.workdir / options.stem / "-".join(run.stages) / changed / f"seed{seed}"


def told(options, run, seed):
    """The words of the command line."""
    said = [f"--config={options.config}", f"--config.seed={seed}", f"--config.stages={run.stages}"]
    said += [f"--config.{flag}" for flag in (*options.set, *run.flags)]
    if run.stages[0] == "retrain":
        said.append(f"--config.init_from={folder(options, PRETRAINING, seed)}")
    return said


def result(options, run, seed):
    found = json.loads((folder(options, run, seed) / "result.json").read_text())
    for part in run.path.split("."):
        found = found[part]
    return found


def commit(options, run, seed):
    """That the run was made at, which may be before this call."""
    return json.loads((folder(options, run, seed) / "run.json").read_text())["commit"][:7]


def finish(jobs, options):
    """Runs what is not done, `jobs` at a time: folder -> words of the command line."""
    left = {at: said for at, said in jobs.items() if not (at / "done").exists()}
    # One thread each: networks this small gain less from a second core than a second run does.
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=8) as pool:
        for number, (at, status) in enumerate(pool.imap_unordered(one, left.items()), 1):
            if status:
                sys.exit(f"status {status}: see {at}/log.txt")
            print(f"{number} of {len(left)}: {at.relative_to(options.workdir)}", flush=True)
        pool.close()
        pool.join()


def one(job):
    from lt_jax import main

    workdir, said = job
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "log.txt", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        status = main.main(["lt_jax", f"--workdir={workdir}", *said])
    if status == 0:
        (workdir / "done").touch()
    return workdir, status


def report(name, found, commits, options):
    rows, table, gains = list(found), {}, {}
    for number, (row, results) in enumerate(found.items()):
        table[row] = {g: digits.summary([r[g] for r in results]) for g in digits.GROUPS}
        behind = number % TOGETHER.get(name, len(rows))
        if behind:
            pairs = list(zip(results, found[rows[number - behind]], strict=True))
            gains[row] = {g: digits.interval([r[g] - f[g] for r, f in pairs]) for g in digits.GROUPS}
    count = len(next(iter(found.values())))
    show(name, table, gains, count)
    own = options.config == "configs/digits_lt.py" and not options.set
    words = [f"--seeds={count}", *([] if own else [f"--config={options.config}"]), *(f"--set={x}" for x in options.set)]
    command = f"python benchmarks/evidence.py {name} " + " ".join(words)
    kept = {"commit": commits, "seeds": count, "config": options.config}
    kept |= {"accuracy": table, "gain over the first": gains}
    if not options.no_write:
        prefix = "" if own else f"{options.stem}_"
        digits.write(kept, f"evidence_{prefix}{name}.json", command)


def show(name, table, gains, seeds):
    print(f"\n{name}: test accuracy in per cent, mean ± standard deviation over {seeds} seeds; gain over the first")
    width = max(map(len, table)) + 2
    print(" " * width + "".join(f"{group:>14}" for group in digits.GROUPS))
    for row, cells in table.items():
        print(f"{row:{width}}" + "".join(f"{digits.cell(cells[g], 'std'):>14}" for g in digits.GROUPS))
        if row in gains:
            cells = [digits.cell(gains[row][g], "half_width_95") for g in digits.GROUPS]
            print(f"{'  gain, 95 %':{width}}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
