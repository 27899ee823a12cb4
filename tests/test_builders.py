"""Sets that tensorflow-datasets has prepared, without TensorFlow: the same images as the official archive."""

import dataclasses
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import common
from lt_jax import data, errors
from lt_jax.data import archives, builders

tfds = pytest.importorskip("tensorflow_datasets")


with tfds.core.registered.skip_registration():

    class Cifar10(tfds.image_classification.Cifar10):
        """The stock builder, but for reading the archive itself: the stock one does that by TensorFlow."""

        FOLDER = pathlib.Path()

        def _split_generators(self, dl_manager):
            self.info.features["label"].names = list(archives._CIFAR10.class_names)
            return {"train": self._rows("train_", 0), "test": self._rows("test_", 1)}

        def _rows(self, prefix, split):
            config = common.data("cifar10", largest=0, imbalance_factor=1.0)
            config.dir = str(self.FOLDER)
            raw = archives.cifar10(config)
            part = raw.test if split else raw.train
            for i in range(len(part)):
                png = io.BytesIO()
                Image.fromarray(part.images[i]).save(png, "PNG")
                png.seek(0)
                yield i, {"id": f"{prefix}{i:05d}", "image": png, "label": int(part.labels[i])}


def prepare(source, target, monkeypatch):
    monkeypatch.setattr(Cifar10, "FOLDER", pathlib.Path(source))
    builder = Cifar10(data_dir=str(target), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(compute_stats="skip"))


def check(source, target):
    config = common.data("cifar10", largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(source))
    official = archives.cifar10(config)
    config.update(dir=str(target), tfds=True)
    ours = archives.cifar10(config)
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(official, split).images, getattr(ours, split).images)
        np.testing.assert_array_equal(getattr(official, split).labels, getattr(ours, split).labels)


def test_the_id_restores_the_official_order(tmp_path, monkeypatch):
    """On an archive in the true layout with a few images a file."""
    records = (30, 20)
    monkeypatch.setattr(archives, "_CIFAR10", dataclasses.replace(archives._CIFAR10, records=records))
    folder = tmp_path / "archive" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, names in enumerate(archives._CIFAR10.binary_files):
        for name in names:
            rows = generator.integers(0, 256, (records[split], 3073), dtype=np.uint8)
            rows[:, 0] %= 10
            (folder / name).write_bytes(rows.tobytes())
    prepare(tmp_path / "archive", tmp_path / "tfds", monkeypatch)
    check(tmp_path / "archive", tmp_path / "tfds")
    config = common.data("cifar10", largest=0, imbalance_factor=1.0)
    config.update(dir=str(tmp_path / "tfds"))
    stored = [row["id"] for row in builders.open_source("cifar10", "train", config)]
    assert sorted(stored) != stored  # it was shuffled, so the order had to be restored


@pytest.mark.slow
def test_the_real_archive_prepared_by_tfds_gives_the_canonical_subset(real_data, tmp_path, monkeypatch):
    prepare(real_data, tmp_path, monkeypatch)
    check(real_data, tmp_path)
    config = common.data("cifar10", largest=5000, imbalance_factor=100.0)
    config.update(dir=str(tmp_path), tfds=True)
    digest = "4bf45bff8878d2786e47dccd702f96ff33b2b11d8c7da3b5015f10937290f866"
    assert data.load(config).index_digest == digest


def test_nothing_prepared_is_one_clear_line(tmp_path):
    config = common.data("cifar10", largest=0, imbalance_factor=1.0)
    config.update(dir=str(tmp_path), tfds=True)
    with pytest.raises(errors.BadInput, match=r"cifar10: no train split of cifar10 prepared as ArrayRecord in"):
        data.load(config)
    config.name = "places_lt"
    with pytest.raises(errors.BadInput, match="tensorflow-datasets has no places_lt"):
        data.load(config)
