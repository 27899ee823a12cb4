"""`python -m lt_jax.compare`: trains methods under one protocol; `USAGE` says how."""

import csv
import functools
import io
import re
import sys
import types
from typing import Any

from lt_jax.core import errors, files, garbage, interrupt, log
from lt_jax.run import command
from lt_jax.run import config as config_lib

# A constant, since python -OO removes docstrings.
USAGE = """\
usage: python -m lt_jax.compare --methods=A,B,C|GROUP|all [--config=configs/NAME.py[:tokens]] [--workdir=DIR]
                                [--seeds=N] [--folds=N] [--jobs=N] [--vary=a.b=X,Y ...] [--dry-run]
                                [--config.a.b=value ...]

Trains each method with each seed, shares what methods have in common, and writes compare.json, compare.csv and
compare.html in DIR, by default runs/NAME_compare. The same command again resumes.
  --methods  recipes of docs/methods.md; groups: losses, heads, contrastive; all = what the config can run
  --seeds    runs of each method (1); two or more give intervals
  --folds    of cross-validation, which selects the method (2); 0 = none: a validation split selects, or nothing;
             heads on the features of a pretrained network always have 5
  --jobs     runs at a time (1), each in a process with one thread of its own: for small networks on several CPU cores
  --vary     a key of the config and its values, as retrain.k=10,20: each method also with each of them, one at a time
  --dry-run  lists the runs and trains nothing
The first method is the reference of the differences, of heads on features the plain linear one.
The test set never selects.
"""
_OWN = {"methods": "", "seeds": "1", "folds": "2", "jobs": "1", "dry-run": ""}
_BETWEEN = re.compile(r",(?![^(]*\))")  # values, not the parts of a tuple


def main(argv: list[str]) -> int:
    """Runs the command line; invalid user input is one line, not a traceback."""
    interrupt.install()
    try:
        if any(word in ("-h", "--help", "-help") for word in argv[1:]):
            print(USAGE)
            return 0
        own, words = _split(argv)
        config, options = command.parse(words)
        own.changes = _changes(words, own.vary)
        if not any(word.startswith(("--workdir", "-workdir")) for word in words):
            options.workdir += "_compare"
        _compare(config, options, own)
        return 0
    except tuple(errors.EXIT_STATUS) as error:
        print(f"lt_jax: {error}", file=sys.stderr)
        return errors.EXIT_STATUS[type(error)]


def _split(argv: list[str]) -> tuple[types.SimpleNamespace, list[str]]:
    """(the flags of this command, all other words)."""
    values = dict(_OWN)
    words, vary = [], []
    for word in argv:
        name, _, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name in _OWN:
            values[name] = value or "yes"
        elif word.startswith("-") and name == "vary":
            vary.append(value)
        else:
            words.append(word)
    for name, least in (("seeds", 1), ("folds", 0), ("jobs", 1)):
        if not values[name].isdecimal() or int(values[name]) < least or values[name] == "1" and name == "folds":
            expected = "0 or at least 2" if name == "folds" else "at least 1"
            raise errors.BadInput(f"--{name}: expected a whole number, {expected}, found {values[name]!r}")
    numbers = {name: int(values[name]) for name in ("seeds", "folds", "jobs")}
    own = types.SimpleNamespace(methods=values["methods"], dry_run=bool(values["dry-run"]), vary=vary, **numbers)
    return own, words


def _changes(words: list[str], vary: list[str]) -> dict[str, dict[str, Any]]:
    """`key=value` -> {key: its value, as the command line would set it}, for all values of all keys.

    Raises:
      BadInput: an unknown key, or a value that it cannot have.
    """
    changes = {}
    for text in vary:
        key, _, values = text.partition("=")
        if not values:
            raise errors.BadInput(f"--vary: expected KEY=VALUE,VALUE, as retrain.k=10,20, found {text!r}")
        for value in _BETWEEN.split(values):
            changed, _ = command.parse([*words, f"--config.{key}={value}"])
            changes[f"{key}={value}"] = {key: config_lib.get(changed, key)}
    return changes


def _compare(config: Any, options: Any, own: Any) -> None:
    from lt_jax.compare import page, plan, results, workers  # here, so that --help does not wait for JAX
    from lt_jax.stages import heads

    names = plan.varied(config, plan.names_of(own.methods, config), own.changes)
    folds = 0 if heads.is_alone(config) or _has_validation(config) else own.folds
    jobs = plan.jobs(config, names, range(config.seed, config.seed + own.seeds), folds, own.changes)
    log.say(f"{len(names)} methods, {own.seeds} seeds, {folds or 'no'} folds: {len(jobs)} runs")
    if own.dry_run:
        for job in jobs:
            print(f"{job.folder}  {'; '.join(job.members) or job.config.stages[0]}")
        return
    workdir = files.prepare_folder(options.workdir)
    by_path = workers.run_all(_tasks(jobs, workdir), own.jobs)
    failed = {job.folder: by_path[str(workdir / job.folder)] for job in jobs if str(workdir / job.folder) in by_path}
    compared = results.read(jobs, names, workdir, failed)
    files.write_json(workdir / "compare.json", compared)
    files.write_text(workdir / "compare.csv", _csv(compared))
    files.write_text(workdir / "compare.html", page.document(compared))
    log.say("\n" + results.table(compared))
    log.say(f"the comparison is {workdir / 'compare.html'}")


def _has_validation(config: Any) -> bool:
    """Whether the data bring a validation split, or the config holds one out."""
    from lt_jax import data

    return data.load(config.data).validation is not None


def _tasks(jobs: list[Any], workdir: Any) -> list[Any]:
    """The jobs as runs of the command line."""
    from lt_jax.compare import workers

    tasks = []
    for job in jobs:
        config, before = job.config.copy_and_resolve_references(), job.before
        task = workers.Task(str(workdir / job.folder), config, str(workdir / before.folder) if before else "")
        if before is not None and "pretrain" in before.config.stages:
            config.init_from = task.before
        elif before is not None:
            folders = (workdir / before.folder / "features", workdir / job.folder / "features")
            task = task._replace(prepare=functools.partial(files.copy_folder, *folders))
        tasks.append(task)
    return tasks


def _csv(compared: dict[str, Any]) -> str:
    """One row for each method and seed, with its test measures."""
    text = io.StringIO()
    measures = ("overall", "many", "medium", "few", "balanced", "worst_class", "macro_f1", "ece")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "seed", *measures))
    for name, method in compared["methods"].items():
        for seed, test in zip(compared["seeds"], method["test"], strict=False):
            writer.writerow((name, seed, *(test[measure] for measure in measures)))
    return text.getvalue()


if __name__ == "__main__":
    garbage.collect_rarely()
    sys.exit(main(sys.argv))
