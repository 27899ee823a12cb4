"""Runs every encoder forward and backward in bfloat16 and float32, and writes each case at once. Started again, it
leaves out what is finished.

    python benchmarks/accelerator_smoke.py FILE [--rehearse]

A case is a classifier of one encoder, with the stem of small images or of ImageNet, whose loss and gradients must be
finite. Programs are compiled by several threads. After a process that died, the cases that it was at run one at a time;
a case that was alone at a second death counts as failed.
"""

import concurrent.futures
import json
import os
import pathlib
import sys
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs import common
from lt_jax import losses, models

CLASSES, THREADS = 10, 4
KINDS = ("resnet18", "resnet50", "resnext50", "vit_small")  # one of each kind of first layers and blocks
FULL = {"batch": 32, "small": 32, "imagenet": 64, "width": 64, "narrow": 16}
TINY = {"batch": 2, "small": 16, "imagenet": 32, "width": 16, "narrow": 4}  # of a block: at least 32 groups of one


def cases(is_rehearsal):
    """Returns (encoder, stem, dtype) of every case, the small stems first; for a rehearsal one encoder of a kind."""
    if is_rehearsal:
        return [(name, "small", "bfloat16") for name in ("resnet_small", "resnet32", *KINDS)] + [
            ("resnet18", "imagenet", "float32")
        ]
    small = [(name, "small", dtype) for dtype in ("bfloat16", "float32") for name in models.ENCODERS]
    return small + [(name, "imagenet", dtype) for dtype in ("bfloat16", "float32") for name in KINDS]


def compiled(case, sizes):
    """Returns (program, its arguments): the loss of one batch and its gradient."""
    name, stem, dtype = case
    width = sizes["narrow"] if name in ("resnet_small", "resnet32") else sizes["width"]
    network = models.classifier(common.encoder(name, width, stem), CLASSES, dtype)
    side = sizes[stem]
    x = jax.random.uniform(jax.random.key(0), (sizes["batch"], side, side, 3))
    y = jnp.arange(sizes["batch"]) % CLASSES
    shapes = jax.eval_shape(lambda key: models.initialise(network, key, x.shape[1:]), jax.random.key(1))
    variables = jax.tree.map_with_path(filled, shapes)

    def loss_and_gradient(params, stats, x, y):
        def loss_of(params):
            inputs = {"params": params, "batch_stats": stats}
            logits, moved = network.apply(inputs, x, train=True, mutable=["batch_stats"])
            return losses.cross_entropy(logits, y).mean(), moved

        (loss, _), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        return loss, gradient

    arguments = (variables["params"], variables["batch_stats"], x, y)
    return jax.jit(loss_and_gradient).lower(*arguments).compile(), arguments


def filled(path, leaf):
    """Returns values of one variable, drawn on the host: to compile the initialisation takes as long as the step."""
    if path[-1].key in ("scale", "var"):
        return np.ones(leaf.shape, leaf.dtype)
    if leaf.ndim < 2:
        return np.zeros(leaf.shape, leaf.dtype)
    values = np.random.default_rng(leaf.size).normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return values.astype(leaf.dtype)


def measured(program, arguments):
    """Returns loss, norm of the gradient and whether all of both is finite; raises where it is not."""
    loss, gradient = jax.device_get(program(*arguments))
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradient)]
    norm = float(np.sqrt(sum((leaf**2).sum() for leaf in leaves)))
    if not np.isfinite(loss) or not np.isfinite(norm) or norm == 0:
        raise FloatingPointError(f"expected a finite loss and gradient, found a loss of {loss} and a norm of {norm}")
    return {"status": "ok", "loss": float(loss), "gradient_norm": norm}


class Record:
    """The file of results: finished cases, and how often a process has begun each unfinished one."""

    def __init__(self, path):
        self._path = path
        self.content = json.loads(path.read_text()) if path.exists() else {"cases": {}, "begun": {}}
        for name, times in list(self.content["begun"].items()):
            if times >= 2:
                self.finish(name, {"status": "failed", "error": ["the process died in this case"]})

    def begin(self, name):
        self.content["begun"][name] = self.content["begun"].get(name, 0) + 1
        self._write()

    def finish(self, name, result):
        self.content["begun"].pop(name, None)
        self.content["cases"][name] = result
        self._write()

    def _write(self):
        beside = self._path.with_suffix(".part")
        beside.write_text(json.dumps(self.content, indent=1))
        os.replace(beside, self._path)


def main(path, is_rehearsal):
    record, sizes, every = Record(path), TINY if is_rehearsal else FULL, cases(is_rehearsal)
    unfinished = {name: case for case in every if not _is_ok(record, name := " ".join(case))}
    threads = 1 if record.content["begun"] else THREADS
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        names = iter(unfinished)
        running = {}
        while True:
            while len(running) < threads and (name := next(names, None)):
                record.begin(name)
                running[pool.submit(one, unfinished[name], sizes)] = name
            if not running:
                break
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                name, result = running.pop(future), future.result()
                record.finish(name, result)
                print(f"{name}: {result['status']}, {result['seconds']:.1f} s", flush=True)
    return all(_is_ok(record, " ".join(case)) for case in every)


def _is_ok(record, name):
    return record.content["cases"].get(name, {}).get("status") == "ok"


def one(case, sizes):
    """Returns the result of one case; an exception is part of it."""
    began = time.monotonic()
    try:
        result = measured(*compiled(case, sizes))
    except Exception:
        result = {"status": "failed", "error": traceback.format_exc().splitlines()[-20:]}
    return {**result, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(0 if main(pathlib.Path(sys.argv[1]), "--rehearse" in sys.argv) else 1)
