"""One thing changed at a time, over many seeds, each variant paired with the first one of its table or factor.

    python benchmarks/evidence.py [TABLE...] [--seeds=N] [--config=configs/digits_lt.py] [--set=KEY=VALUE...]
                                  [--workdir=runs/evidence]

Tables, all of them without a name: `demo` (against cross-entropy and what can be made of that network), `baselines`
(other networks trained in one stage), `roads` (how the subset is drawn), `scale` (of the kernel), `redraw` (R), `k`,
`trainable`, for which one pretraining a seed is enough; and with a pretraining for each variant `m`, `n`, `negatives`,
`loss` (by the plain linear probe), `start` (the same runs after retraining), `imbalance`. What stands in several tables
runs once. --set changes a knob of every run, such as retrain.epochs. Runs are kept in the work directory, and the same
command again continues; other settings want another one. Each table goes to benchmarks/results/evidence_TABLE.json,
whatever it shows; with another config, or --set, its name stands before that of the table. --factors=10,100,200 are
those of `imbalance`.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import operator
import os
import pathlib
import sys
import threading
import time
from concurrent import futures
from typing import NamedTuple

import keep

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Run(NamedTuple):
    """One run of the command line, and the measures of its result.json that are looked at."""

    stages: tuple[str, ...]
    flags: tuple[str, ...]  # that the row is about; what the config says already is left out when it runs
    path: str = "test"


def retrained(*flags):
    return Run(("retrain", "evaluate"), flags)


def probed(path, *flags):
    return Run(("probe", "retrain", "evaluate"), flags, path)


def trained(path, *flags):
    return Run(("baseline", "evaluate"), flags, path)


def pretraining(run):
    """The run whose encoder `run` starts from, None for one that trains its own."""
    if run.stages[0] in ("pretrain", "baseline"):
        return None
    return Run(("pretrain",), tuple(flag for flag in run.flags if flag.startswith(("pretrain.", "data."))))


DEFAULT = probed("test")  # the config as it stands, a row of most tables
METHODS = {
    "uniform": retrained("retrain.method=uniform"),
    "rank_one": retrained("retrain.method=rank_one"),
    "eigen": retrained("retrain.method=eigen"),
    "paper": retrained("retrain.method=paper"),
}
LOSSES = {
    **{name: (f"pretrain.loss={name}",) for name in ("paper", "official", "simclr", "supcon")},
    "random encoder": ("pretrain.steps=1", "pretrain.base_learning_rate=0.0"),
}


def imbalance(factors):
    return {
        f"{name}, IF {factor}": run("test", f"data.imbalance_factor={factor}.0")
        for factor in factors
        for name, run in (("cross-entropy", trained), ("BNS + IP-DPP", probed))
    }


FACTORS = (10, 25, 100)
TABLES = {
    "demo": {
        "cross-entropy": trained("test"),
        "logit adjustment": trained("yardsticks.logit_adjustment"),
        "cRT": trained("yardsticks.crt"),
        "nearest class mean": trained("yardsticks.nearest_class_mean"),
        "BNS, linear probe": probed("probe.plain"),
        "BNS, uniform subset": METHODS["uniform"],
        "BNS + IP-DPP": DEFAULT,
    },
    "roads": METHODS,
    "scale": {name: retrained(f"retrain.scale_power={n}") for name, n in (("1/N", 1), ("1/N²", 2))},
    "redraw": {
        "never": retrained("retrain.redraw_every=1000000"),
        **{f"R = {r}": retrained(f"retrain.redraw_every={r}") for r in (1, 10, 50)},
    },
    "k": {f"k = {k}": retrained(f"retrain.k={k}") for k in (10, 4, 6, 20, 40)},
    "trainable": {
        n: retrained(f"retrain.trainable={x}") for n, x in (("whole network", "all"), ("head alone", "head"))
    },
    "baselines": {
        "cross-entropy": trained("test"),
        "balanced softmax": trained("test", "baseline.loss=balanced_softmax"),
        "class-aware sampling": trained("test", "baseline.sampling=class_aware"),
    },
    "m": {f"m = {m}": retrained(f"pretrain.m={m}") for m in (1, 0, 2, 4)},
    "n": {f"n = {n}": retrained(f"pretrain.n={n}") for n in (16, 4, 64)},
    "negatives": {name: retrained(f"pretrain.negatives={name}") for name in ("sampled", "expected")},
    "loss": {name: probed("probe.plain", *flags) for name, flags in LOSSES.items()},
    "start": {name: probed("test", *flags) for name, flags in LOSSES.items()},
    "imbalance": imbalance(FACTORS),
}
SEEDS = {"demo": 10, "roads": 10}  # of the others 3
TOGETHER = {"imbalance": 2}  # so many rows are compared with the first of them; in the other tables all


def main():
    options = parse()
    began, tables = time.monotonic(), tables_of(options)
    seeds = {name: range(options.seeds or SEEDS.get(name, 3)) for name in options.tables}
    wanted = [(run, seed) for name in options.tables for run in tables[name].values() for seed in seeds[name]]
    wanted.sort(key=lambda pair: pair[1])  # seed by seed: at once two programs are compiled, not one of them twice
    encoders = [(before, seed) for run, seed in wanted if (before := pretraining(run))]
    count = sum(
        finish({folder(options, run, seed): told(options, run, seed) for run, seed in several}, options)
        for several in (encoders, wanted)
    )
    for name in options.tables:
        found = {row: [result(options, run, seed) for seed in seeds[name]] for row, run in tables[name].items()}
        commits = {commit(options, run, seed) for run in tables[name].values() for seed in seeds[name]}
        report(name, found, ", ".join(sorted(commits)), options)
    print(f"\n{count} runs, those of pretraining among them, in {(time.monotonic() - began) / 60:.1f} minutes")


def tables_of(options):
    """TABLES, of runs whose flags all change the config."""
    from lt_jax.run import command

    config = command.parse(["lt_jax", f"--config={options.config}", *(f"--config.{flag}" for flag in options.set)])[0]
    tables = {**TABLES, "imbalance": imbalance(options.factors)}
    return {name: {row: changing(config, run) for row, run in table.items()} for name, table in tables.items()}


def changing(config, run):
    """The run with only those flags that change the config; DEFAULT where none is left of a retraining."""
    flags = tuple(flag for flag in run.flags if not holds(config, *flag.split("=")))
    return DEFAULT if run == retrained(*run.flags) and not flags else run._replace(flags=flags)


def holds(config, key, value):
    return str(functools.reduce(operator.getitem, key.split("."), config)) == value


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], metavar="TABLE")
    parser.add_argument("--seeds", type=int, help="of every table; without it 10 of demo and roads, 3 of the others")
    parser.add_argument("--config", default="configs/digits_lt.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the config, in every run")
    parser.add_argument("--factors", type=lambda text: tuple(map(int, text.split(","))), default=FACTORS)
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    options.tables = options.tables or list(TABLES)
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
    if before := pretraining(run):
        said.append(f"--config.init_from={folder(options, before, seed)}")
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
    """Runs what is not done, `jobs` at a time: folder -> words of the command line. How many that were."""
    left = {at: said for at, said in jobs.items() if not (at / "done").exists()}
    # One thread each: networks this small gain less from a second core than a second run does.
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(options.jobs, spawn, initializer=end_with_parent) as pool:
        running = [pool.submit(one, at, said) for at, said in left.items()]
        for number, done in enumerate(futures.as_completed(running), 1):
            at, status = done.result()
            if status:
                pool.shutdown(wait=False, cancel_futures=True)
                sys.exit(f"status {status}: see {at}/log.txt")
            print(f"{number} of {len(left)}: {at.relative_to(options.workdir)}", flush=True)
    return len(left)


def end_with_parent():
    """A worker obeys SIGTERM by saving, and would then wait for work from a benchmark that is gone."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def one(workdir, said):
    from lt_jax import main

    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "log.txt", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        status = main.main(["lt_jax", f"--workdir={workdir}", *said])
    if status == 0:
        (workdir / "done").touch()
    return workdir, status


def report(name, found, commits, options):
    rows, table, gains = list(found), {}, {}
    for number, (row, results) in enumerate(found.items()):
        table[row] = {g: keep.summary([r[g] for r in results]) for g in keep.GROUPS}
        behind = number % TOGETHER.get(name, len(rows))
        if behind:
            pairs = list(zip(results, found[rows[number - behind]], strict=True))
            gains[row] = {g: keep.interval([r[g] - f[g] for r, f in pairs]) for g in keep.GROUPS}
    count = len(next(iter(found.values())))
    show(name, table, gains, count)
    own = options.config == "configs/digits_lt.py" and not options.set
    words = [f"--seeds={count}", *([] if own else [f"--config={options.config}"]), *(f"--set={x}" for x in options.set)]
    if name == "imbalance" and options.factors != FACTORS:
        words.append("--factors=" + ",".join(map(str, options.factors)))
    command = f"python benchmarks/evidence.py {name} " + " ".join(words)
    kept = {"commit": commits, "seeds": count, "config": options.config}
    kept |= {"accuracy": table, "gain over the first": gains}
    if not options.no_write:
        prefix = "" if own else f"{options.stem}_"
        keep.write(kept, f"evidence_{prefix}{name}.json", command)


def show(name, table, gains, seeds):
    print(f"\n{name}: test accuracy in per cent, mean ± standard deviation over {seeds} seeds; gain over the first")
    width = max(map(len, table)) + 2
    print(" " * width + "".join(f"{group:>14}" for group in keep.GROUPS))
    for row, cells in table.items():
        print(f"{row:{width}}" + "".join(f"{keep.cell(cells[g], 'std'):>14}" for g in keep.GROUPS))
        if row in gains:
            cells = [keep.cell(gains[row][g], "half_width_95") for g in keep.GROUPS]
            print(f"{'  gain, 95 %':{width}}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
