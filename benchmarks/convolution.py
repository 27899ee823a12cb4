"""Measures what the CPU form of the convolutions brings, and kept memory, beside PyTorch, in one run.

    python benchmarks/convolution.py [--python=PY...] [--torch-python=PY] [--batch=128] [--repeats=15]

Rows: the forward and backward pass of a network (ResNet-32 of width 16), a whole supervised step, and a whole BNS step
(three views of each anchor). Columns, for each Python that --python names (each with its own version of jax): `plain`
uses `jax.lax.conv_general_dilated` as it is, `form` the CPU form of lt_jax.models.convolution, `kept` also keeps freed
memory, as the command does by default. PyTorch, eager and compiled, has the same network and BNS step; its supervised
step has no augmentation. --plain-bns measures the BNS step in all columns, not in `kept` alone.

Each column is a process of its own. Each round runs all rows once, in a random order, so that other work on the machine
meets all of them. Medians of wall-clock time and of processor time are over the rounds. Writes
benchmarks/results/convolution.json.
"""

import argparse
import json
import os
import pathlib
import sys
import types

import keep
import numpy as np
import worker

HERE = pathlib.Path(__file__).resolve().parent
NETWORK, SUPERVISED, BNS = "network, forward and backward", "supervised step, whole", "BNS step, whole"
MODES = ("plain", "form", "kept")


def main():
    options = parse()
    columns = {}
    for python in options.python or [sys.executable]:
        version = version_of(python)
        for mode in MODES:
            columns[f"jax {version} {mode}"] = child([python, __file__], options, mode)
    if options.torch_python:
        for mode in ("eager", "compiled"):
            columns[f"PyTorch {mode}"] = child([options.torch_python, HERE / "step_torch.py"], options, mode)
    workers = {name: worker.Worker(*command) for name, command in columns.items()}
    rows = {name: one.ready() for name, one in workers.items()}  # they compile beside each other
    times = measured(workers, rows, options.repeats)
    peak = {name: one.peak_mib for name, one in workers.items()}
    for one in workers.values():
        one.close()
    show(times, peak, options)
    if not options.no_write:
        first = times.get("PyTorch compiled", {})
        cells = {
            name: {row: {**medians(x), **ratio(x, first.get(row))} for row, x in column.items()}
            for name, column in times.items()
        }
        content = {"batch": options.batch, "repeats": options.repeats, "columns": cells, "peak_mib": peak}
        keep.write(content, options.name, "python benchmarks/convolution.py " + words_of(sys.argv[1:]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="a Python that has lt_jax; may be given several times")
    parser.add_argument("--torch-python", help="a Python that has PyTorch")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--plain-bns", action="store_true", help="measure the BNS step in all columns")
    parser.add_argument("--name", default="convolution.json", help="of the file in benchmarks/results")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def version_of(python):
    return keep.output([python, "-c", "import jax; print(jax.__version__)"])


def child(command, options, mode):
    """Returns (command line, environment) of the process of a column."""
    sizes = {"encoder": "resnet32", "width": 16, "batch": options.batch, "side": 32, "dtype": "float32"}
    sizes |= {"with_bns": mode not in ("plain", "form") or options.plain_bns}
    cache = str(pathlib.Path.home() / ".cache" / "lt_jax" / "benchmarks")  # a second run compiles nothing
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "JAX_COMPILATION_CACHE_DIR": cache}
    return [*command, "--serve", mode, json.dumps(sizes)], environment


def serve(mode, sizes):
    """Serves the rows of a column of JAX."""
    from lt_jax.core import allocator

    if mode == "kept":
        allocator.keep_freed_memory()
    if mode == "plain":
        from lt_jax.models import convolution

        convolution._apart = lambda x, kernel: x
    import jax
    import step_rows

    options = types.SimpleNamespace(**sizes)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * options.batch, options.side, options.side, 3), dtype=np.uint8)
    labels = rng.integers(0, step_rows.CLASSES, len(images)).astype(np.int32)
    rows = step_rows.supervised(options, images, labels)
    if sizes["with_bns"]:
        rows |= step_rows.contrastive(options, images, labels)

    def runner(run, arguments):
        return lambda: jax.block_until_ready(run(*arguments))

    worker.serve({name: runner(*rows[name]) for name in (NETWORK, SUPERVISED, BNS) if name in rows})


def measured(workers, rows, repeats):
    """Returns {column: {row: (repeats, 2) seconds and processor seconds}}."""
    rng = np.random.default_rng(0)
    cells = [(name, row) for name in workers for row in rows[name]]
    times = {name: {row: [] for row in rows[name]} for name in workers}
    for _ in range(repeats):
        for number in rng.permutation(len(cells)):
            name, row = cells[number]
            times[name][row].append(workers[name].run(row))
    return times


def medians(times):
    ms, processor_ms = 1e3 * np.median(times, axis=0)
    return {"ms": float(ms), "processor_ms": float(processor_ms)}


def ratio(times, reference):
    """Returns the median ratio of the rounds to those of the reference, by both clocks; {} without a reference."""
    if reference is None:
        return {}
    clock, processor = np.median(np.divide(times, reference), axis=0)
    return {"ratio": float(clock), "processor_ratio": float(processor)}


def show(times, peak, options):
    """Prints milliseconds, and the ratio to PyTorch compiled (median of the ratios of the rounds)."""
    print(f"ResNet-32, width 16, batch {options.batch}: ms (processor ms), times PyTorch compiled")
    print(f"{'':24}" + "".join(f"{row:>40}" for row in (NETWORK, SUPERVISED, BNS)) + f"{'peak MiB':>10}")
    reference = times.get("PyTorch compiled", {})
    for name, column in times.items():
        cells = [cell(column.get(row), reference.get(row)) for row in (NETWORK, SUPERVISED, BNS)]
        print(f"{name:24}" + "".join(f"{text:>40}" for text in cells) + f"{peak[name]:>10.0f}")


def cell(times, reference):
    if times is None:
        return "-"
    row = {**medians(times), **ratio(times, reference)}
    text = f"{row['ms']:.0f} ({row['processor_ms']:.0f})"
    return f"{text}  {row['ratio']:.2f} ({row['processor_ratio']:.2f})" if "ratio" in row else text


def words_of(words):
    return " ".join(word.partition("=")[0] + "=PY" if "python=" in word else word for word in words)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main()
