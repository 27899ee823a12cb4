"""Features of a frozen encoder on disk, in float16: computed once, and resumed after a kill.

While a pass runs, `features/NAME.parts-KEY/` has a file for every `PART` images. When it is complete these become
`features/NAME.features.npy`, and `features/NAME.json` says which key it has. The key is a digest of all that features
depend on, so features of other images, weights or preprocessing are never used.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from lt_jax.core import distributed, errors, files, log
from lt_jax.train import extract

PART = 4096  # images in a file: the most work that a kill can lose


def features(
    workdir: epath.Path, name: str, key: str, extractor: extract.Extractor, variables: dict[str, Any], images: Any
) -> np.ndarray:
    """Features (n, d) float16 of the images of a split, memory-mapped where the disk is local.

    Args:
      name: of the split.
      key: digest of the images, the weights and the preprocessing.
      extractor: of the network.
      images: of the split, in memory or decoded on demand.

    Raises:
      RunFailed: a feature is not finite, or too large for float16.
    """
    folder = workdir / "features"
    whole, about, parts = folder / f"{name}.features.npy", folder / f"{name}.json", folder / f"{name}.parts-{key}"
    is_complete = (files.read_json(about) or {}).get("key") == key and whole.exists()
    if not is_complete:
        count = -(-len(images) // PART)
        start = next((number for number in range(count) if not _part(parts, number).exists()), count)
        distributed.wait(f"features of {name}: all know which parts there are")
        _extract(parts, start, name, extractor, variables, images)
        if distributed.is_main():
            _remove_parts(folder, name, but=parts.name)
            about.unlink(missing_ok=True)  # it describes the features that are replaced now
            _join(whole, [_part(parts, number) for number in range(count)])
        files.write_json(about, {"key": key, "images": len(images)})
        if distributed.is_main():
            parts.rmtree()
        distributed.wait(f"features of {name} are complete")
    return _load(whole)


def key(config: Any, image_shape: tuple[int, ...], view: str, images: str | None, weights: str | None) -> str:
    """The key of the features that the encoder of a config has for some images.

    Args:
      image_shape: (h, w, c) of the network input.
      view: what of an image is looked at.
      images: digest of the images.
      weights: digest of the file of weights.
    """
    encoder = {name: value for name, value in config.encoder.items() if name not in ("weights", "remat", "flips")}
    return files.json_digest([encoder, config.dtype, list(image_shape), view, images, weights])


def _extract(parts: epath.Path, start: int, name: str, extractor: Any, variables: dict[str, Any], images: Any) -> None:
    """Writes the parts from `start` on."""
    first = start * PART
    if first >= len(images):
        return
    if first:
        log.say(f"features of {name}: {first} of {len(images)} images are on disk already")
    positions = np.arange(first, len(images))
    remaining = images[first:] if isinstance(images, np.ndarray) else images.select(positions)
    progress = log.Progress(f"features of {name}", len(images), first, 1)
    for number, rows in enumerate(_in_parts(extractor.batches(variables, remaining)), start):
        if not (np.abs(rows) <= np.finfo(np.float16).max).all():  # NaN is not below it either
            raise errors.RunFailed(f"a feature of {name} is not finite, or too large for float16")
        files.write_npy(_part(parts, number), rows.astype(np.float16))
        progress.update(min((number + 1) * PART, len(images)))
    progress.close()


def _in_parts(batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """The features of batches, regrouped to `PART` rows; the last part may be shorter."""
    waiting: list[np.ndarray] = []
    for rows, _ in batches:
        waiting.append(rows)
        while sum(map(len, waiting)) >= PART:
            joined = np.concatenate(waiting)
            yield joined[:PART]
            waiting = [joined[PART:]]
    joined = np.concatenate(waiting)
    if len(joined):
        yield joined


def _part(parts: epath.Path, number: int) -> epath.Path:
    return parts / f"{number:05d}.npy"


def _remove_parts(folder: epath.Path, name: str, but: str) -> None:
    """Removes what unfinished passes with other keys have left."""
    for path in folder.glob(f"{name}.parts-*"):
        if path.name != but:
            path.rmtree()


def _join(whole: epath.Path, parts: list[epath.Path]) -> None:
    """Writes all parts into one file, one part at a time."""
    shapes = [_load(part).shape for part in parts]
    form = {"descr": "<f2", "fortran_order": False, "shape": (sum(rows for rows, _ in shapes), shapes[0][1])}
    beside = whole.with_name(whole.name + f".tmp{os.getpid()}") if _is_local(whole) else whole
    with files.clear_errors(whole):
        with beside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, form)
            for part in parts:
                file.write(_load(part).tobytes())
        if beside != whole:
            os.replace(beside, whole)


def _load(path: epath.Path) -> np.ndarray:
    return np.load(path, mmap_mode="r") if _is_local(path) else np.load(path.open("rb"))


def _is_local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)
