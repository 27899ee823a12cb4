"""The fit of benchmarks/dlsa.py in PyTorch, written from the published description. Needs only PyTorch and NumPy.

    python benchmarks/dlsa_torch.py ITEMS WIDTH CLUSTERS BATCH STEPS

Two forms: distances to the centres as differences of shape (batch, clusters, width), and by one matrix product. Prints
one JSON line: form -> images/s, the median of three measurements after a warm-up run.
"""

import json
import math
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Masked(nn.Linear):
    def __init__(self, rows, columns, mask):
        super().__init__(rows, columns)
        self.register_buffer("mask", mask)

    def forward(self, x):
        return functional.linear(x, self.weight * self.mask, self.bias)


class Block(nn.Module):
    """One MADE in affine form, then BatchNorm with its log-determinant."""

    def __init__(self, width, flipped):
        super().__init__()
        order = torch.arange(width).flip(0) if flipped else torch.arange(width)
        hidden = torch.arange(width) % max(width - 1, 1)
        masks = [hidden[:, None] >= order, hidden[:, None] >= hidden, ((order - 1)[:, None] >= hidden).repeat(2, 1)]
        sizes = [(width, width), (width, width), (width, 2 * width)]
        layers = [Masked(*size, mask.float()) for size, mask in zip(sizes, masks, strict=True)]
        self.net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.log_gamma, self.beta = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x):
        shift, log_scale = self.net(x).chunk(2, dim=1)
        u = (x - shift) * torch.exp(-log_scale)
        mean, variance = u.mean(0), u.var(0)
        self.mean.mul_(0.9).add_(0.1 * mean.detach())
        self.variance.mul_(0.9).add_(0.1 * variance.detach())
        scale = self.log_gamma - 0.5 * torch.log(variance + 1e-5)
        return (u - mean) * torch.exp(scale) + self.beta, -log_scale.sum(1) + scale.sum()


def by_difference(z, centres):
    return -0.5 * ((z[:, None, :] - centres[None]) ** 2).sum(-1)


def by_product(z, centres):
    return z @ centres.T - 0.5 * (centres**2).sum(1) - 0.5 * (z**2).sum(1, keepdim=True)


def fit(logits_of, x, weights, labels, clusters, batch, steps):
    torch.manual_seed(0)
    width = x.shape[1]
    blocks = nn.ModuleList([Block(width, number % 2 == 1) for number in range(2)])
    centres = 0.05 * torch.randn(clusters, width)
    optimiser = torch.optim.SGD(blocks.parameters(), lr=0.05)
    generator, seconds, running, count = np.random.default_rng(0), [], torch.zeros(clusters), 0
    for _ in range(4):
        pairs = torch.from_numpy(generator.integers(0, len(x), (steps, 2, batch)))
        began = time.monotonic()
        for positive, negative in pairs:
            outputs = []
            for chosen in (positive, negative):
                z, log_det = x[chosen], torch.zeros(batch)
                for block in blocks:
                    z, gained = block(z)
                    log_det = log_det + gained
                outputs.append((logits_of(z, centres), log_det))
            (logits, log_det), (negative_logits, _) = outputs
            count += 1
            constant = math.log(clusters) + 0.5 * width * math.log(2 * math.pi)
            log_p = torch.logsumexp(logits, 1) - constant + log_det
            running = 0.7 * running.detach() + 0.3 * logits.softmax(1).mean(0)
            mean = running / (1 - 0.7**count)
            balance = math.log(clusters) + (mean * torch.log(mean.clamp_min(1e-30))).sum()
            purity = (logits.detach().softmax(1) * negative_logits.log_softmax(1)).sum(1).mean()
            loss = -2.0 * (weights[labels[positive]] * log_p).mean() + balance + 0.02 * purity
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        seconds.append(time.monotonic() - began)
    return steps * batch / float(np.median(seconds[1:]))


def main():
    items, width, clusters, batch, steps = map(int, sys.argv[1:])
    generator = np.random.default_rng(0)
    x = torch.from_numpy(generator.normal(size=(items, width)).astype(np.float32))
    labels = torch.from_numpy(generator.integers(0, 100, items))
    weights = torch.full((100,), 0.01)
    forms = {"PyTorch, differences as released": by_difference, "PyTorch, one matrix product": by_product}
    print(json.dumps({n: fit(f, x, weights, labels, clusters, batch, steps) for n, f in forms.items()}))


if __name__ == "__main__":
    main()
