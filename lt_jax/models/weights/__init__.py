"""Loads weights of an encoder from a file under the names of torchvision, timm, Hugging Face and some others.

Missing and unknown tensors are errors, so that weights of another network never load silently. Not used are the
classifier layer, the counters of BatchNorm, and what lies beside an encoder that is part of a larger model.
"""

import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lt_jax.core import errors, log
from lt_jax.models.weights import formats, known, names, positions

theirs = names.theirs


def load(path: str, variables: dict[str, Any]) -> dict[str, Any]:
    """`variables` of an encoder ({"params", "batch_stats"}) with the values of a file.

    Args:
      path: a file (see `formats.READERS`), or the name of an installed package of weights (see `known.PACKAGES`).

    Raises:
      BadInput: the file does not exist or has an unknown type; a tensor is missing, has another shape, is not floating
        point, is not finite, or belongs to another network.
    """
    file = known.file_of(path)
    paths, treedef = jax.tree_util.tree_flatten_with_path(variables)
    ours = {"/".join(str(key.key) for key in key_path[1:]): like.shape for key_path, like in paths}
    tensors, outside = names.unwrapped(formats.read(file))
    tensors = names.canonical(tensors, ours)
    needed = {name: names.theirs(name) for name in ours}
    _check_names(file, tensors, needed)
    _say_unused(file, tensors, outside)
    if "positions" in ours:
        tensors["pos_embed"] = _positions(file, tensors["pos_embed"], ours)
    values = [_checked(file, needed[name], tensors[needed[name]], name, shape) for name, shape in ours.items()]
    return jax.tree_util.tree_unflatten(treedef, values)


def load_classifier(path: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a linear head with the values of the file's own classifier.

    Args:
      path: as for `load`.
      params: {"dense": {"kernel" (d, C), "bias" (C,)}}.

    Raises:
      BadInput: the file has no classifier layer, or one of other features or classes.
    """
    file = known.file_of(path)
    tensors = names.classifier_of(formats.read(file))
    width, classes = jnp.shape(params["dense"]["kernel"])
    expected = f"expected one of {classes} classes on {width} features"
    if not tensors:
        raise errors.BadInput(f"config.encoder.weights: {file} has no classifier layer; {expected}")
    if tensors["weight"].shape != (classes, width):
        shape = tensors["weight"].shape
        raise errors.BadInput(f"config.encoder.weights: the classifier layer in {file} has shape {shape}; {expected}")
    kernel = _checked(file, "weight of the classifier", tensors["weight"], "head/dense/kernel", (width, classes))
    bias = _checked(file, "bias of the classifier", tensors["bias"], "head/dense/bias", (classes,))
    return {"dense": {"kernel": kernel, "bias": bias}}


def _check_names(file: Any, tensors: dict[str, Any], needed: dict[str, str]) -> None:
    """Raises BadInput where the file lacks a tensor, or has one of another network."""
    unknown = sorted(name for name in tensors.keys() - set(needed.values()) if not names.is_unused(name))
    for ours, name in needed.items():
        if name not in tensors:
            raise errors.BadInput(
                f"config.encoder.weights: {file} has no tensor {name!r}, which {ours} needs{_nearest(name, unknown)}"
            )
    if unknown:
        more = f" and {len(unknown) - 1} more tensors" if len(unknown) > 1 else ""
        raise errors.BadInput(
            f"config.encoder.weights: {file} holds {unknown[0]!r}{more} that this encoder does not have"
            f"{_nearest(unknown[0], list(needed.values()))}: the weights are of another network; "
            "set config.encoder.name to it"
        )


def _nearest(name: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(name, choices, 1)
    return f" (the nearest name is {close[0]!r})" if close else ""


def _say_unused(file: Any, tensors: dict[str, Any], outside: list[str]) -> None:
    """One line each for a classifier layer and for tensors beside the encoder."""
    for name, tensor in tensors.items():
        if names.is_head(name) and tensor.ndim == 2:
            log.say(f"{file}: the classifier layer {name!r} of {len(tensor)} classes is no part of the encoder")
    if outside:
        more = f" and {len(outside) - 1} more tensors" if len(outside) > 1 else ""
        log.say(f"{file}: {outside[0]!r}{more} lie beside the encoder and are no part of it")


def _positions(file: Any, values: np.ndarray, ours: dict[str, Any]) -> np.ndarray:
    """The position embeddings of a transformer for our number of patches."""
    if values.shape == ours["positions"] or values.ndim != 3:
        return values
    is_plain_dinov2 = "block1/scale1" in ours and "registers" not in ours
    try:
        return positions.resized(values, ours["positions"][1], antialias=not is_plain_dinov2)
    except ValueError as error:
        raise errors.BadInput(f"config.encoder.weights: 'pos_embed' in {file}: {error}") from error


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


def _turned(tensor: Any) -> Any:
    """The tensor in Flax layout: (out, in, h, w) -> (h, w, in, out), (out, in) -> (in, out)."""
    return {4: lambda x: x.transpose(2, 3, 1, 0), 2: lambda x: x.T}.get(tensor.ndim, lambda x: x)(tensor)
