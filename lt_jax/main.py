"""The command line: `python -m lt_jax.main`; `USAGE` says how."""

import sys
from typing import Any

from absl import logging

from lt_jax.core import distributed, errors, files, garbage, interrupt, lock, log
from lt_jax.run import command

# A constant, since python -OO removes docstrings.
USAGE = """\
Long-tailed image recognition: one command from images to a balanced classifier and a report.

    python -m lt_jax.main [--config=configs/NAME.py[:arg]] [--workdir=DIR] [--stage=STAGE] [--config.a.b=value]

  --config   experiment, with tokens behind a colon: a number is the imbalance factor, `smoke` the short form.
             Without it: the embedded demo on handwritten digits.
  --workdir  where the run lives; default runs/NAME.
  --stage    all (default), pretrain, baseline, features, heads, probe, retrain, evaluate, report or
             show_data; dlsa or separability with a DLSA config; of a finished run also export, and
             predict --images=DIR|FILE... [--format=table|csv|json] [--out=FILE]; both with
             [--method=NAME] of result.json, instead of the selected one, and
             [--tau=X], above 0 in favour of rare classes.

The same command again resumes, or says that all is complete. launch/README.md has several processes and hosts.
Exit status: 0 done, 1 the run failed, 2 bad input, 75 stopped by SIGTERM or Ctrl-C after saving.
"""


def main(argv: list[str]) -> int:
    """Runs the command line; invalid user input is one line, not a traceback."""
    interrupt.install()
    try:
        if any(word in ("-h", "--help", "-help") for word in argv[1:]):
            print(USAGE)
            return 0
        config, options = command.parse(argv)
        with distributed.joined(config.host):
            run(config, options)
        return 0
    except tuple(errors.EXIT_STATUS) as error:
        print(f"lt_jax: {error}", file=sys.stderr)
        return errors.EXIT_STATUS[type(error)]


def run(config: Any, options: Any) -> None:
    """Runs the stages of a checked config.

    Args:
      config: from `lt_jax.run.command.parse`.
      options: the other flags: workdir, stage, and those of predict.
    """
    from lt_jax.run import graph, host  # here, so that --help does not wait for JAX

    is_after = options.stage in ("predict", "export")  # they look at a finished run and leave its own files alone
    workdir = files.expand(options.workdir, "--workdir") if is_after else files.prepare_folder(options.workdir)
    functions = _functions(options)
    logging.set_verbosity(logging.FATAL)  # orbax logs a traceback for each thread of a save; we say it in one line
    host.prepare(config.host)
    if is_after:
        return functions[options.stage](config, workdir)
    with lock.owned(workdir):
        log.say(f"work directory {workdir}")
        graph.run(config, workdir, options.stage, functions)
    return None


def _functions(options: Any) -> dict[str, Any]:
    """Stage -> function. Imported here, so that --help does not wait for JAX."""
    from lt_jax import report
    from lt_jax.serve import export, predict, show_data
    from lt_jax.stages import baseline, dlsa, evaluate, features, heads, pretrain, probe, retrain

    return {
        "pretrain": pretrain.run, "baseline": baseline.run, "heads": heads.run, "probe": probe.run,
        "retrain": retrain.run,
        "features": features.run, "dlsa": dlsa.run, "separability": dlsa.run_separability,
        "evaluate": evaluate.run,
        "report": lambda experiment: report.run(experiment.config, experiment.workdir),
        "show_data": lambda experiment: show_data.run(experiment.config, experiment.workdir),
        "export": lambda config, workdir: export.run(workdir, options.method, options.tau),
        "predict": lambda config, workdir: predict.run(workdir, options),
    }  # fmt: skip


if __name__ == "__main__":
    garbage.collect_rarely()
    sys.exit(main(sys.argv))
