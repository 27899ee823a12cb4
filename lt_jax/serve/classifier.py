"""A finished run in a person's hands: images go in, probabilities come out. Needs the work directory, not the data."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from flax import linen as nn
from PIL import Image

from lt_jax import data
from lt_jax import models as encoder
from lt_jax.core import errors, extras, files, log
from lt_jax.data import decode, formats, walk
from lt_jax.dlsa import divide
from lt_jax.run import results
from lt_jax.stages import baseline, dlsa, pretrain, probe, retrain
from lt_jax.train import extract as features
from lt_jax.train import steps as step


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The final network of a run, with what it must know of its images."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]  # (h, w, c) of what the network sees
    view: str  # "centre": the middle of the shorter side, as evaluation crops image files; "whole": all of it
    upright: bool  # whether a photo is turned as its EXIF tag says
    network: nn.Module
    variables: Any
    batch_size: int
    divided: divide.Model | None = None  # of a DLSA run: it answers, from the network's features

    def predict(self, images: Any) -> np.ndarray:
        """Probabilities of the classes, (n, C) float32; rows sum to one.

        Args:
          images: uint8 (n, h, w, c) of the run's own size; or a list of paths and PIL images of any size, which are
            cropped and resized as evaluation does it. One path or PIL image counts as a list of one.

        Raises:
          BadInput: an array of another shape or type, a file that is missing or no image.
        """
        pixels = self.pixels(images)
        if not len(pixels):
            return np.zeros((0, len(self.class_names)), np.float32)
        size = min(self.batch_size, 1 << (len(pixels) - 1).bit_length())  # each size compiles once, so there are few
        found, logits = features.Extractor(self.network, size)(self.variables, pixels)
        if self.divided is not None:
            logits = divide.scores(self.divided, found)[0]
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def pixels(self, images: Any) -> np.ndarray:
        """What `predict` accepts -> uint8 (n, h, w, c). Raises as it does."""
        if isinstance(images, (str, os.PathLike, Image.Image)):
            images = [images]
        if hasattr(images, "shape"):
            return self._checked(np.asarray(images))
        return np.stack([self._sized(x) for x in images]) if len(images) else np.zeros((0, *self.image_shape), np.uint8)

    def probabilities(self, images: jax.Array) -> jax.Array:
        """uint8 (n, h, w, c) -> (n, C), pure: what is exported."""
        found, logits = step.infer(self.network)(self.variables, images)
        return jax.nn.softmax(logits if self.divided is None else self.divided(found)[0], axis=-1)

    def _checked(self, array):
        if array.dtype != np.uint8 or array.shape[1:] != self.image_shape:
            shape = " x ".join(map(str, ("n", *self.image_shape)))
            found = " x ".join(map(str, array.shape))
            raise errors.BadInput(f"images: expected uint8 of shape {shape}, found {array.dtype} of shape {found}")
        return array

    def _sized(self, image):
        shape, centre = self.image_shape[:2], self.view == "centre"
        if isinstance(image, Image.Image):
            return decode.sized(decode.from_pillow(image, self.upright), shape, centre)
        if not isinstance(image, (str, os.PathLike)):
            return self._checked(np.asarray(image)[None])[0]
        content, name = _content(image), log.printable(os.fspath(image))
        if centre:
            return decode.crops(content, name, decode.centre_box, shape[0], self.upright)[0]
        return decode.sized(decode.image(content, name, self.upright), shape, centre)


def _content(path):
    try:
        return epath.Path(_expanded(path)).read_bytes()
    except OSError as error:
        raise errors.BadInput(f"{log.printable(os.fspath(path))}: {(error.strerror or str(error)).lower()}") from error


def load(workdir: epath.PathLike) -> Classifier:
    """The classifier of a finished run.

    Raises:
      BadInput: the run is not finished, or has no classifier of images.
    """
    workdir = files.expand(workdir, "workdir")
    config, result = results.read(workdir)
    dataset = _described(workdir, result["dataset"])
    config = ml_collections.ConfigDict(config)
    about = result["dataset"]["images"]
    return Classifier(
        dataset.class_names,
        dataset.image_shape,
        about["view"],
        about["upright"],
        encoder.classifier(config.encoder, dataset.num_classes, config.dtype),
        _variables(config, workdir, dataset),
        config.evaluate.batch_size,
        dlsa.load(workdir, config.dlsa.classifier.kind) if "dlsa" in config.stages else None,
    )


def _variables(config, workdir, dataset):
    """Of the network whose logits, or for DLSA whose features, the answer is made from."""
    if "dlsa" in config.stages:
        return probe.with_new_head(config, dataset, pretrain.load(config, workdir, dataset), "probe/blank")
    return (retrain if "retrain" in config.stages else baseline).load(config, workdir, dataset)


def _described(workdir: epath.Path, about: dict[str, Any]) -> data.Dataset:
    """The data set of a run by its counts and sizes alone: as many images as there were, none of them there."""
    if "images" not in about:
        raise errors.BadInput(
            f"{workdir / 'result.json'} says nothing of its images, an older version wrote it: "
            "delete stages/evaluate.json there and run --stage=evaluate again"
        )
    if about["images"] is None:
        raise errors.BadInput(f"{workdir} holds a run on features, not on images")
    counts = np.array(about["counts"])
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    images = np.broadcast_to(np.uint8(0), (len(labels), *about["images"]["shape"]))
    split = data.Split(images, labels)
    names = tuple(about["class_names"])
    return data.Dataset(about["name"], names, split, split, counts, {}, about["index_digest"])


def find_images(names: Iterable[str]) -> list[epath.Path]:
    """Image files: those named as they are, and those anywhere below the folders named, by name, as in training.

    Raises:
      BadInput: a name that is not there, a folder without images.
    """
    paths: list[str] = []
    for named in names:
        path = _expanded(named)
        extras.check_bucket(path, "--images")
        if not epath.Path(path).is_dir():
            if not epath.Path(path).exists():
                raise errors.BadInput(f"--images: no such file or folder: {log.printable(named)}")
            paths.append(path)
            continue
        pictures, skipped = walk.images_and_skipped(walk.files_below(path))
        if not pictures:
            seen = f", but {walk.described(skipped, path)}" if skipped else f"; looked for {' '.join(formats.SUFFIXES)}"
            raise errors.BadInput(f"--images: no image below {log.printable(named)}{seen}")
        walk.say_skipped(skipped, path)
        paths += pictures
    if not paths:
        raise errors.BadInput("--images: expected a folder or files, found nothing")
    return [epath.Path(path) for path in paths]


def _expanded(path):
    """The path with `~` resolved, unless a file of that very name is there."""
    path = os.fspath(path)
    return path if os.path.lexists(path) else os.path.expanduser(path)
