"""Changes one setting at a time over many seeds; each variant is paired with the first one of its table or factor.

    python benchmarks/evidence.py [TABLE...] [--seeds=N] [--config=configs/digits_lt.py] [--set=KEY=VALUE...]
                                  [--workdir=runs/evidence]

TABLE names the tables to run; the default is all of them. These need one pretraining per seed: `demo` (against
cross-entropy and the post-hoc methods on its network), `baselines` (other networks trained in one stage), `roads` (how
the subset is drawn), `scale` (of the kernel), `redraw` (R), `k`, `trainable`. These need a pretraining for each
variant: `m`, `n`, `negatives`, `loss` (by the plain linear probe), `start` (the same runs after retraining),
`imbalance`. A run that several tables share runs once. --set changes a knob of every run, such as retrain.epochs. Runs
stay in the work directory, and the same command continues them; use another work directory for other settings. Each
table is written to benchmarks/results/evidence_TABLE.json, whatever it shows; with another config, or --set, the name
of the config is put before that of the table. --factors=10,100,200 sets the imbalance factors of `imbalance`.
"""

import argparse
import functools
import json
import operator
import pathlib
import sys
import time
from typing import NamedTuple

import keep

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Run(NamedTuple):
    """One run of the command line, and the path of its measures in result.json."""

    stages: tuple[str, ...]
    flags: tuple[str, ...]  # changes of the row; those equal to the config are left out of the run
    path: str = "test"


def retrained(*flags):
    return Run(("retrain", "evaluate"), flags)


def probed(path, *flags):
    return Run(("probe", "retrain", "evaluate"), flags, path)


def trained(path, *flags):
    return Run(("baseline", "evaluate"), flags, path)


def headed(path, *flags):
    return Run(("baseline", "heads", "evaluate"), flags, path)


def pretraining(run):
    """Returns the run whose encoder `run` starts from, or None if `run` trains its own."""
    if run.stages[0] in ("pretrain", "baseline"):
        return None
    return Run(("pretrain",), tuple(flag for flag in run.flags if flag.startswith(("pretrain.", "data."))))


DEFAULT = probed("test")  # the unchanged config, a row of most tables
METHODS = {
    "uniform": retrained("retrain.method=uniform"),
    "rank_one": retrained("retrain.method=rank_one"),
    "eigen": retrained("retrain.method=eigen"),
    "algorithm1": retrained("retrain.method=algorithm1"),
}
LOSSES = {
    **{name: (f"pretrain.loss={name}",) for name in ("bns", "bns_official", "simclr", "supcon")},
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
        "cross-entropy": headed("methods.cross_entropy.test"),
        "logit adjustment": headed("methods.logit_adjustment.test"),
        "cRT": headed("methods.crt.test"),
        "nearest class mean": headed("methods.nearest_class_mean.test"),
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
        "class-balanced sampling": trained("test", "baseline.sampling=class_balanced"),
    },
    "m": {f"m = {m}": retrained(f"pretrain.m={m}") for m in (1, 0, 2, 4)},
    "n": {f"n = {n}": retrained(f"pretrain.n={n}") for n in (16, 4, 64)},
    "negatives": {name: retrained(f"pretrain.negatives={name}") for name in ("sampled", "expected")},
    "loss": {name: probed("probe.plain", *flags) for name, flags in LOSSES.items()},
    "start": {name: probed("test", *flags) for name, flags in LOSSES.items()},
    "imbalance": imbalance(FACTORS),
}
SEEDS = {"demo": 10, "roads": 10}  # number of seeds; 3 for the other tables
TOGETHER = {"imbalance": 2}  # rows per group, compared with the first row of the group; other tables are one group


def main():
    options = parse()
    began, tables = time.monotonic(), tables_of(options)
    seeds = {name: range(options.seeds or SEEDS.get(name, 3)) for name in options.tables}
    runs = [(run, seed) for name in options.tables for run in tables[name].values() for seed in seeds[name]]
    runs.sort(key=lambda pair: pair[1])  # seed by seed, so that two jobs at a time do not compile the same program
    encoders = [(before, seed) for run, seed in runs if (before := pretraining(run))]
    count = sum(
        finish({folder(options, run, seed): command_words(options, run, seed) for run, seed in several}, options)
        for several in (encoders, runs)
    )
    for name in options.tables:
        results = {row: [result(options, run, seed) for seed in seeds[name]] for row, run in tables[name].items()}
        commits = {commit(options, run, seed) for run in tables[name].values() for seed in seeds[name]}
        report(name, results, ", ".join(sorted(commits)), options)
    print(f"\n{count} runs, those of pretraining among them, in {(time.monotonic() - began) / 60:.1f} minutes")


def tables_of(options):
    """Returns TABLES with runs whose flags all change the config."""
    from lt_jax.run import command

    config = command.parse(["lt_jax", f"--config={options.config}", *(f"--config.{flag}" for flag in options.set)])[0]
    tables = {**TABLES, "imbalance": imbalance(options.factors)}
    return {name: {row: changing(config, run) for row, run in table.items()} for name, table in tables.items()}


def changing(config, run):
    """Returns the run with only the flags that change the config, or DEFAULT for a retraining without such a flag."""
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
    """Returns the folder of a run. It depends on the stages and flags, not on the table."""
    changed = ",".join(run.flags).replace("=", "_") or "default"
    return options.workdir / options.stem / "-".join(run.stages) / changed / f"seed{seed}"


def command_words(options, run, seed):
    """Returns the words of the command line."""
    words = [f"--config={options.config}", f"--config.seed={seed}", f"--config.stages={run.stages}"]
    words += [f"--config.{flag}" for flag in (*options.set, *run.flags)]
    if before := pretraining(run):
        words.append(f"--config.init_from={folder(options, before, seed)}")
    return words


def result(options, run, seed):
    value = json.loads((folder(options, run, seed) / "result.json").read_text())
    for part in run.path.split("."):
        value = value[part]
    return value


def commit(options, run, seed):
    """Returns the commit of the run, which may be older than this call."""
    return json.loads((folder(options, run, seed) / "run.json").read_text())["commit"][:7]


def finish(jobs, options):
    """Runs the unfinished jobs, `options.jobs` at a time, and returns how many they were.

    `jobs`: folder -> words of the command line.
    """
    from lt_jax.compare import workers
    from lt_jax.run import command

    left = {at: words for at, words in jobs.items() if not is_finished(at)}
    tasks = [workers.Task(str(at), command.parse(["lt_jax", *words])[0]) for at, words in left.items()]
    failed = workers.run_all(tasks, options.jobs)
    for at, reason in failed.items():
        sys.exit(f"{at}: {reason}")
    return len(left)


def is_finished(workdir):
    """Returns whether the run has completed the last of its stages."""
    file = workdir / "config.json"
    if not file.exists():
        return False
    last = workdir / "stages" / f"{json.loads(file.read_text())['stages'][-1]}.json"
    return last.exists() and json.loads(last.read_text())["status"] == "complete"


def report(name, results_by_row, commits, options):
    """Prints and writes one table, with the paired gains over the first row of its group."""
    rows, table, gains = list(results_by_row), {}, {}
    for number, (row, results) in enumerate(results_by_row.items()):
        table[row] = {g: keep.summary([r[g] for r in results]) for g in keep.GROUPS}
        behind = number % TOGETHER.get(name, len(rows))
        if behind:
            first = results_by_row[rows[number - behind]]
            gains[row] = {g: keep.interval([r[g] for r in results], [r[g] for r in first]) for g in keep.GROUPS}
    count = len(next(iter(results_by_row.values())))
    show(name, table, gains, count)
    own = options.config == "configs/digits_lt.py" and not options.set
    words = [f"--seeds={count}", *([] if own else [f"--config={options.config}"]), *(f"--set={x}" for x in options.set)]
    if name == "imbalance" and options.factors != FACTORS:
        words.append("--factors=" + ",".join(map(str, options.factors)))
    command = f"python benchmarks/evidence.py {name} " + " ".join(words)
    content = {"commit": commits, "seeds": count, "config": options.config}
    content |= {"accuracy": table, "gain over the first": gains}
    if not options.no_write:
        prefix = "" if own else f"{options.stem}_"
        keep.write(content, f"evidence_{prefix}{name}.json", command)


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
