"""ResNet-32 of the CIFAR experiments in PyTorch, eager and compiled, for benchmarks/step.py; needs nothing of ours.

    python benchmarks/step_torch.py BATCH SIDE REPEATS LOSS_BATCH

Prints one JSON line: milliseconds, medians.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

TEMPERATURE, CLASSES = 0.5, 10


class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - before

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return F.relu(x + y)


class ResNet32(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks, before = [], 16
        for width in (16, 32, 64):
            for i in range(5):
                blocks.append(Block(before, width, 2 if width > 16 and i == 0 else 1))
                before = width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


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


def official_broadcast(z, labels):
    """With its gradient: cosines through a (2B, 2B, d) tensor, as released."""
    z = z.requires_grad_()
    scores = torch.exp(F.cosine_similarity(z[:, None], z[None], dim=2) / TEMPERATURE)
    same = labels[:, None] == labels[None]
    others = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = torch.where(others, scores, 0).sum(1) / others.sum(1)
    negative = torch.where(same, 0, scores).sum(1) / len(z)
    loss = -(F.logsigmoid(positive) + F.logsigmoid(-negative)).mean()
    loss.backward()
    return loss


def main(batch, side, repeats, loss_batch):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = ResNet32().to(device)
    x = torch.rand(batch, 3, side, side, device=device)
    y = torch.randint(0, CLASSES, (batch,), device=device)

    def both_ways(network):
        def run():
            model.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), y).backward()

        return run

    found = {"ResNet-32 forward and backward, eager": median_ms(both_ways(model), repeats)}
    try:
        compiled = torch.compile(model)
        found["ResNet-32 forward and backward, compiled"] = median_ms(both_ways(compiled), repeats)
    except Exception as error:  # no compiler on this machine, say
        print(f"torch.compile: {error}", file=sys.stderr)
    labels = torch.randint(0, CLASSES, (loss_batch,)).repeat(2)
    z = F.normalize(torch.randn(2 * loss_batch, 128), dim=1)
    found["official loss, as released"] = median_ms(lambda: official_broadcast(z.detach(), labels), 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
