"""The BNS step of the CIFAR recipe in PyTorch, in two forms: optimized for speed, and as the released code trains.

benchmarks/step_torch.py uses it. It does not import lt_jax; only the released form needs torchvision.

Fast: images stay on the device. The views of a whole batch are made there, compiled together with network and loss.
channels_last on a GPU, bfloat16 autocast if requested, fused AdamW. Two simplifications make it a little faster than
training would be: the colour operations have a fixed order, and the learning rate is constant.
Released: torchvision makes two views of an image in worker processes on the host. The network runs once per view, the
loss goes through a (2B, 2B, d) tensor, float16 autocast on a GPU, eager.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

TEMPERATURE, CLASSES, N = 0.5, 10, 16
STAGES = {"resnet32": (5, 5, 5), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
LUMA = (0.299, 0.587, 0.114)


class Block(nn.Module):
    def __init__(self, before, width, stride, is_padded):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.stride, self.missing, self.shortcut = stride, width - before, None
        if not is_padded and (stride > 1 or self.missing):
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return F.relu(x + y)


class ResNet(nn.Module):
    """A ResNet with the small stem; `head(width)` returns the module that is applied to the pooled features."""

    def __init__(self, name, width, head):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks, before = [], width
        for i, count in enumerate(STAGES[name]):
            for j in range(count):
                blocks.append(Block(before, width * 2**i, 2 if i and j == 0 else 1, name == "resnet32"))
                before = width * 2**i
        self.blocks, self.head = nn.Sequential(*blocks), head(before)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def projector(before):
    return nn.Sequential(nn.Linear(before, 2048), nn.ReLU(), nn.Linear(2048, 128))


class Fast:
    """A pretraining step with m = 1. Every call uses the same batch."""

    def __init__(self, options, device, is_compiled):
        rng = np.random.default_rng(0)
        shape = (4 * options["batch"], 3, options["side"], options["side"])
        self.images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).to(device)
        self.labels = torch.from_numpy(rng.integers(0, CLASSES, shape[0])).to(device)
        anchors = torch.arange(options["batch"], device=device)
        self.batch = torch.stack([anchors, anchors + options["batch"]], 1)
        self.autocast = {"device_type": device, "dtype": torch.bfloat16, "enabled": options["dtype"] == "bfloat16"}
        self.network = ResNet(options["encoder"], options["width"], projector)
        self.network = self.network.to(device, memory_format=layout(device))
        self.optimiser = adamw(self.network, fused=True)
        self.loss_of = torch.compile(self.loss) if is_compiled else self.loss

    def __call__(self):
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss_of(self.batch)
        loss.backward()
        self.optimiser.step()
        return loss

    def loss(self, batch):
        images = self.images[batch]
        views = torch.cat([images, images[:, :1]], 1).flatten(0, 1).float() / 255
        with torch.no_grad():
            views = simclr(views).contiguous(memory_format=layout(views.device.type))
        with torch.autocast(**self.autocast):
            z = self.network(views)
        z = F.normalize(z.float(), dim=1).view(len(batch), 3, -1)
        labels = self.labels[batch[:, 0]]
        return bns(z[:, :2], z[:, 2], negatives(labels, N))


def layout(device):
    """Returns the faster memory format: channels_last is slower in compiled programs on two CPU cores."""
    return torch.channels_last if device == "cuda" else torch.contiguous_format


def adamw(network, **options):
    weights = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), **options)


def bns(queries, keys, drawn):
    """Returns the mean loss of Eq. 12: queries (B, 1 + m, d), keys (B, d), rows of keys (B, n)."""
    b, columns, _ = queries.shape
    positive = (queries * keys[:, None]).sum(2) / TEMPERATURE
    similarities = (queries.flatten(0, 1) @ keys.T / TEMPERATURE).view(b, columns, b)
    negative = similarities.gather(2, drawn[:, None].expand(-1, columns, -1))
    return -(F.logsigmoid(positive) + F.logsigmoid(-negative).sum(2)).mean()


def negatives(labels, n):
    """Returns (B, n) key rows: first a uniform draw among the other classes of the batch, then one within that class.

    The batch must contain at least two classes.
    """
    b, device = len(labels), labels.device
    counts = F.one_hot(labels, CLASSES).sum(0)
    first, is_there = counts.cumsum(0) - counts, counts > 0
    by_rank, own = torch.argsort((~is_there).int(), stable=True), (is_there.cumsum(0) - 1)[labels]
    rank = (torch.rand(b, n, device=device) * (is_there.sum() - 1)).long()
    drawn = by_rank[rank + (rank >= own[:, None])]
    row = first[drawn] + (torch.rand(b, n, device=device) * counts[drawn]).long()
    return torch.argsort(labels)[torch.minimum(row, first[drawn] + counts[drawn] - 1)]


def simclr(x, strength=1.0):
    """Crops, flips, jitters, greys and blurs images (b, 3, h, w) in 0..1, each with its own random numbers."""

    def uniform(low, high):
        return low + (high - low) * torch.rand(len(x), 1, 1, 1, device=x.device)

    x = crop(x)
    x = torch.where(uniform(0, 1) < 0.5, x.flip(3), x)
    reach = 0.8 * strength
    y = x
    for change in (brightness, contrast, saturation):
        y = change(y, uniform(max(0.0, 1 - reach), 1 + reach))
    y = hue(y, uniform(-0.2 * strength, 0.2 * strength))
    x = torch.where(uniform(0, 1) < 0.8, y, x)
    x = torch.where(uniform(0, 1) < 0.2, grey(x), x)
    return blur(x, uniform(0.1, 2.0))


def crop(x, smallest=0.08, tries=10):
    """Random resized crop, computed as two small matrix products per image."""
    b, _, h, w = x.shape
    area = h * w * (smallest + (1 - smallest) * torch.rand(b, tries, device=x.device))
    ratio = torch.exp((2 * torch.rand(b, tries, device=x.device) - 1) * math.log(4 / 3))
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths <= w) & (heights <= h)
    first = fits.int().argmax(1, keepdim=True)
    width = torch.where(fits.any(1), widths.gather(1, first)[:, 0], w)
    height = torch.where(fits.any(1), heights.gather(1, first)[:, 0], h)
    top = torch.floor(torch.rand(b, device=x.device) * (h - height + 1))
    left = torch.floor(torch.rand(b, device=x.device) * (w - width + 1))
    return bilinear(top, height, h)[:, None] @ x @ bilinear(left, width, w).transpose(1, 2)[:, None]


def bilinear(start, length, size):
    start, length = start[:, None], length[:, None]
    pixels = torch.arange(size, device=start.device, dtype=torch.float32)
    source = start + ((pixels[None] + 0.5) * length / size - 0.5).clamp(min=0.0).minimum(length - 1)
    return (1 - (source[:, :, None] - pixels).abs()).clamp(min=0.0)


def grey(x):
    return sum(weight * x[:, i : i + 1] for i, weight in enumerate(LUMA)).expand_as(x)


def brightness(x, factor):
    return (x * factor).clamp(0, 1)


def contrast(x, factor):
    return (factor * x + (1 - factor) * grey(x).mean((1, 2, 3), keepdim=True)).clamp(0, 1)


def saturation(x, factor):
    return (factor * x + (1 - factor) * grey(x)).clamp(0, 1)


def hue(x, shift):
    r, g, b = x.unbind(1)
    high, low = x.amax(1), x.amin(1)
    chroma = high - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    sixth = torch.where(high == r, (g - b) / safe, torch.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    turned = sixth + 6 * shift[:, 0]

    def channel(n):
        k = torch.remainder(n + turned, 6)
        return high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)


def blur(x, sigma):
    side = torch.exp(-0.5 / sigma**2)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    rows = padded[:, :, 1:-1] + side * (padded[:, :, :-2] + padded[:, :, 2:])
    return (rows[..., 1:-1] + side * (rows[..., :-2] + rows[..., 2:])) / (1 + 2 * side) ** 2


def official_broadcast(z, labels):
    """The official loss: cosines through a (2B, 2B, d) tensor, as released."""
    scores = torch.exp(F.cosine_similarity(z[:, None], z[None], dim=2) / TEMPERATURE)
    same = labels[:, None] == labels[None]
    is_positive = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = torch.where(is_positive, scores, 0).sum(1) / is_positive.sum(1)
    negative = torch.where(same, 0, scores).sum(1) / len(z)
    return -(F.logsigmoid(positive) + F.logsigmoid(-negative)).mean()


class TwoViews(torch.utils.data.Dataset):
    """Images in memory; an item is two torchvision views of an image, and its label."""

    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        from PIL import Image

        image = Image.fromarray(self.images[i])
        return self.transform(image), self.transform(image), self.labels[i]


def released(options, device, steps):
    """Trains in the released form and yields the loss of each of `steps` steps."""
    from torchvision import transforms

    side = options["side"]
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, scale=(0.08, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.GaussianBlur(3, (0.1, 2.0)),
            transforms.ToTensor(),
        ]
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps * options["batch"], side, side, 3), dtype=np.uint8)
    data = TwoViews(images, rng.integers(0, CLASSES, len(images)), transform)
    is_gpu = device == "cuda"
    loader = torch.utils.data.DataLoader(
        data, options["batch"], shuffle=True, drop_last=True, num_workers=options["workers"], pin_memory=is_gpu
    )
    network = ResNet(options["encoder"], options["width"], projector).to(device)
    optimiser, scaler = adamw(network), torch.amp.GradScaler(device, enabled=is_gpu)
    for first, second, labels in loader:
        first, second = first.to(device, non_blocking=True), second.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        optimiser.zero_grad()
        with torch.autocast(device, torch.float16, enabled=is_gpu):
            z = torch.cat([F.normalize(network(view), dim=1) for view in (first, second)])
            loss = official_broadcast(z, torch.cat([labels, labels]))
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        yield loss.item()
