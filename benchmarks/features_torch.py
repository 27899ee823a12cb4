"""The rows of benchmarks/features.py in PyTorch, eager. Does not import lt_jax.

python benchmarks/features_torch.py --serve BATCH
"""

import sys

import numpy as np
import torch
import worker
from torch import nn

SIDES = (160, 224)
# (blocks, channels, side of the kernel, stride, widening) of each stage of EfficientNet-Lite0.
STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)


def layer(inputs, outputs, side=1, stride=1, groups=1, is_last=False):
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-3)
    return nn.Sequential(convolution, norm) if is_last else nn.Sequential(convolution, norm, nn.ReLU6(inplace=True))


class Block(nn.Module):
    """Inverted bottleneck."""

    def __init__(self, inputs, outputs, side, stride, widening):
        super().__init__()
        wide = inputs * widening
        layers = [layer(inputs, wide)] if widening > 1 else []
        layers += [layer(wide, wide, side, stride, groups=wide), layer(wide, outputs, is_last=True)]
        self.layers = nn.Sequential(*layers)
        self.is_shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.is_shortcut else self.layers(x)


def network():
    """Returns EfficientNet-Lite0 without its classifier: images -> features (b, 1280)."""
    layers, channels = [layer(3, 32, 3, 2)], 32
    for blocks, outputs, side, stride, widening in STAGES:
        for number in range(blocks):
            layers.append(Block(channels, outputs, side, stride if number == 0 else 1, widening))
            channels = outputs
    return nn.Sequential(*layers, layer(channels, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def serve(batch):
    model = network()
    assert sum(p.numel() for p in model.parameters()) == 3_371_008  # as in lt_jax

    def row(side):
        images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)

        def run():
            with torch.inference_mode():
                return model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).numpy()

        return run

    worker.serve({f"{side} pixels": row(side) for side in SIDES})


if __name__ == "__main__":
    serve(int(sys.argv[2]))
