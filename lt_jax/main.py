"""Long-tailed image recognition: one command from images to a balanced classifier and a report.

    python -m lt_jax.main [--config=configs/NAME.py[:arg]] [--workdir=DIR] [--stage=STAGE] [--config.a.b=value]

  --config   experiment, with tokens behind a colon: a number is the imbalance factor, `smoke` the short form.
             Without it: the embedded demo on handwritten digits.
  --workdir  where the run lives; default runs/NAME.
  --stage    all (default), pretrain, baseline, probe, retrain, evaluate, report or show_data;
             features, dlsa or separability with a DLSA config.

The same command again resumes, or says that all is complete. launch/README.md has several processes and hosts.
Exit status: 0 done, 1 the run failed, 2 bad input, 75 stopped by SIGTERM after saving.
"""

import os
import sys

from absl import flags, logging
from ml_collections import config_flags

from lt_jax import config as config_lib
from lt_jax import distributed, errors, files, interrupt, log, stages


def main(argv: list[str]) -> int:
    """Runs the command line; every error that the user can mend is one line, not a traceback."""
    interrupt.install()
    try:
        if (parsed := _parse(argv)) is not None:
            with distributed.joined(parsed[0].host):
                _run(*parsed)
        return 0
    except tuple(errors.EXIT_STATUS) as error:
        print(f"lt_jax: {error}", file=sys.stderr)
        return errors.EXIT_STATUS[type(error)]


def _parse(argv):
    """(config, workdir, stage), or None after --help."""
    if any(word in ("-h", "--help", "-help") for word in argv[1:]):
        print(__doc__)
        return None
    config, name, argv = config_lib.from_command_line(argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    workdir = flags.DEFINE_string("workdir", os.path.join("runs", name), "", flag_values=values)
    stage = flags.DEFINE_string("stage", "all", "", flag_values=values)
    try:
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.BadInput(str(error).strip().splitlines()[0]) from error
    if len(rest) > 1:
        raise errors.BadInput(f"unexpected argument {rest[1]!r}; flags look like --name=value")
    config_lib.validate(config)
    return config, workdir.value, stage.value


def _run(config, workdir, stage):
    workdir = files.prepare_folder(workdir)
    functions = _functions()
    logging.set_verbosity(logging.FATAL)  # orbax logs a traceback for each thread of a save; we say it in one line
    _keep_compiled_programs(config.host.compile_cache)
    log.say(f"work directory {workdir}")
    stages.write_run(config, workdir)
    stages.run(config, workdir, stage, functions)


def _keep_compiled_programs(folder):
    import jax

    if folder and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _functions():
    """Stage -> function. Imported here, so that --help does not wait for JAX."""
    from lt_jax import baseline, evaluate, pretrain, probe, report, retrain, show_data
    from lt_jax.dlsa import stages as dlsa

    return {
        "pretrain": pretrain.run, "baseline": baseline.run, "probe": probe.run, "retrain": retrain.run,
        "features": dlsa.run_features, "dlsa": dlsa.run, "separability": dlsa.run_separability,
        "evaluate": evaluate.run, "report": report.run, "show_data": show_data.run,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv))
