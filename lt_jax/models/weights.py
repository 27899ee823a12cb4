"""Loads weights from a local file with the names of torchvision (residual networks) or timm (all networks).

Missing and unknown tensors are errors, so that weights of another network never load silently. Only the classifier
layer and the counters of BatchNorm are ignored.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.core import errors, extras, files

_RESNET = (
    (r"stem/kernel", "conv1.weight"),
    (r"stem_norm/(\w+)", r"bn1.\1"),
    (r"stage(\d+)_block(\d+)/conv_shortcut/kernel", r"layer\1.{\2}.downsample.0.weight"),
    (r"stage(\d+)_block(\d+)/norm_shortcut/(\w+)", r"layer\1.{\2}.downsample.1.\3"),
    (r"stage(\d+)_block(\d+)/conv(\d)/kernel", r"layer\1.{\2}.conv\3.weight"),
    (r"stage(\d+)_block(\d+)/norm(\d)/(\w+)", r"layer\1.{\2}.bn\3.\4"),
)
_VIT = (
    (r"token", "cls_token"),
    (r"positions", "pos_embed"),
    (r"patches/(\w+)", r"patch_embed.proj.\1"),
    (r"norm/(\w+)", r"norm.\1"),
    (r"block(\d+)/(norm\d)/(\w+)", r"blocks.{\1}.\2.\3"),
    (r"block(\d+)/(qkv|proj)/(\w+)", r"blocks.{\1}.attn.\2.\3"),
    (r"block(\d+)/(fc\d)/(\w+)", r"blocks.{\1}.mlp.\2.\3"),
)
# The classifier layer of these networks, and counters that are not used.
_IGNORED = re.compile(r"(fc|head|head_dist|classifier)\.(weight|bias)|.*\bnum_batches_tracked")
_LAST = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def load(path: str, variables: dict[str, Any]) -> dict[str, Any]:
    """`variables` of an encoder ({"params", "batch_stats"}) with the values of a .safetensors or .npz file.

    Every tensor of the file must belong to the encoder, except the classifier layer and batch counters.

    Raises:
      BadInput: the file does not exist or has an unknown type; a tensor is missing, has another shape, is not floating
        point, is not finite, or belongs to another network.
    """
    file = files.expand(path, "config.encoder.weights")
    tensors = _read(file)
    used = set()

    def value(key_path, like):
        ours = "/".join(str(key.key) for key in key_path[1:])
        name = theirs(ours)
        if name not in tensors:
            raise errors.BadInput(f"config.encoder.weights: {file} has no tensor {name!r}, which {ours} needs")
        used.add(name)
        return _checked(file, name, tensors[name], ours, like.shape)

    loaded = jax.tree_util.tree_map_with_path(value, variables)
    left_over = sorted(name for name in tensors.keys() - used if not _IGNORED.fullmatch(name))
    if left_over:
        more = f" and {len(left_over) - 1} more tensors" if len(left_over) > 1 else ""
        raise errors.BadInput(
            f"config.encoder.weights: {file} holds {left_over[0]!r}{more} that this encoder does not have: "
            "the weights are of another network; set config.encoder.name to it"
        )
    return loaded


def _checked(file: Any, name: str, tensor: Any, ours: Any, shape: Any) -> Any:
    """The tensor in our layout, float32. Raises BadInput if it is not valid."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise errors.BadInput(
            f"config.encoder.weights: {name!r} in {file} is of type {tensor.dtype}, expected floating point"
        )
    turned = _turned(tensor)
    if turned.shape != shape:
        raise errors.BadInput(
            f"config.encoder.weights: {name!r} in {file} has shape {tensor.shape}, "
            f"which gives {turned.shape}; {ours} needs {shape}"
        )
    values = turned.astype(np.float32)
    if not np.isfinite(values).all():
        raise errors.BadInput(f"config.encoder.weights: {name!r} in {file} holds a value that is not finite")
    return values


def theirs(ours: str) -> str:
    """Name in the file of our parameter: stage1_block2/norm1/scale -> layer1.1.bn1.weight, counted from 0."""
    for pattern, name in (*_RESNET, *_VIT):
        match = re.fullmatch(pattern, ours)
        if match:
            *front, last = re.sub(r"\{(\d+)\}", lambda m: str(int(m[1]) - 1), match.expand(name)).split(".")
            return ".".join([*front, _LAST.get(last, last)])
    raise errors.BadInput(f"config.encoder.weights: {ours} has no counterpart under the names of torchvision or timm")


def _turned(tensor: Any) -> Any:
    """The tensor in Flax layout: (out, in, h, w) -> (h, w, in, out), (out, in) -> (in, out)."""
    return {4: lambda x: x.transpose(2, 3, 1, 0), 2: lambda x: x.T}.get(tensor.ndim, lambda x: x)(tensor)


def _read(path: Any) -> Any:
    if not path.is_file():
        raise errors.BadInput(f"config.encoder.weights: no file {path}")
    is_safetensors = path.suffix == ".safetensors"
    needed_by = f"config.encoder.weights: {path}"
    safetensors = extras.load("safetensors.numpy", "weights", needed_by) if is_safetensors else None
    try:
        if safetensors:
            return safetensors.load_file(path)
        if path.suffix == ".npz":
            return dict(np.load(path, allow_pickle=False))
    except Exception as error:  # the readers raise different types
        raise errors.BadInput(f"config.encoder.weights: {path} cannot be read ({error})") from error
    raise errors.BadInput(f"config.encoder.weights: expected a .safetensors or .npz file, found {path}")
