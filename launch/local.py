"""Starts several processes of one run on this machine, each with its share of the devices.

    python launch/local.py 2 -- --config=configs/digits_lt.py --workdir=runs/two
    python launch/local.py 2 --dry-run -- --config=configs/cifar10_lt.py

On a machine without GPUs each process has `--devices` CPU devices. Lines of output begin with the number of their
process. When one process fails, the others are ended; the exit status is that of the first process that failed.
SIGTERM and Ctrl-C are passed on as SIGTERM: the run saves and ends with status 75.
"""

import argparse
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GRACE = 40.0  # seconds that the other processes have to end by themselves after one has failed


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processes", type=int)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process, where there is no GPU")
    parser.add_argument("--gpus", type=int, default=None, help="GPUs of this machine; default: as many as there are")
    parser.add_argument("--port", type=int, default=None, help="of the coordinator; default: a free one")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    ours = words[: words.index("--")] if "--" in words else words
    options = parser.parse_args(ours)
    options.arguments = words[len(ours) + 1 :]
    gpus = count_gpus() if options.gpus is None else options.gpus
    if options.processes < 1 or (gpus and gpus % options.processes):
        parser.error(f"expected a number of processes that divides {gpus or 'the'} GPUs, found {options.processes}")
    settings = [environment(options, i, gpus) for i in range(options.processes)]
    if not options.dry_run:
        return run(settings, command(options.arguments))
    for setting in settings:
        variables = [f"{name}={value}" for name, value in setting.items()]
        print(shlex.join(["env", *variables, *command(options.arguments)]))
    return 0


def command(arguments):
    return [sys.executable, "-m", "lt_jax.main", *arguments]


def environment(options, number, gpus):
    """Returns the environment variables of process `number` that differ from those of this process."""
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{options.port or free_port()}",
        "JAX_NUM_PROCESSES": str(options.processes),
        "JAX_PROCESS_ID": str(number),
    }
    options.port = int(variables["JAX_COORDINATOR_ADDRESS"].rpartition(":")[2])
    if gpus:
        each = gpus // options.processes
        return {**variables, "JAX_LOCAL_DEVICE_IDS": ",".join(str(number * each + i) for i in range(each))}
    other_flags = [
        x for x in os.environ.get("XLA_FLAGS", "").split() if "xla_force_host_platform_device_count" not in x
    ]
    flags = " ".join([*other_flags, f"--xla_force_host_platform_device_count={options.devices}"])
    return {**variables, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def count_gpus():
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU") for line in listed.splitlines())


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(setting, words):
    """Starts one process; standard output and error are one stream of text."""
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **setting, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def run(settings, words):
    """Starts all processes and waits for them; returns the status of the first one that failed, else 0."""
    started = [start(setting, words) for setting in settings]
    for number, process in enumerate(started):
        threading.Thread(target=prefix, args=(number, process.stdout), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: [process.terminate() for process in started])
    return watch(started)


def prefix(number, lines):
    for line in lines:
        sys.stderr.write(f"{number}: {line}")
        sys.stderr.flush()


def watch(started):
    first, deadline = 0, None
    while None in [process.poll() for process in started]:
        failed = [process.returncode for process in started if process.returncode]
        if failed and deadline is None:
            first, deadline = failed[0], time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(0.05)
    time.sleep(0.2)  # time for the last lines of output
    first = first or next((process.returncode for process in started if process.returncode), 0)
    return 128 - first if first < 0 else first


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
