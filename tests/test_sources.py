"""CIFAR archives in every published form, complete and damaged."""

import dataclasses
import io
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import sources
from lt_jax.data.sources import archives

RECORDS = (4, 6)


def config_for(name, folder):
    config = common.data(name, largest=1, imbalance_factor=1.0)
    config.dir = str(folder)
    return config


@pytest.fixture
def small(monkeypatch):
    """Makes the archives of CIFAR-10 and CIFAR-100 expect only a few images per file."""
    for name in ("_CIFAR10", "_CIFAR100"):
        monkeypatch.setattr(archives, name, dataclasses.replace(getattr(archives, name), records=RECORDS))


def make(folder, archive, form):
    """Writes random images in one form; returns (train images, train labels) in order."""
    generator = np.random.default_rng(0)
    images, labels = [], []
    binary = form.startswith("binary")
    sub = archive.binary_folder if binary else archive.python_folder
    (folder / sub).mkdir()
    for split, files in enumerate(archive.binary_files if binary else archive.python_files):
        for file in files:
            pixels = generator.integers(0, 256, (RECORDS[split], 3072), dtype=np.uint8)
            label = generator.integers(0, 10, RECORDS[split])
            if binary:
                columns = [label] * archive.label_bytes
                content = np.concatenate([np.stack(columns, 1).astype(np.uint8), pixels], 1).tobytes()
            else:
                content = pickle.dumps({b"data": pixels, archive.label_key: label.tolist()}, protocol=2)
            (folder / sub / file).write_bytes(content)
            if split == 0:
                images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                labels.append(label)
    if form.endswith("tar"):
        with tarfile.open(folder / (archive.binary_tar if binary else archive.python_tar), "w:gz") as tar:
            tar.add(folder / sub, sub)
        shutil.rmtree(folder / sub)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["binary", "binary tar", "python", "python tar"])
def test_every_form_gives_the_same_images(tmp_path, small, name, form):
    images, labels = make(tmp_path, getattr(archives, f"_{name.upper()}"), form)
    raw = sources.SOURCES[name](config_for(name, tmp_path))
    np.testing.assert_array_equal(raw.train.images, images)
    np.testing.assert_array_equal(raw.train.labels, labels)
    assert raw.test.images.shape == (RECORDS[1], 32, 32, 3)


def load(folder):
    return archives.cifar10(config_for("cifar10", folder))


def test_missing_archive_error_names_every_searched_path(tmp_path):
    with pytest.raises(errors.BadInput, match=f"{tmp_path}/cifar-10-batches-bin.*{tmp_path}/cifar-10-python.tar.gz"):
        load(tmp_path)


def test_missing_folder(tmp_path, monkeypatch):
    with pytest.raises(errors.BadInput, match="nowhere is not there"):
        load(tmp_path / "nowhere")
    monkeypatch.delenv("LT_JAX_DATA", raising=False)
    with pytest.raises(errors.BadInput, match="LT_JAX_DATA"):
        load("")


def test_truncated_binary_file(tmp_path, small):
    make(tmp_path, archives._CIFAR10, "binary")
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-3073])
    with pytest.raises(errors.BadInput, match=r"data_batch_3.bin is truncated: expected 12292 bytes, found 9219"):
        load(tmp_path)


def test_missing_file_of_an_archive(tmp_path, small):
    make(tmp_path, archives._CIFAR10, "binary")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(errors.BadInput, match=r"test_batch.bin is missing"):
        load(tmp_path)


@pytest.mark.parametrize("form", ["binary tar", "python tar"])
def test_truncated_tar(tmp_path, small, form):
    make(tmp_path, archives._CIFAR10, form)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(errors.BadInput, match=f"{file.name} is truncated or broken"):
        load(tmp_path)


def test_a_pickle_with_other_objects_than_arrays_is_refused(tmp_path, small):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    make(tmp_path, archives._CIFAR10, "python")
    file = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    buffer = io.BytesIO()
    pickle.dump({b"data": Evil()}, buffer, protocol=2)
    file.write_bytes(buffer.getvalue())
    with pytest.raises(errors.BadInput, match="refused to open"):
        load(tmp_path)
    assert not (tmp_path / "written").exists()


def test_labels_out_of_range(tmp_path, small):
    make(tmp_path, archives._CIFAR10, "binary")
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    content = bytearray(file.read_bytes())
    content[3073] = 10
    file.write_bytes(bytes(content))
    config = config_for("cifar10", tmp_path)
    config.profile = "all"
    with pytest.raises(errors.BadInput, match=r"training image 5 has label 10, expected 0\.\.9"):
        data.load(config)


def test_real_archive(real_data):
    raw = load(real_data)
    assert raw.train.images.shape == (50000, 32, 32, 3)
    assert np.bincount(raw.test.labels).tolist() == [1000] * 10
    assert raw.train.labels[:5].tolist() == [6, 9, 9, 4, 1]
