"""Runs on all hosts of a Cloud TPU slice: a queued resource, the code on every worker, one command on all of them.

    python launch/tpu.py create NAME --zone=ZONE --type=v5litepod-256 --runtime=v2-alpha-tpuv5-lite --spot
    python launch/tpu.py state  NAME --zone=ZONE            # until it says ACTIVE
    python launch/tpu.py setup  NAME --zone=ZONE            # the committed code and its packages, on every worker
    python launch/tpu.py run    NAME --zone=ZONE -- --config=configs/inat2018.py --workdir=gs://BUCKET/runs/inat2018
    python launch/tpu.py delete NAME --zone=ZONE

`--dry-run` prints the commands and runs nothing. They need gcloud, logged in, with a project set or `--project`.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHIVE = "lt_jax.tar.gz"
# Images of TPU machines may have an older Python than ours.
SETUP = """set -e
rm -rf lt_jax && mkdir lt_jax && tar -xzf lt_jax.tar.gz -C lt_jax && cd lt_jax
command -v python3.11 || (sudo apt-get update -qq && sudo apt-get install -y -qq python3.11 python3.11-venv)
test -x .venv/bin/python || python3.11 -m venv .venv
.venv/bin/python -m pip install --quiet --constraint launch/constraints-3.11.txt \\
  --editable '.[tpu,bucket,tables,h5,weights,export]'"""


def main(words):
    ours = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=list(ACTIONS))
    parser.add_argument("name", help="of the queued resource and of its node")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="default: the one that gcloud has set")
    parser.add_argument("--type", default="v5litepod-256", help="accelerator type")
    parser.add_argument("--runtime", default="v2-alpha-tpuv5-lite", help="version of the machine's image")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    parser.add_argument("--service-account", default="", help="that the run reads and writes buckets with")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    options = parser.parse_args(ours)
    for command in ACTIONS[options.action](options, words[len(ours) + 1 :]):
        print(shlex.join(command), flush=True)
        if not options.dry_run:
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
            if status:
                return status
    return 0


def create(options, arguments):
    command = [
        *resources("create", options),
        f"--node-id={options.name}",
        f"--accelerator-type={options.type}",
        f"--runtime-version={options.runtime}",
    ]
    command += ["--spot"] * options.spot
    command += [f"--service-account={options.service_account}"] * bool(options.service_account)
    return [command]


def state(options, arguments):
    return [[*resources("describe", options), "--format=value(state.state)"]]


def set_up(options, arguments):
    remote_archive = f"{options.name}:{ARCHIVE}"
    return [
        ["git", "archive", "--format=tar.gz", f"--output={ARCHIVE}", "HEAD"],
        [*machines("scp"), ARCHIVE, remote_archive, "--worker=all", *where(options)],
        on_all(options, SETUP),
    ]


def run(options, arguments):
    """Returns the command of all workers. JAX finds the other workers, but needs a flag that there are some."""
    words = [".venv/bin/python", "-m", "lt_jax.main", *arguments, "--config.host.distributed=on"]
    return [on_all(options, "cd lt_jax && " + shlex.join(words))]


def delete(options, arguments):
    return [[*resources("delete", options), "--force", "--quiet"]]


def on_all(options, script):
    return [*machines("ssh"), options.name, "--worker=all", *where(options), f"--command={script}"]


def resources(verb, options):
    return ["gcloud", "compute", "tpus", "queued-resources", verb, options.name, *where(options)]


def machines(verb):
    return ["gcloud", "compute", "tpus", "tpu-vm", verb]


def where(options):
    return [f"--zone={options.zone}", *[f"--project={options.project}"] * bool(options.project)]


ACTIONS = {"create": create, "state": state, "setup": set_up, "run": run, "delete": delete}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
