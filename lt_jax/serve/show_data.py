"""`--stage=show_data`: counts, groups, splits, digests, duplicates, and a contact sheet of the data set."""

import functools
import io
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image, ImageDraw

from lt_jax import augment, data, losses, methods
from lt_jax.core import errors, files, log
from lt_jax.data import decode, splits
from lt_jax.train import state

_BALANCED, _RARE, _MANY = 2, 5, 20_000  # imbalance factor; images of a class; images in all
_ROWS = 8  # classes
_CELL = 96  # pixels
_PLAIN = {"strength": 0.0, "grey": 0.0, "blur": False}
FAMILIES = {
    "crop + flip": _PLAIN,
    **{name: {**_PLAIN, "policy": name} for name in augment.POLICIES},
    "cutout": {**_PLAIN, "cutout": 0.4},
    **{name: {**_PLAIN, "mix": name} for name in methods.MIXES},
}


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Prints the summary of the data set and writes `figures/contact_sheet.png`."""
    dataset = data.load(config.data)
    if len(dataset.train.images.shape) != 4:
        raise errors.BadInput(f"--stage=show_data: {dataset.name} holds no images")
    log.say("\n" + summary(dataset))
    picture = sheet(config, dataset)
    file = workdir / "figures" / "contact_sheet.png"
    content = io.BytesIO()
    picture.save(content, "PNG")
    files.write_bytes(file, content.getvalue())
    log.say(f"the contact sheet is {file}")
    return {}


def summary(dataset: data.Dataset) -> str:
    """Text with counts, groups, splits, digests, duplicates, and advice."""
    parts = _parts(dataset)
    order = np.argsort(-dataset.counts, kind="stable")
    largest = dataset.counts[order[0]]
    smallest = dataset.counts[order[-1]]
    lines = [
        f"{dataset.name}: {dataset.num_classes} classes, {largest} to {smallest} training images a class"
        + (f", imbalance factor {largest / smallest:.4g}" if smallest else ""),
        "splits: " + ", ".join(f"{name} {len(part.labels)}" for name, part in parts.items()),
        "groups: " + ", ".join(f"{name} {int(mask.sum())} classes" for name, mask in dataset.groups.items()),
        f"image: {' x '.join(map(str, dataset.image_shape))}, {_storage(dataset.train)}",
        f"digest of the data: {dataset.digest}",
        f"digest of the chosen training images: {dataset.index_digest}",
        f"skipped: {len(dataset.skipped)}",
    ]
    shown = [*order[:10], *order[max(10, len(order) - 5) :]]
    lines += [f"{dataset.counts[c]:>8} {dataset.class_names[c]}" for c in shown]
    return "\n".join(lines + _duplicates(dataset, parts) + advice(dataset.counts, dataset.class_names))


def advice(counts: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Lines of advice in plain words, from the training images of each class (C,)."""
    counts = np.asarray(counts)
    filled = counts[counts > 0]
    factor = filled.max() / filled.min()
    if factor < _BALANCED:
        lines = [f"imbalance factor {factor:.3g}: nearly balanced, so that a plain classifier does as well as others"]
    else:
        lines = [
            f"imbalance factor {factor:.3g}: plain cross-entropy will neglect the rare classes; take a method that "
            "corrects for class sizes, such as balanced_linear on a pretrained network or logit_adjustment"
        ]
    rare = [class_names[c] for c in np.argsort(counts, kind="stable") if counts[c] < _RARE]
    if rare:
        named = ", ".join(log.printable(name) for name in rare[:5]) + (", ..." if len(rare) > 5 else "")
        lines.append(
            f"{len(rare)} classes have fewer than {_RARE} images ({named}): what is measured on them is uncertain, and "
            "a few more images help more than any method"
        )
    if counts.sum() < _MANY:
        lines.append(
            f"{counts.sum()} training images are few to train a network from nothing: use a pretrained one, which "
            "configs/folder.py does without a token"
        )
    if 10 * filled.min() < filled.max():
        lines.append(
            f"to train from nothing: configs/folder.py:scratch,k={10 * filled.min()} keeps at most ten times as many "
            "images of a class as the smallest has, the rule of IP-DPP"
        )
    return ["advice:", *(f"  - {line}" for line in lines)]


def _storage(split: Any) -> Any:
    return "on the device" if split.in_memory else f"decoded as needed by {split.images.workers or 'no'} workers"


def _parts(dataset: Any) -> Any:
    splits_by_name = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {name: part for name, part in splits_by_name.items() if part is not None}


def _duplicates(dataset: Any, parts: Any) -> Any:
    digests = {name: splits.content_digests(as_images(part)) for name, part in parts.items()}
    names = list(parts)
    lines = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pairs = splits.duplicates(digests[first], digests[second])
            lines.append(f"images that {first} and {second} share: {len(pairs)}")
            for a, b in pairs[:3]:
                lines.append(f"    {as_images(parts[first]).name(a)} = {as_images(parts[second]).name(b)}")
    return lines


def as_images(split: data.Split) -> Any:
    """The images of the split with the interface of `data.images`."""
    return data.images_lib.Arrays(split.images, split.labels) if split.in_memory else split.images


def sheet(config: Any, dataset: data.Dataset) -> Image.Image:
    """Contact sheet of eight classes from largest to smallest: clean, configured augmentation, then every family."""
    order = np.argsort(-dataset.counts, kind="stable")
    order = order[dataset.counts[order] > 0]
    classes = order[np.unique(np.linspace(0, len(order) - 1, _ROWS).round().astype(int))]
    positions = [int(np.flatnonzero(dataset.train.labels == c)[0]) for c in classes]
    clean = np.stack([_whole(dataset.train, position) for position in positions])
    columns = {"clean": clean, **augmented(config, clean, dataset.train.labels[positions])}
    return _drawn(columns, [dataset.class_names[c] for c in classes])


def augmented(config: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Column title -> augmented uint8 images: the configured augmentation twice, then each family once.

    There are none in a run that augments nothing.
    """
    if not {"pretrain", "baseline"} & set(config):  # heads on a frozen encoder, which sees images as they are
        return {}
    own = config.pretrain.augment if "pretrain" in config else config.baseline.augment
    options_of = {"configured": own, "again": own}
    for name, changes in FAMILIES.items():
        options_of[name] = own.copy_and_resolve_references()
        options_of[name].update(changes)
    columns = {}
    for i, (name, options) in enumerate(options_of.items()):
        key = jax.random.fold_in(state.stream(config.seed, "show_data"), i)
        pixels = np.asarray(jax.jit(functools.partial(_one_family, labels=labels, options=options))(key, images))
        columns[name] = (pixels * 255).round().clip(0, 255).astype(np.uint8)
    return columns


def _one_family(key: Any, images: Any, *, labels: np.ndarray, options: Any) -> Any:
    k_augment, k_mix = jax.random.split(key)
    augmented_images = augment.apply(k_augment, images, options)
    if not options.mix:
        return augmented_images
    num_classes = int(labels.max()) + 1
    batch = (augmented_images, jax.nn.one_hot(labels, num_classes))
    partners = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), batch)
    mix = methods.entry("MIXES", options.mix, "config.augment.mix")
    return mix(k_mix, batch, partners, losses.Classes.of(np.ones(num_classes)))[0]


def _whole(split: Any, position: Any) -> Any:
    if split.in_memory:
        return split.images[position]
    return split.images.views(position, decode.centre_box)[0]


def _drawn(columns: Any, names: Any) -> Any:
    label_width = 120
    head_height = 16
    picture = Image.new("RGB", (label_width + _CELL * len(columns), head_height + _CELL * len(names)), "white")
    draw = ImageDraw.Draw(picture)
    for x, (title, images) in enumerate(columns.items()):
        draw.text((label_width + x * _CELL + 4, 2), title, fill="black")
        for y, image in enumerate(images):
            cell = Image.fromarray(image[..., :3]).resize((_CELL - 4, _CELL - 4), Image.Resampling.NEAREST)
            picture.paste(cell, (label_width + x * _CELL, head_height + y * _CELL))
    for y, name in enumerate(names):
        draw.text((4, head_height + y * _CELL + _CELL // 2), name[:18], fill="black")
    return picture
