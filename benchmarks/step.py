"""Measures the parts of a training step: the network alone, what the library adds, and the same step in PyTorch.

    python benchmarks/step.py [--encoder=resnet32] [--batch=128] [--repeats=30] [--cores=N] [--torch-python=PY]
    python benchmarks/step.py --encoder=resnet18 --width=64 --batch=1024 --dtype=bfloat16 --torch-python=PY  # on a GPU

Rows. `network` is the forward and backward pass of the encoder and a linear head on images that are ready; each row
below it is one part that the library adds. A whole step runs as in training: its state stays in the same buffers. The
supervised step is that of `baseline` and `retrain`. The BNS step is that of `pretrain` with m = 1: it has three views
per anchor, so it is compared with a network on three times the batch, in half of the rounds. The loop on the host is
the training loop around a step that computes nothing: order, partners, transfer, dispatch and log. `official loss` is
the compiled bns_official against the form of the released code, whose cosines go through a (2B, 2B, d) tensor: in
PyTorch, if available, with its gradient, and in NumPy without.

Method. Every round measures its rows in a new random order: with a fixed order, the position of a program changed its
time by up to six per cent. Medians are over the rounds. What a step adds is the median of its share per round, with the
95 % interval of a median (order statistics): in wall-clock time, and in processor time of all threads, which other work
on the machine affects less. In wall-clock time a program may also be slower because it uses the cores less evenly;
with --cores=1 it cannot. The process restarts itself with glibc set to keep freed memory (MALLOC). Otherwise a step
returns its temporaries and the kernel clears them again for the next step, which takes a tenth of the time and varies
between programs. MFU is the floating-point operations of the program over the best rate that a matrix product of the
same type reached in the same run. --torch-python names a Python that has PyTorch. It runs first, with the same network
and BNS step, eager and compiled, and, if it has torchvision, as the released code trains (see bns_torch.py). Writes
benchmarks/results/step.json.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import types

import jax
import jax.numpy as jnp
import keep
import numpy as np
import optax
import readme
from etils import epath
from scipy import stats
from step_rows import CLASSES, TEMPERATURE, contrastive, supervised

from configs import common
from lt_jax import losses
from lt_jax.data import batches
from lt_jax.sampling import orders, partners
from lt_jax.train import loop as train
from lt_jax.train import state

HERE = pathlib.Path(__file__).resolve().parent
HOST_STEPS = 1000
CIFAR10_LT = 12406  # images, at an imbalance factor of 100
CLOCKS = ("clock", "processor")
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": f"{2**33}", "MALLOC_TRIM_THRESHOLD_": f"{2**33}"}
WHOLE = {  # whole step -> the network alone that it is compared with
    "supervised step, whole": "network, forward and backward",
    "BNS step, whole": "network and projector, 3 views",
}


def main():
    options = parse()
    if not MALLOC.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    if options.cores:  # before JAX starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * options.batch, options.side, options.side, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, len(images)).astype(np.int32)
    torch = of_torch(options) if options.torch_python else None  # first: JAX takes most of a GPU's memory
    plain, views = supervised(options, images, labels), contrastive(options, images, labels)
    peak, rows = matmul_peak(options.dtype), {**plain, **views}
    rounds = {**timed(plain, options.repeats), **timed(views, -(-options.repeats // 2))}
    seconds = {name: float(np.median(values["clock"])) for name, values in rounds.items()}
    table = {name: {"ms": 1e3 * seconds[name], **about(rows[name][0], seconds[name], peak)} for name in rows}
    for name in WHOLE:
        table[name]["images_per_s"] = options.batch / seconds[name]
    host = on_host(options)
    report = {"step": table, "host_ms": {name: 1e3 * spent for name, spent in host.items()}}
    report |= {"added": added(rounds, host), "official_loss": official(options), "peak_mib": peak_memory()}
    if torch:
        agree(torch["check"], views["BNS step, whole"][0].state)
        report["torch"] = torch["ms"]
        report["official_loss"]["torch_as_released_ms"] = report["torch"].pop("official loss, as released")
    show(report, options)
    if not options.no_write:
        names = ("encoder", "width", "batch", "side", "dtype")
        sizes = {**{name: getattr(options, name) for name in names}, "peak_flops": peak}
        kind = str(jax.devices()[0].device_kind)
        device = {"jax_device": kind, **({} if is_cpu() else {"device": kind})}
        keep.write({**device, **sizes, **report}, options.name, "python benchmarks/step.py " + words_of(sys.argv[1:]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet32")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--loss-batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--cores", type=int, help="that all threads are held to; without it all")
    parser.add_argument("--torch-python", help="a Python that has PyTorch")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of PyTorch that make views")
    parser.add_argument("--name", default="step.json", help="of the file in benchmarks/results")
    parser.add_argument("--no-write", action="store_true")
    return parser.parse_args()


def timed(rows, repeats):
    """Returns the seconds of each row in each round, by both clocks; each round has a new random order of the rows."""
    rounds, rng = {name: [] for name in rows}, np.random.default_rng(0)
    for _ in range(repeats + 1):
        for name in rng.permutation(list(rows)):
            run, arguments = rows[name]
            began = time.perf_counter(), time.process_time()
            jax.block_until_ready(run(*arguments))
            rounds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return {name: dict(zip(CLOCKS, np.array(values[1:]).T, strict=True)) for name, values in rounds.items()}


def on_host(options):
    """Returns seconds per step of the training loop around a step that computes nothing, lines of the log included."""
    labels = np.arange(CIFAR10_LT) % CLASSES
    order_of = {
        "supervised step, whole": orders.Order(labels, options.batch, 0),
        "BNS step, whole": partners.PartnerOrder(labels, options.batch, 1, 0),
    }
    split = types.SimpleNamespace(images=np.zeros(0), labels=labels)

    def nothing(current, data, batch):
        return current.replace(step=current.step + 1), {"loss": jnp.zeros(())}

    def spent(order, steps):
        fresh = state.create({"params": {"w": jnp.zeros(())}}, optax.identity())
        held = batches.Held(split, order)
        classes = losses.Classes.of(np.bincount(labels))
        job = train.Job("host", 0, nothing, held, steps, 97, options.batch, lambda step: 0.0, lambda epoch: classes)
        with tempfile.TemporaryDirectory() as folder:
            _, progress = train.train(job, fresh, epath.Path(folder), common.base())
        return progress["seconds"]

    # The difference removes the constant cost of start and end.
    return {name: (spent(order, HOST_STEPS + 100) - spent(order, 100)) / HOST_STEPS for name, order in order_of.items()}


def about(run, seconds, peak):
    """Returns the floating-point operations as a share of the peak, and the memory of the program's temporaries."""
    analysis = run.cost_analysis() or {}
    memory = run.memory_analysis()
    flops = analysis.get("flops") if isinstance(analysis, dict) else None
    temporary = getattr(memory, "temp_size_in_bytes", None)
    return {
        "mfu": flops / seconds / peak if flops else None,
        "temporary_mib": temporary / 2**20 if temporary is not None else None,
    }


def matmul_peak(dtype):
    """Returns operations per second of a matrix product, the peak of this machine."""
    size = 2048 if is_cpu() else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    run = jax.jit(jnp.dot)
    jax.block_until_ready(run(x, x))
    best = min(_once(run, x) for _ in range(8))
    return 2 * size**3 / best


def peak_memory():
    """Returns the peak memory of the process in MiB, and that of the device where it reports one."""
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}
    if counted := jax.devices()[0].memory_stats():
        peak["device"] = counted["peak_bytes_in_use"] / 2**20
    return peak


def is_cpu():
    return jax.default_backend() == "cpu"


def _once(run, x):
    began = time.perf_counter()
    jax.block_until_ready(run(x, x))
    return time.perf_counter() - began


def added(rounds, host):
    """Returns what the whole step and its loop add to the network alone, as a share of it, by both clocks."""
    return {
        whole.partition(" ")[0]: {
            by: median_of((rounds[whole][by] + host[whole]) / rounds[alone][by] - 1) for by in CLOCKS
        }
        for whole, alone in WHOLE.items()
    }


def median_of(values):
    """Returns the median and its 95 % interval: two order statistics at equal distance from both ends."""
    values, number = np.sort(values), len(values)
    rank = max(int(stats.binom.ppf(0.025, number, 0.5)), 1)
    return {"median": float(np.median(values)), "interval_95": [float(values[rank - 1]), float(values[number - rank])]}


def official(options):
    """Times loss and gradient of the official form: bns_official, compiled, and through the released code's tensor."""
    b = options.loss_batch
    labels = jax.random.randint(jax.random.key(0), (b,), 0, CLASSES)
    labels = jnp.concatenate([labels, labels])
    z = jax.random.normal(jax.random.key(1), (2 * b, 128))
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    ours = jax.jit(jax.value_and_grad(lambda z: losses.bns_official(z, labels, TEMPERATURE).mean()))
    jax.block_until_ready(ours(z))
    fast = np.median([_once(lambda z, _: ours(z), z) for _ in range(options.repeats)])
    began = time.perf_counter()
    value = broadcast(np.asarray(z), np.asarray(labels), TEMPERATURE)
    assert abs(value / float(ours(z)[0]) - 1) < 1e-4
    return {"batch": b, "ours_ms": 1e3 * float(fast), "numpy_as_released_ms": 1e3 * (time.perf_counter() - began)}


def broadcast(z, labels, temperature):
    """Returns the same value through (2B, 2B, d) products in NumPy, without the gradient, which makes it faster."""
    scores = np.exp((z[:, None] * z[None]).sum(2) / temperature)
    same = labels[:, None] == labels[None]
    is_positive = same & ~np.eye(len(z), dtype=bool)
    positive, negative = (scores * is_positive).sum(1) / is_positive.sum(1), (scores * ~same).sum(1) / len(z)
    return (np.log1p(np.exp(-positive)) + np.log1p(np.exp(negative))).mean()


def of_torch(options):
    """Returns the milliseconds of each row in PyTorch, and numbers that must agree with those of JAX."""
    names = ("encoder", "width", "batch", "side", "repeats", "dtype", "loss_batch", "workers")
    words = json.dumps({name: getattr(options, name) for name in names})
    command = [options.torch_python, str(HERE / "step_torch.py"), words]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def agree(check, current):
    """Checks that both sides compute the same loss, with networks of the same size."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(32, 3, 8)).astype(np.float32)
    z, drawn = z / np.linalg.norm(z, axis=2, keepdims=True), rng.integers(0, 32, (32, 5))
    loss = losses.bns(z[:, :2], z[:, 2], jnp.arange(32), drawn, TEMPERATURE).mean()
    assert abs(check["bns"] / float(loss) - 1) < 1e-4, (check, float(loss))
    assert check["parameters"] == sum(x.size for x in jax.tree.leaves(current.params)), check


def show(report, options):
    print(f"{options.encoder}, width {options.width}, batch {options.batch}, {options.side} x {options.side}")
    print(f"{'':34}{'ms':>10}{'MFU':>8}{'temporary MiB':>16}")
    for name, row in report["step"].items():
        mfu = f"{row['mfu']:.2f}" if row["mfu"] else "-"
        print(f"{name:34}{row['ms']:>10.2f}{mfu:>8}{row['temporary_mib'] or 0:>16.0f}")
    for name, ms in report["host_ms"].items():
        rate = report["step"][name]["images_per_s"]
        print(f"{name}: {rate:.1f} images/s; the loop around it takes {ms:.2f} ms of Python a step")
    print("peak memory: " + ", ".join(f"{mib:.0f} MiB of the {where}" for where, mib in report["peak_mib"].items()))
    for name, shares in report["added"].items():
        cells = ", ".join(f"{readme.share_of(share)} by the {by}" for by, share in shares.items())
        print(f"{name} step and loop add to the network's own forward and backward: {cells}")
    loss = report["official_loss"]
    for name in ("numpy_as_released_ms", "torch_as_released_ms"):
        if name in loss:
            what = f"official loss, batch {loss['batch']}: {loss['ours_ms']:.1f} ms with its gradient"
            print(f"{what}, {loss[name]:.0f} ms in {name[:5]} as released: {loss[name] / loss['ours_ms']:.0f} times")
    for name, ms in report.get("torch", {}).items():
        print(f"PyTorch, {name:48}{ms:>10.2f} ms")
    steps = CIFAR10_LT // options.batch
    minutes = 1000 * steps * report["step"]["BNS step, whole"]["ms"] / 6e4
    print(f"1,000 epochs of {steps} such BNS steps, those of CIFAR-10-LT at 100: {minutes:.1f} minutes")


def words_of(words):
    return " ".join("--torch-python=PY" if word.startswith("--torch-python") else word for word in words)


sys.path.insert(0, str(HERE.parent))

if __name__ == "__main__":
    main()
