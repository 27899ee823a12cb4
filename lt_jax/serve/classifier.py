"""The classifier of a finished run: images to class probabilities. Needs the work directory, not the data."""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from flax import linen as nn
from PIL import Image

from lt_jax import losses, models
from lt_jax.core import errors, extras, files, log
from lt_jax.data import decode, formats, walk
from lt_jax.dlsa import divide
from lt_jax.run import results
from lt_jax.stages import baseline, dlsa, heads
from lt_jax.stages import features as features_lib
from lt_jax.train import checkpoint, extract, steps


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The final network of a run, with the class names and the image format that it expects."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]  # (h, w, c) of the network input
    view: str  # "centre": central crop, as evaluation takes it of image files; "whole": the whole image
    upright: bool  # photos are rotated by their EXIF tag
    network: nn.Module
    variables: Any
    batch_size: int
    head: Any = None  # computes the logits from the network's features, in place of the network's own head
    prior: Any = None  # (C,), subtracted from the logits
    method: str = ""  # its name in result.json

    def predict(self, images: Any) -> np.ndarray:
        """Class probabilities (n, C) float32; rows sum to one.

        Args:
          images: uint8 (n, h, w, c) of the run's image size; or a list of paths and PIL images of any size, which are
            cropped and resized as in evaluation; or a single path or PIL image.

        Raises:
          BadInput: an array of another shape or type, a missing file, or a file that is not an image.
        """
        pixels = self.pixels(images)
        if not len(pixels):
            return np.zeros((0, len(self.class_names)), np.float32)
        size = min(self.batch_size, 1 << (len(pixels) - 1).bit_length())  # powers of two: few compilations
        feature_vectors, logits = extract.Extractor(self.network, size)(self.variables, pixels)
        return np.asarray(jax.nn.softmax(self._logits(feature_vectors, logits), axis=-1))

    def pixels(self, images: Any) -> np.ndarray:
        """The images that `predict` accepts, as uint8 (n, h, w, c). Raises the same errors."""
        if isinstance(images, (str, os.PathLike, Image.Image)):
            images = [images]
        if hasattr(images, "shape"):
            return self._checked(np.asarray(images))
        return np.stack([self._sized(x) for x in images]) if len(images) else np.zeros((0, *self.image_shape), np.uint8)

    def probabilities(self, images: jax.Array) -> jax.Array:
        """Class probabilities (n, C) of uint8 images (n, h, w, c); the pure function that is exported."""
        return jax.nn.softmax(self._logits(*steps.infer(self.network)(self.variables, images)), axis=-1)

    def _logits(self, feature_vectors: Any, logits: Any) -> Any:
        if isinstance(self.head, divide.Model):
            by_model = divide.scores if isinstance(feature_vectors, np.ndarray) else divide.Model.__call__
            logits = by_model(self.head, feature_vectors)[0]
        elif self.head is not None:
            logits = self.head(feature_vectors)
        return logits if self.prior is None else logits - self.prior[None, :]

    def _checked(self, array: np.ndarray) -> np.ndarray:
        if array.dtype != np.uint8 or array.shape[1:] != self.image_shape:
            expected_shape = " x ".join(map(str, ("n", *self.image_shape)))
            actual_shape = " x ".join(map(str, array.shape))
            raise errors.BadInput(
                f"images: expected uint8 of shape {expected_shape}, found {array.dtype} of shape {actual_shape}"
            )
        return array

    def _sized(self, image: Any) -> np.ndarray:
        shape = (self.image_shape[0], self.image_shape[1])
        centre = self.view == "centre"
        if isinstance(image, Image.Image):
            return decode.sized(decode.from_pillow(image, self.upright), shape, centre)
        if not isinstance(image, (str, os.PathLike)):
            return self._checked(np.asarray(image)[None])[0]
        content = _content(image)
        name = log.printable(os.fspath(image))
        if centre:
            return decode.crops(content, name, decode.centre_box, shape[0], self.upright)[0]
        return decode.sized(decode.image(content, name, self.upright), shape, centre)


def _content(path: Any) -> bytes:
    try:
        return epath.Path(_expanded(path)).read_bytes()
    except OSError as error:
        raise errors.BadInput(f"{log.printable(os.fspath(path))}: {errors.reason(error)}") from error


def load(workdir: epath.PathLike, method: str | None = None, tau: float | None = None) -> Classifier:
    """The classifier of a finished run, or of a comparison.

    Args:
      workdir: the work directory, also one of `lt_jax.compare`.
      method: a name under "methods" of result.json or compare.json; None is the selected one.
      tau: subtracts tau * log prior from the logits: above 0 it favours rare classes, below 0 frequent ones.

    Raises:
      BadInput: the run is not finished, has no such method, or classifies features instead of images.
    """
    workdir = files.expand(workdir, "workdir")
    if tau is not None and not math.isfinite(tau):
        raise errors.BadInput(f"tau: expected a finite number, found {tau}")
    compared = files.read_json(workdir / "compare.json")
    if compared is not None:
        return _of_comparison(workdir, compared, method, tau)
    config, result = results.read(workdir)
    config, about = ml_collections.ConfigDict(config), result["dataset"]
    images = _images(workdir, about)
    name = method or result["selected"]
    stage, head = _parts(config, workdir, result, name)
    own_head, experts = "linear", 1
    if stage == "baseline":
        own_head, experts = config.baseline.head, config.baseline.get("experts", 1)
    network = models.classifier(config.encoder, len(about["class_names"]), config.dtype, own_head, experts)
    return Classifier(
        tuple(about["class_names"]),
        tuple(images["shape"]),
        images["view"],
        images["upright"],
        network,
        _variables(config, workdir, stage, network, tuple(images["shape"])),
        config.evaluate.batch_size,
        head,
        tau * losses.log_prior(np.array(about["counts"])) if tau else None,
        name,
    )


def _of_comparison(workdir: epath.Path, compared: dict[str, Any], method: str | None, tau: float | None) -> Classifier:
    """A method of a comparison, as trained on all images with the first seed."""
    name = method or compared["selected"] or compared["reference"]
    _check_name(workdir, name, compared["methods"])
    about = compared["methods"][name]
    if about["status"] != "complete":
        raise errors.BadInput(f"{workdir}: {name} has failed: {about['reason']}")
    return load(workdir / about["runs"][0], about["method_in_run"], tau)


def _check_name(workdir: epath.Path, method: str, names: Iterable[str]) -> None:
    if method not in names:
        close = difflib.get_close_matches(method, list(names), 1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(names)}"
        raise errors.BadInput(f"{workdir} has no method {method!r}: {hint}")


def _parts(config: Any, workdir: epath.Path, result: dict[str, Any], method: str) -> tuple[Any, ...]:
    """(stage that the network comes from, head on its features or None for its own) of a method."""
    _check_name(workdir, method, result["methods"])
    trunk = "features" if features_lib.is_frozen(config) else "pretrain"
    if "dlsa" in config.stages and method == "dlsa":
        return trunk, dlsa.load(workdir, config.dlsa.classifier.kind)
    if "dlsa" in config.stages or method == "linear_probe_official":
        raise errors.BadInput(f"{workdir}: {method} was measured, but its classifier is not saved")
    if method == "linear_probe":
        return "pretrain", heads.load(workdir, "probe", method)
    if heads.is_alone(config):
        return trunk, heads.load(workdir, "features", method)
    if method in heads.names(config) and "heads" in config.stages:
        return "baseline", heads.load(workdir, "baseline", method)
    is_baseline = "baseline" in config.stages and method == baseline.method_of(config.baseline)
    return ("baseline" if is_baseline else "retrain"), None


def _variables(
    config: Any, workdir: epath.Path, stage: str, network: Any, image_shape: tuple[Any, ...]
) -> dict[str, Any]:
    """Variables of the network of a stage; an encoder alone gets a head, whose logits are not looked at."""
    if stage not in ("pretrain", "features"):
        return checkpoint.load(workdir, stage)
    if stage == "features":
        variables = features_lib.encoder(workdir)
    else:
        variables = checkpoint.load(workdir, "init_from" if config.init_from else "pretrain")
    head = models.initialise_head(network, jax.random.key(0), image_shape)
    return {**variables, "params": {**variables["params"], "head": head}}


def _images(workdir: epath.Path, about: dict[str, Any]) -> dict[str, Any]:
    """What result.json says of the images of a run: shape, view, upright.

    Raises:
      BadInput: an older version wrote it, which said nothing, or the run is on features.
    """
    if "images" not in about:
        raise errors.BadInput(
            f"{workdir / 'result.json'} has no image information, since an older version wrote it: "
            "delete stages/evaluate.json there and run --stage=evaluate again"
        )
    if about["images"] is None:
        raise errors.BadInput(f"{workdir} holds a run on features, not on images")
    return about["images"]


def find_images(names: Iterable[str]) -> list[epath.Path]:
    """Paths of the named image files, and of all images below the named folders, chosen as in training.

    Raises:
      BadInput: a file or folder does not exist, or a folder has no images.
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


def _expanded(path: Any) -> str:
    """The path with `~` expanded, unless a file with the literal name exists."""
    path = os.fspath(path)
    return path if os.path.lexists(path) else os.path.expanduser(path)
