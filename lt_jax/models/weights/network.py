"""Which network the weights in a file are of, by the names and shapes of its tensors. Computes nothing with JAX."""

import re
from typing import Any

import numpy as np

from lt_jax.core import errors
from lt_jax.models.weights import formats, known, names

# (blocks of each stage, convolutions of a block, whether they are grouped) -> residual network.
_RESIDUAL = {
    ((1, 1, 1), 2, False): "resnet_small",
    ((2, 2, 2, 2), 2, False): "resnet18",
    ((3, 4, 6, 3), 2, False): "resnet34",
    ((5, 5, 5), 2, False): "resnet32",
    ((3, 4, 6, 3), 3, False): "resnet50",
    ((3, 8, 36, 3), 3, False): "resnet152",
    ((3, 4, 6, 3), 3, True): "resnext50",
}
# (blocks, channels before the last convolution) -> network.
_LITE = {(16, 320): "efficientnet_lite0", (21, 320): "efficientnet_lite1", (21, 352): "efficientnet_lite2"}
_CLIP = {16: "clip_base16", 32: "clip_base32"}  # side of a patch -> network of 768 channels
# Parts of paths of CLIP weights that were trained with an exact GELU, as OpenCLIP does; their tensors do not say so.
_EXACT_GELU = "openclip|open_clip|laion|datacomp"
_TRANSFORMERS = {384: "small", 768: "base"}  # channels -> size


def of_file(name: str) -> dict[str, Any]:
    """The settings of `config.encoder` that fit a file or an installed package of weights: its name, stem and width.

    Raises:
      BadInput: the network is not among those of `lt_jax.models.ENCODERS`, or the file cannot be read.
    """
    if name in known.PACKAGES:
        return {"name": name}
    file = known.file_of(name)
    settings = of_tensors(names.unwrapped(formats.read(file))[0])
    if settings and settings["name"].startswith("clip_") and re.search(_EXACT_GELU, str(file), re.IGNORECASE):
        settings["name"] = f"open{settings['name']}"
    if settings is None:
        raise errors.BadInput(
            f"config.encoder.name: the weights in {file} are of no network that is known by its tensors; set it to the "
            "nearest one of docs/encoders.md to see which tensor differs"
        )
    return settings


def of_tensors(tensors: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """The same for tensors under the names of a library; None where they are of no network that is known."""
    first = tensors.get("conv1.weight")
    if first is not None and "layer1.0.conv2.weight" in tensors:
        return _residual(tensors, first)
    last = tensors.get("conv_head.weight", tensors.get("_conv_head.weight"))
    if last is not None:
        return _lite(tensors, last)
    timm = names.canonical(tensors, ())
    if "norm_pre.weight" in timm and "patch_embed.proj.weight" in timm:
        return _clip(timm["patch_embed.proj.weight"])
    if "stem.0.weight" in timm and "stages.0.blocks.0.conv_dw.weight" in timm:
        return _convnext(timm)
    token = next((x for name, x in tensors.items() if name.endswith("cls_token")), None)
    return None if token is None else _transformer(tensors, token.shape[-1])


def _residual(tensors: dict[str, np.ndarray], first: np.ndarray) -> dict[str, Any] | None:
    blocks = {(int(m[1]), int(m[2])) for name in tensors if (m := re.match(r"layer(\d+)\.(\d+)\.", name))}
    stages = tuple(sum(stage == k for stage, _ in blocks) for k in sorted({stage for stage, _ in blocks}))
    inner = tensors["layer1.0.conv2.weight"].shape
    kind = (stages, 3 if "layer1.0.conv3.weight" in tensors else 2, inner[0] != inner[1])
    if kind not in _RESIDUAL:
        return None
    return {"name": _RESIDUAL[kind], "stem": "imagenet" if first.shape[-1] == 7 else "small", "width": first.shape[0]}


def _lite(tensors: dict[str, np.ndarray], last: np.ndarray) -> dict[str, Any] | None:
    if any(re.search(r"\.se\.|\._se_", name) for name in tensors):  # squeeze and excitation: not of the Lite family
        return None
    found_at = (re.match(r"_blocks\.\d+\.|blocks\.\d+\.\d+\.", name) for name in tensors)
    blocks = {match[0] for match in found_at if match}
    name = _LITE.get((len(blocks), last.shape[1]))
    return None if name is None else {"name": name}


def _clip(patches: np.ndarray) -> dict[str, Any] | None:
    name = _CLIP.get(patches.shape[-1]) if patches.shape[0] == 768 else None
    return None if name is None else {"name": name}


def _convnext(tensors: dict[str, np.ndarray]) -> dict[str, Any] | None:
    blocks = {match[0] for name in tensors if (match := re.match(r"stages\.\d\.blocks\.\d+\.", name))}
    is_tiny = len(blocks) == 18 and tensors["stem.0.weight"].shape[0] == 96
    return {"name": "convnext_tiny"} if is_tiny else None


def _transformer(tensors: dict[str, np.ndarray], channels: int) -> dict[str, Any] | None:
    size = _TRANSFORMERS.get(channels)
    if size is None:
        return None
    if not any(re.search(r"\.ls\d\.gamma|\.layer_scale\d\.lambda1", name) for name in tensors):
        return {"name": f"vit_{size}", "stem": "imagenet"}
    has_registers = any(re.search(r"reg_token|register_tokens", name) for name in tensors)
    return {"name": f"dinov2_{size}{'_registers' if has_registers else ''}"}
