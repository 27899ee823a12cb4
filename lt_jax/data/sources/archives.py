"""Data sets held in memory: scikit-learn's digits, and CIFAR in the order of the original files.

The binary and the python version of the CIFAR archives are read, as a tar file or unpacked. Pickles are opened by a
reader that only builds arrays, numbers and strings.
"""

import dataclasses
import io
import os
import pathlib
import pickle
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np

from lt_jax.core import errors
from lt_jax.data.images import Arrays, Raw
from lt_jax.data.sources import tfds

_DIGITS_TEST = 50


def digits(config: Any) -> Raw:
    """scikit-learn's 1797 scans of 8x8 pixels; 50 of each class, chosen by `config.seed`, are the test split."""
    from sklearn import datasets

    scans = datasets.load_digits()
    images = np.repeat((scans.images * (255 / 16)).round().astype(np.uint8)[..., None], 3, axis=-1)
    labels = scans.target.astype(np.int64)
    generator = np.random.RandomState(config.seed)
    test = np.sort(np.concatenate([generator.permutation(np.where(labels == c)[0])[:_DIGITS_TEST] for c in range(10)]))
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Raw("digits", tuple("0123456789"), *(Arrays(images[part], labels[part]) for part in (train, test)))


@dataclasses.dataclass(frozen=True)
class _Archive:
    """The published layout of one CIFAR archive."""

    binary_folder: str
    binary_tar: str
    python_folder: str
    python_tar: str
    binary_files: tuple[tuple[str, ...], tuple[str, ...]]  # training, test
    python_files: tuple[tuple[str, ...], tuple[str, ...]]
    records: tuple[int, int]  # images per training file and per test file
    label_bytes: int  # bytes before the pixels of a binary record; the last one is the label
    label_key: bytes
    class_names: tuple[str, ...]


_CIFAR10 = _Archive(
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    (tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)),
    (tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)),
    (10000, 10000),
    1,
    b"labels",
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100 = _Archive(
    "cifar-100-binary",
    "cifar-100-binary.tar.gz",
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    (("train.bin",), ("test.bin",)),
    (("train",), ("test",)),
    (50000, 10000),
    2,
    b"fine_labels",
    tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
        can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
        dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
        lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
        pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
        seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
        tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
        worm
        """.split()  # noqa: SIM905  a hundred words
    ),
)


def cifar10(config: Any) -> Raw:
    return _cifar("cifar10", _CIFAR10, config)


def cifar100(config: Any) -> Raw:
    return _cifar("cifar100", _CIFAR100, config)


def _cifar(name: str, archive: _Archive, config: Any) -> Raw:
    if config.tfds:
        return tfds.in_memory(name, archive.class_names, config)
    folder = _data_folder(name, config, archive.binary_tar)
    read, files = _open(folder, archive)
    splits = []
    for split in (0, 1):
        parts = [read(file, archive, archive.records[split]) for file in files[split]]
        splits.append(Arrays(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])))
    return Raw(name, archive.class_names, *splits)


def _data_folder(name: str, config: Any, archive: str) -> pathlib.Path:
    chosen_folder = config.dir or os.environ.get("LT_JAX_DATA", "")
    if not chosen_folder:
        raise errors.BadInput(
            f"{name}: no data folder. Download {archive} from the CIFAR page of the University of Toronto into a "
            "folder, and set --config.data.dir=DIR or the environment variable LT_JAX_DATA to it"
        )
    folder = pathlib.Path(chosen_folder).expanduser()
    if not folder.is_dir():
        raise errors.BadInput(f"{name}: the data folder {folder} is not there (config.data.dir or LT_JAX_DATA)")
    return folder


def _open(folder: pathlib.Path, archive: _Archive) -> tuple[Callable, tuple[Any, ...]]:
    """A reader and its (training, test) files, of the first version of the archive that exists."""
    forms = (
        (archive.binary_folder, archive.binary_tar, archive.binary_files, _read_binary),
        (archive.python_folder, archive.python_tar, archive.python_files, _read_python),
    )
    for subfolder, tar, files, read in forms:
        if (folder / subfolder).is_dir():
            base = folder / subfolder
            return read, tuple(tuple((base / f, _file_bytes(base / f)) for f in split) for split in files)
        if (folder / tar).is_file():
            return read, _read_tar(folder / tar, subfolder, files)
    tried = ", ".join(str(folder / name) for form in forms for name in form[:2])
    raise errors.BadInput(
        f"no CIFAR archive: looked for {tried}. Get one from the CIFAR page of the University of Toronto"
    )


def _file_bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise errors.BadInput(f"{path} is missing: unpack the whole archive again") from None
    except OSError as error:
        raise errors.BadInput(f"{path}: {errors.reason(error)}") from error


def _read_tar(path: pathlib.Path, subfolder: str, files: Any) -> Any:
    names = {f"{subfolder}/{name}" for split in files for name in split}
    content = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name in names:
                    content[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise errors.BadInput(f"{path} is truncated or broken ({error}): download it again") from error
    missing = sorted(names - set(content))
    if missing:
        raise errors.BadInput(f"{path} holds no {missing[0]}: download it again")
    return tuple(tuple((path / f"{subfolder}/{n}", content[f"{subfolder}/{n}"]) for n in split) for split in files)


_PIXELS = 3 * 32 * 32


def _read_binary(file: tuple[pathlib.Path, bytes], archive: _Archive, records: int) -> tuple[np.ndarray, np.ndarray]:
    path, content = file
    expected = records * (archive.label_bytes + _PIXELS)
    if len(content) != expected:
        raise errors.BadInput(f"{path} is truncated: expected {expected} bytes, found {len(content)}")
    rows = np.frombuffer(content, np.uint8).reshape(records, archive.label_bytes + _PIXELS)
    return _to_images(rows[:, archive.label_bytes :]), rows[:, archive.label_bytes - 1].astype(np.int64)


def _read_python(file: tuple[pathlib.Path, bytes], archive: _Archive, records: int) -> tuple[np.ndarray, np.ndarray]:
    path, content = file
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"], np.uint8), np.asarray(batch[archive.label_key], np.int64)
    except errors.BadInput as error:
        raise errors.BadInput(f"{path}: {error}") from error
    except Exception as error:
        raise errors.BadInput(f"{path} is truncated or broken ({error}): download it again") from error
    if pixels.shape != (records, _PIXELS) or labels.shape != (records,):
        raise errors.BadInput(f"{path}: expected {records} images, found arrays {pixels.shape} and {labels.shape}")
    return _to_images(pixels), labels


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for arrays, numbers and strings that refuses all other types."""

    _ALLOWED = {
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    } | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise errors.BadInput(f"refused to open: the pickle asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _to_images(planes: np.ndarray) -> np.ndarray:
    """(n, 3072) red, green, blue planes -> (n, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
