"""Estimates the cost of one pretraining step on a slice of TPU v5e.

    python launch/scaling.py [--chips=256] [--batch=1024]

Sizes are those of configs/inat2018.py; nothing here was measured on such a machine.
"""

import argparse

IMAGE, BLOCKS = 224, (3, 4, 6, 3)  # ResNet-34
PARAMETERS = 22_597_568  # encoder 21,284,672 and projector 1,312,896
NORMS, CHANNELS = 36, 8_512  # BatchNorm layers and channels of all of them
M, DIMENSIONS = 1, 128  # partners of an anchor, width of the embedding
PEAK = 197e12  # bf16 operations a second of a chip, as published
LINKS = 200e9  # bytes a second that a chip sends over all its links: the published all-reduce rate of a pod / 256
UTILISATION = 0.4  # ASSUMED share of the peak that a ResNet reaches
HOP = 1e-6  # ASSUMED seconds from chip to neighbour
HOST_CHIPS = 4
DECODES = 930.0  # images a second and core, each decoded once and cropped twice: benchmarks/results/input.json


def forward_macs(side=IMAGE, blocks=BLOCKS):
    """Returns the multiply-adds of one image: 7x7 stem, pool, four stages of 3x3 pairs; a stage halves the image."""
    side //= 2
    total = side**2 * 64 * 3 * 49
    side, before = side // 2, 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        if stage:
            side //= 2
            total += side**2 * width * before  # 1x1 convolution of the shortcut
        total += side**2 * width * before * 9 + (2 * count - 1) * side**2 * width**2 * 9
        before = width
    return total


def step(chips, batch):
    """Returns name -> (value, unit) of one step."""
    views = batch * (1 + M + 1)  # the anchor and its partners, then the anchor's key
    operations = 2 * 3 * views * forward_macs()  # the backward pass is twice the forward pass
    compute = operations / chips / (PEAK * UTILISATION)
    share = (chips - 1) / chips
    gradient = 2 * share * PARAMETERS * 4  # reduce-scatter, then all-gather, float32
    keys = share * batch * DIMENSIONS * 4
    side = round(chips**0.5)
    norms = 2 * NORMS * 2 * 2 * (side - 1) * HOP  # forward and backward; both axes, both directions
    exchange = gradient / LINKS + norms
    local = batch / chips
    return {
        "arithmetic of a step, all chips": (operations / 1e12, "T operations"),
        "arithmetic, time": (1e3 * compute, "ms"),
        "gradient, bytes sent by a chip": (gradient / 1e6, "MB"),
        "gradient, time": (1e3 * gradient / LINKS, "ms"),
        "keys gathered and their gradient, bytes sent by a chip": (2 * keys / 1e6, "MB"),
        "keys sent round, again for the gradient, and back": (3 * keys / 1e6, "MB"),
        "keys sent round, time of the hops": (1e3 * 2 * (chips - 1) * HOP, "ms"),
        "similarities on a chip, keys gathered": (local * (1 + M) * batch * 4 / 1e6, "MB"),
        "similarities on a chip, keys sent round": (local * (1 + M) * local * 4 / 1e6, "MB"),
        "BatchNorm over the global batch, bytes reduced": (2 * 2 * CHANNELS * 4 / 1e6, "MB"),
        "BatchNorm over the global batch, time of the hops": (1e3 * norms, "ms"),
        "efficiency, nothing overlaps": (100 * compute / (compute + exchange), "%"),
        "efficiency, the gradient overlaps": (100 * compute / (compute + norms), "%"),
        "cores of a host that decode as fast": (
            batch * (1 + M) / (chips / HOST_CHIPS) / (compute + norms) / DECODES,
            "cores",
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 8192])
    options = parser.parse_args()
    print(table(options.chips, options.batch))


def table(chips, batches):
    """Returns a Markdown table: one row per quantity, one column per global batch."""
    columns = [step(chips, batch) for batch in batches]
    lines = ["| " + " | ".join([f"{chips} chips, global batch", *map(str, batches)]) + " |"]
    lines += ["|" + "---|" * (1 + len(batches))]
    for name, (_, unit) in columns[0].items():
        lines.append("| " + " | ".join([name, *(f"{column[name][0]:.3g} {unit}" for column in columns)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
