"""Reads the files that `torch.save` writes, without PyTorch, and without running anything that they contain.

A checkpoint of PyTorch is a pickle, and a pickle can call any function. The reader here knows the few names that make
up tensors and dictionaries; another name is an error before anything is built from it. Both forms of the file are read:
the zip archive of PyTorch 1.6 and later, and the older one, a sequence of pickles followed by the numbers.
"""

import collections
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of _LEGACY_MAGIC
_ZIP_START = b"PK\x03\x04"
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def read(path: Any) -> dict[str, Any]:
    """The dictionary in a file of `torch.save`, with NumPy arrays for tensors. May be nested.

    Raises:
      ValueError: the file is not of this kind, is damaged, or names an object that is not part of a tensor.
    """
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_START))
        file.seek(0)
        if start.startswith(_ZIP_START):
            tree, contents = _read_zip(file)
        elif start == _LEGACY_START:
            tree, contents = _read_legacy(file)
        else:
            raise ValueError("it is not a file of torch.save")
    if not isinstance(tree, dict):
        raise ValueError(f"expected a dictionary of tensors, found {type(tree).__name__}")
    return _materialised(tree, contents, {})


class _StorageType:
    """Stands for a class such as torch.FloatStorage: a type of numbers."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class _Storage:
    """A block of numbers in the file, known by its key."""

    __slots__ = ("dtype", "key", "numel")

    def __init__(self, dtype: np.dtype, key: str, numel: int):
        self.dtype, self.key, self.numel = dtype, key, numel


class _Tensor:
    """A tensor as a view of a storage; its numbers are read after the pickle."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


class _Rebuild:
    """Stands for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *hints: Any) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        return _Tensor(storage, offset, shape, strides)


class _Parameter:
    """Stands for torch._utils._rebuild_parameter: the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor: Any, *hints: Any) -> Any:
        return tensor


class _Settings:
    """Stands for argparse.Namespace, which training programs save beside the weights. It keeps nothing."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


_GLOBALS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Rebuild(),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch._utils", "_rebuild_parameter"): _Parameter(),
    ("argparse", "Namespace"): _Settings,
    **{("torch", name): _StorageType(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Builds tensors, dictionaries, lists, numbers and texts; refuses every other object by its name."""

    def __init__(self, file):
        super().__init__(file)
        self.itemsize: dict[str, int] = {}  # bytes of a number in each storage, by its key

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise ValueError(
                f"it contains the object {module}.{name}, which is not part of a tensor and is not loaded; "
                "save the state_dict() alone, or as .safetensors"
            )
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        valid = isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"
        if not valid or not isinstance(pid[1], _StorageType) or any(pid[5:]):
            raise ValueError("a storage of an unknown form")
        storage = _Storage(pid[1].dtype, str(pid[2]), int(pid[4]))
        self.itemsize[storage.key] = storage.dtype.itemsize
        return storage


def _read_zip(file: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """(what was saved, key -> bytes of each storage) of the form of PyTorch 1.6 and later."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip archive without one data.pkl, so it is not a file of torch.save")
        root = pickles[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed, which torch.save never does")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are big-endian, which is not supported")
        with archive.open(pickles[0]) as content:
            tree = _Unpickler(content).load()
        prefix = f"{root}data/"
        keys = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return tree, {key: np.frombuffer(archive.read(prefix + key), np.uint8) for key in keys}


def _read_legacy(file: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """(what was saved, key -> bytes of each storage) of the form before PyTorch 1.6."""
    magic, protocol, system = (_Unpickler(file).load() for _ in range(3))
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise ValueError("an unknown version of the form before PyTorch 1.6")
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise ValueError("its numbers are big-endian, which is not supported")
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    keys = _Unpickler(file).load()
    itemsize, contents = unpickler.itemsize, {}
    for key in keys:
        if key not in itemsize:
            raise ValueError("a storage that no tensor uses")
        numel = int.from_bytes(file.read(8), "little")
        contents[key] = np.frombuffer(file.read(numel * itemsize[key]), np.uint8)
    return tree, contents


def _materialised(tree: Any, contents: dict[str, np.ndarray], seen: dict[int, Any]) -> Any:
    """The same dictionaries with arrays for tensors; what is neither is left as it is.

    Args:
      seen: what was made of an object, by its id: a small file can refer to one dictionary very often.
    """
    if id(tree) not in seen:
        if isinstance(tree, dict):
            seen[id(tree)] = made = {}
            made.update({key: _materialised(value, contents, seen) for key, value in tree.items()})
        else:
            seen[id(tree)] = _array(tree, contents) if isinstance(tree, _Tensor) else tree
    return seen[id(tree)]


def _array(tensor: _Tensor, contents: dict[str, np.ndarray]) -> np.ndarray:
    """The numbers of a tensor; raises ValueError where its shape does not lie inside of its storage."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    content = contents.get(storage.key)
    if content is None or content.nbytes != storage.numel * storage.dtype.itemsize:
        raise ValueError(f"it is cut off: storage {storage.key} does not have its {storage.numel} numbers")
    valid = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if not valid or any(not isinstance(x, int) or x < 0 for x in (tensor.offset, *shape, *strides)):
        raise ValueError("a tensor of an unknown form")
    numbers = content.view(storage.dtype)[tensor.offset :]
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if int(np.prod(shape, dtype=object)) > len(numbers) or (0 not in shape and last >= len(numbers)):
        raise ValueError("a tensor that reaches beyond its storage")
    steps = [stride * storage.dtype.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers, shape, steps, writeable=False)
