"""Data sets prepared by tensorflow-datasets, read without TensorFlow, hold the images of the official archive."""

import dataclasses
import io
import pathlib
import typing

import numpy as np
import pytest
from PIL import Image

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data.sources import archives, lists
from lt_jax.data.sources import tfds as tfds_source

tfds = pytest.importorskip("tensorflow_datasets")
tfds.builder_cls("cifar10")  # the first call registers the builders, which must not happen in the block below


class FromArchive:
    """The standard builder of CIFAR, except that it reads the archive without TensorFlow."""

    FOLDER = pathlib.Path()
    MORE: typing.ClassVar = {}

    def _split_generators(self, dl_manager):
        self.info.features["label"].names = list(archives.__dict__[f"_{self.name.upper()}"].class_names)
        return {"train": self._rows("train_", 0), "test": self._rows("test_", 1)}

    def _rows(self, prefix, split):
        config = common.data(self.name, largest=0, imbalance_factor=1.0)
        config.dir = str(self.FOLDER)
        raw = getattr(archives, self.name)(config)
        part = raw.test if split else raw.train
        for i in range(len(part)):
            png = io.BytesIO()
            Image.fromarray(part.images[i]).save(png, "PNG")
            png.seek(0)
            yield i, {"id": f"{prefix}{i:05d}", "image": png, "label": int(part.labels[i]), **self.MORE}


with tfds.core.registered.skip_registration():

    class Cifar10(FromArchive, tfds.image_classification.Cifar10):
        pass

    class Cifar100(FromArchive, tfds.image_classification.Cifar100):
        MORE: typing.ClassVar = {"coarse_label": 0}


def prepare(builder, source, target, monkeypatch):
    monkeypatch.setattr(FromArchive, "FOLDER", pathlib.Path(source))
    builder = builder(data_dir=str(target), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(compute_stats="skip"))


def check(name, source, target):
    config = common.data(name, largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(source))
    official = getattr(archives, name)(config)
    config.update(dir=str(target), tfds=True)
    ours = getattr(archives, name)(config)
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(official, split).images, getattr(ours, split).images)
        np.testing.assert_array_equal(getattr(official, split).labels, getattr(ours, split).labels)


@pytest.mark.parametrize(("builder", "bytes_before", "classes"), [(Cifar10, 1, 10), (Cifar100, 2, 100)])
def test_the_id_restores_the_official_order(builder, bytes_before, classes, tmp_path, monkeypatch):
    """The archive has the true layout with a few images per file."""
    name, records = builder.name, (30, 20)
    archive = getattr(archives, f"_{name.upper()}")
    monkeypatch.setattr(archives, f"_{name.upper()}", dataclasses.replace(archive, records=records))
    folder = tmp_path / "archive" / archive.binary_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, files in enumerate(archive.binary_files):
        for file in files:
            rows = generator.integers(0, 256, (records[split], 3072 + bytes_before), dtype=np.uint8)
            rows[:, :bytes_before] %= 10 if classes == 10 else 20
            (folder / file).write_bytes(rows.tobytes())
    prepare(builder, tmp_path / "archive", tmp_path / "tfds", monkeypatch)
    check(name, tmp_path / "archive", tmp_path / "tfds")
    config = common.data(name, largest=0, imbalance_factor=1.0)
    config.update(dir=str(tmp_path / "tfds"))
    stored = [row["id"] for row in tfds_source.open_source(name, "train", config)]
    assert sorted(stored) != stored  # stored in shuffled order, so the test is meaningful


@pytest.mark.slow
def test_the_real_archive_prepared_by_tfds_gives_the_canonical_subset(real_data, tmp_path, monkeypatch):
    prepare(Cifar10, real_data, tmp_path, monkeypatch)
    check("cifar10", real_data, tmp_path)
    config = common.data("cifar10", largest=5000, imbalance_factor=100.0)
    config.update(dir=str(tmp_path), tfds=True)
    digest = "4bf45bff8878d2786e47dccd702f96ff33b2b11d8c7da3b5015f10937290f866"
    assert data.load(config).index_digest == digest


LARGE = {
    "imagenet_lt": ("ImagenetLt", {"train": "train", "test": "test", "validation": "val"}),
    "inat2018": ("INaturalist2018", {"train": "train", "validation": "val"}),
}


def stock(name, rows):
    """Returns the standard builder of a large set, except that it reads `rows`: split -> [(file, label), ...]."""
    base = tfds.builder_cls(tfds_source.NAMES[name])
    more = {"file_name": "x"} if name == "imagenet_lt" else {"id": "x", "supercategory": 0}

    def examples(entries):
        for i, (file, label) in enumerate(entries):
            yield i, {"image": str(file), "label": label, **more}

    def splits(self, dl_manager):
        return {split: examples(entries) for split, entries in rows.items()}

    body = {"_split_generators": splits, "name": tfds_source.NAMES[name], "pkg_dir_path": base.pkg_dir_path}
    with tfds.core.registered.skip_registration():
        return type(LARGE[name][0], (base,), body)


@pytest.mark.parametrize("name", LARGE)
def test_large_sets_hold_the_images_of_the_lists(name, tmp_path):
    """A generated tree, prepared with the features of the standard builder, holds the same bytes as the lists."""
    classes = 3
    config = common.data(name, largest=0, imbalance_factor=1.0)
    config.update(generated=classes, image_size=32)
    listed = getattr(lists, name)(config)
    parts = {"train": listed.train, "test": listed.test, "validation": listed.validation}
    sources = {official: parts["test" if name == "inat2018" and official == "validation" else official]
               for official in LARGE[name][1]}  # fmt: skip
    rows = {split: [(part.path(i), int(part.labels[i])) for i in range(len(part))] for split, part in sources.items()}
    options = tfds.download.DownloadConfig(compute_stats="skip")
    stock(name, rows)(data_dir=str(tmp_path), file_format="array_record").download_and_prepare(download_config=options)
    config.update(generated=0, tfds=True, dir=str(tmp_path))
    loaded = getattr(lists, name)(config)
    assert len(loaded.class_names) == lists.CLASSES[name]
    for split in ("train", "test", "validation"):
        ours, theirs = getattr(loaded, split), parts[split]
        if theirs is None:
            assert ours is None
            continue
        pairs = lambda part: sorted((part.content(i), int(part.labels[i])) for i in range(len(part)))  # noqa: E731
        assert pairs(ours) == pairs(theirs) and len(ours) > 0


def test_missing_prepared_data_is_an_error(tmp_path):
    config = common.data("cifar10", largest=0, imbalance_factor=1.0)
    config.update(dir=str(tmp_path), tfds=True)
    with pytest.raises(errors.BadInput, match=r"cifar10: no train split of cifar10 prepared as ArrayRecord in"):
        data.load(config)
    config.name = "places_lt"
    with pytest.raises(errors.BadInput, match="tensorflow-datasets has no places_lt"):
        data.load(config)
