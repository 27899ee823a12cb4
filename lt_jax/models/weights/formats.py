"""Files of weights: .safetensors, .npz, and what `torch.save` writes. Nothing in a file is executed."""

import json
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from lt_jax.core import errors
from lt_jax.models.weights import torch_files

_SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_LONGEST_HEADER = 100 << 20  # bytes


def read(path: Any) -> dict[str, Any]:
    """Name -> array of a file of weights; a file of `torch.save` may hold nested dictionaries.

    Raises:
      BadInput: there is no such file, its type is unknown, or it cannot be read.
    """
    if not path.is_file():
        raise errors.BadInput(f"config.encoder.weights: no file {path}")
    reader = READERS.get(path.suffix)
    if reader is None:
        raise errors.BadInput(f"config.encoder.weights: expected a file {' '.join(READERS)}, found {path}")
    try:
        return reader(path)
    except Exception as error:  # the readers raise different types
        raise errors.BadInput(f"config.encoder.weights: {path} cannot be read: {errors.first_line(error)}") from error


def _npz(path: Any) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
        return {name: _named_bfloat16(content[name]) for name in content.files}


def _named_bfloat16(array: np.ndarray) -> np.ndarray:
    """NumPy saves bfloat16, which it does not know, as bytes without a type."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _safetensors(path: Any) -> dict[str, np.ndarray]:
    """The layout is a length in 8 bytes, a JSON header of that length, and the numbers."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    length = int.from_bytes(content[:8].tobytes(), "little")
    if len(content) < 8 or length > min(_LONGEST_HEADER, len(content) - 8):
        raise ValueError("it is cut off, or not of this type")
    header = json.loads(content[8 : 8 + length].tobytes())
    numbers = content[8 + length :]
    return {name: _view(numbers, name, entry) for name, entry in header.items() if name != "__metadata__"}


def _view(numbers: np.ndarray, name: str, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{name!r} is of type {entry['dtype']}, which is not supported")
    dtype, shape, (start, end) = _SAFETENSORS_DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not 0 <= start <= end <= len(numbers) or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it is cut off: {name!r} does not have its {math.prod(shape)} numbers")
    return np.frombuffer(numbers[start:end].tobytes(), dtype).reshape(shape)


READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": torch_files.read,
    ".pth": torch_files.read,
    ".bin": torch_files.read,
    ".ckpt": torch_files.read,
    ".tar": torch_files.read,  # as in .pth.tar
}
