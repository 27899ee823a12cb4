"""Measures where the seconds of the demo go, with an empty and with a filled compile cache; and of another checkout.

    python benchmarks/demo.py [--against=CHECKOUT] [--repeats=3]
    python benchmarks/demo.py --config=configs/digits_lt.py:quick --name=demo_quick

Rows: the stages of the run, as the command runs them; of all stages together the time in which JAX traces, lowers and
compiles programs, and `data.load`; and `start`, from the start of Python to the first stage. --against names another
checkout of lt_jax, whose demo runs in turn with this one's. Medians over the rounds. Writes
benchmarks/results/NAME.json.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import keep
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEMO = "configs/digits_lt.py"
EVENTS = {  # of jax.monitoring; a program that the cache holds is not compiled
    "/jax/core/compile/jaxpr_trace_duration": "  trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "  lower",
    "/jax/core/compile/backend_compile_duration": "  compile",
}


def main():
    options = parse()
    checkouts = {"here": ROOT} | ({"before": options.against.resolve()} if options.against else {})
    rounds = {(name, cache): [] for name in checkouts for cache in ("cold", "warm")}
    for _ in range(options.repeats):
        for name, root in checkouts.items():
            with tempfile.TemporaryDirectory() as folder:
                for cache in ("cold", "warm"):
                    rounds[name, cache].append(measured(root, pathlib.Path(folder), cache, options.config))
                    print(f"{name}, {cache}: {rounds[name, cache][-1]['all']:.1f} s", flush=True)
    table = {f"{name}, {cache}": medians(results) for (name, cache), results in rounds.items()}
    show(table)
    if not options.no_write:
        words = ["--against=CHECKOUT"] if options.against else []
        words.append(f"--repeats={options.repeats}")
        if options.config != DEMO:
            words += [f"--config={options.config}", f"--name={options.name}"]
        keep.write(
            {"repeats": options.repeats, "seconds": table},
            f"{options.name}.json",
            " ".join(["python benchmarks/demo.py", *words]),
        )


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=pathlib.Path, help="another checkout of lt_jax")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", default=DEMO)
    parser.add_argument("--name", default="demo", help="of the file in benchmarks/results")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def measured(root, folder, cache, config):
    """Returns the seconds of one run in a process of its own."""
    words = [
        f"--config={root / config}",
        f"--workdir={folder / cache}",
        f"--config.host.compile_cache={folder / 'jax'}",
    ]
    began = time.time()
    command = [sys.executable, __file__, "--child", str(root), str(began), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "all": time.time() - began}


def child(root, began, words):
    """Runs the command with clocks around its stages and prints the seconds as JSON."""
    sys.path.insert(0, root)
    seconds = collections.defaultdict(float)

    def timed(name, function):
        def run(*arguments, **options):
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.perf_counter() - start

        return run

    from lt_jax import main as command

    with contextlib.suppress(ImportError):  # earlier checkouts do not have it
        from lt_jax.core import garbage

        garbage.collect_rarely()
    functions = command._functions

    def functions_with_clocks(*arguments):
        import jax

        from lt_jax import data

        seconds["start"] = time.time() - began
        jax.monitoring.register_event_duration_secs_listener(listen)
        data.load = timed("  data.load", data.load)
        return {name: timed(name, function) for name, function in functions(*arguments).items()}

    def listen(event, duration, **_):
        if event in EVENTS:
            seconds[EVENTS[event]] += duration

    command._functions = functions_with_clocks
    status = command.main(["lt_jax", *words])
    if status:
        sys.exit(status)
    print(json.dumps(seconds))


def medians(results):
    names = dict.fromkeys(name for result in results for name in result)
    return {name: float(np.median([result.get(name, 0.0) for result in results])) for name in names}


def show(table):
    print(f"\n{'seconds':18}" + "".join(f"{column:>14}" for column in table))
    for name in dict.fromkeys(name for column in table.values() for name in column):
        print(f"{name:18}" + "".join(f"{column.get(name, 0.0):>14.2f}" for column in table.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], float(sys.argv[3]), sys.argv[4:])
    else:
        main()
