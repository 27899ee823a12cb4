"""Measures the rows of benchmarks/step.py in PyTorch, eager and compiled. Does not import lt_jax.

    python benchmarks/step_torch.py '{"encoder": "resnet32", "width": 16, "batch": 128, "side": 32, "repeats": 30, \
"dtype": "float32", "loss_batch": 512, "workers": 2}'

Prints one JSON line: milliseconds (medians), and two numbers that step.py compares with its own: the BNS loss of arrays
that both draw with the same seed, and the number of parameters of the network.
"""

import json
import statistics
import sys
import time

import bns_torch
import numpy as np
import torch
import worker
from torch import nn
from torch.nn import functional as F

RELEASED_STEPS = 12  # the first ones wait for the workers to start
STARTING = 4


def main(options):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as in JAX
    torch.backends.cudnn.benchmark = True
    ms = {}
    for how in ("eager", "compiled"):
        try:
            network = supervised(options, device, how == "compiled")
            ms[f"{options['encoder']} forward and backward, {how}"] = median_ms(network, options["repeats"])
            step = bns_torch.Fast(options, device, how == "compiled")
            ms[f"BNS step, {how}"] = median_ms(step, -(-options["repeats"] // 2))
        except Exception as error:
            if how == "eager":
                raise
            print(f"torch.compile: {error}", file=sys.stderr)  # for instance, no compiler on this machine
    ms["official loss, as released"] = official(options, device)
    ms |= released(options, device)
    network = bns_torch.ResNet(options["encoder"], options["width"], bns_torch.projector)
    parameters = sum(p.numel() for p in network.parameters())
    print(json.dumps({"ms": ms, "check": {"bns": check(), "parameters": parameters}}))


def median_ms(function, repeats):
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def supervised(options, device, is_compiled, is_whole=False):
    """Returns a function of the forward and backward pass; `is_whole` adds the update of the weights."""
    model = bns_torch.ResNet(options["encoder"], options["width"], lambda size: nn.Linear(size, bns_torch.CLASSES))
    model = model.to(device, memory_format=bns_torch.layout(device))
    x = torch.rand(options["batch"], 3, options["side"], options["side"], device=device)
    y = torch.randint(0, bns_torch.CLASSES, (options["batch"],), device=device)
    network = torch.compile(model) if is_compiled else model
    optimiser = bns_torch.adamw(model, fused=True)

    def run():
        model.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=options["dtype"] == "bfloat16"):
            loss = F.cross_entropy(network(x), y)
        loss.backward()
        if is_whole:
            optimiser.step()

    return run


def official(options, device):
    """Returns the milliseconds of the official loss with its gradient."""
    labels = torch.randint(0, bns_torch.CLASSES, (options["loss_batch"],), device=device).repeat(2)
    z = F.normalize(torch.randn(2 * options["loss_batch"], 128, device=device), dim=1)
    return median_ms(lambda: bns_torch.official_broadcast(z.detach().requires_grad_(), labels).backward(), 3)


def released(options, device):
    times = [time.perf_counter()]
    try:
        for _ in bns_torch.released(options, device, RELEASED_STEPS):
            times.append(time.perf_counter())
    except ImportError as error:
        print(f"the released way is left out: {error}", file=sys.stderr)
        return {}
    spent = (times[-1] - times[STARTING]) / (RELEASED_STEPS - STARTING)
    return {f"step of the released way, {options['workers']} workers": 1e3 * spent}


def serve(how, options):
    """Serves the rows of a column of benchmarks/convolution.py."""
    is_compiled = how == "compiled"
    rows = {
        "network, forward and backward": supervised(options, "cpu", is_compiled),
        "supervised step, whole": supervised(options, "cpu", is_compiled, is_whole=True),
        "BNS step, whole": bns_torch.Fast(options, "cpu", is_compiled),
    }
    worker.serve(rows)


def check():
    """Returns the BNS loss of seeded arrays, and checks that negatives are of other classes."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(32, 3, 8)).astype(np.float32)
    z, drawn = torch.from_numpy(z / np.linalg.norm(z, axis=2, keepdims=True)), rng.integers(0, 32, (32, 5))
    labels = torch.from_numpy(rng.integers(0, bns_torch.CLASSES, 32))
    own = bns_torch.negatives(labels, 64)
    assert (labels[own] != labels[:, None]).all()
    return float(bns_torch.bns(z[:, :2], z[:, 2], torch.from_numpy(drawn)))


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main(json.loads(sys.argv[1]))
