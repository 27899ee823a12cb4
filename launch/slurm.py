"""Runs on a Slurm cluster: one process per GPU, requeued until the run is complete.

    python launch/slurm.py --nodes=4 --gpus=8 --time=24:00:00 -- --config=configs/inat2018.py --workdir=DIR
    python launch/slurm.py --nodes=4 --gpus=8 --dry-run -- ...      # prints the batch script

All nodes must see the work directory. Before its time limit, or when it is preempted, the job gets SIGTERM: the run
saves and ends with status 75, and the job is requeued.
"""

import argparse
import shlex
import subprocess
import sys

SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
{gpus}#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --signal=TERM@{grace}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log
{extra}
# Each task sees all GPUs of its node and uses the one with its own number. If one task fails, all end.
# Since Slurm 22.05 srun does not take the number of cores from the batch job.
srun --cpus-per-task={cpus} --kill-on-bad-exit=1 --wait=60 {command}
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def main(words):
    ours = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="lt_jax")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="of each node; 0 = one process a node, on its CPU")
    parser.add_argument("--cpus", type=int, default=8, help="cores of each process: they decode images")
    parser.add_argument("--time", default="24:00:00")
    parser.add_argument("--grace", type=int, default=180, help="seconds between SIGTERM and the end of the time")
    parser.add_argument("--python", default="python", help="of an environment that all nodes see")
    parser.add_argument("--sbatch", action="append", default=[], help="one more line, such as --sbatch=--partition=gpu")
    parser.add_argument("--dry-run", action="store_true", help="print the batch script, and submit nothing")
    text = script(parser.parse_args(ours), words[len(ours) + 1 :])
    if "--dry-run" in ours:
        print(text, end="")
        return 0
    return subprocess.run(["sbatch"], input=text, text=True, check=False).returncode


def script(options, arguments):
    return SCRIPT.format(
        name=options.name,
        nodes=options.nodes,
        tasks=max(options.gpus, 1),
        gpus=f"#SBATCH --gpus-per-node={options.gpus}\n" if options.gpus else "",
        cpus=options.cpus,
        time=options.time,
        grace=options.grace,
        extra="".join(f"#SBATCH {line}\n" for line in options.sbatch),
        command=shlex.join([options.python, "-m", "lt_jax.main", *arguments]),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
