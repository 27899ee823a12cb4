"""Parquet files with the bytes of the images: names, splits, pixels, and wrong files in one line."""

import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import decode, prepare

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["cat", "dog", "owl"]
LABELS = [0] * 8 + [1] * 4 + [2] * 2


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue(), pixels


def write(path, numbers, labels, names=NAMES, column="image", label="label", **options):
    """A file as Hugging Face writes it, with `names` in the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [{"bytes": png(number)[0], "path": f"{number}.png"} for number in numbers]
    table = pa.table({column: pa.array(values, STRUCT), label: labels})
    if names:
        about = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, path, row_group_size=3, **options)


def config_for(**options):
    config = common.data("parquet", largest=0, imbalance_factor=1.0)
    config.update(profile="all", image_size=12, workers=0, **options)
    return config


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00002.parquet", range(10), LABELS[:10])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", range(10, 14), LABELS[10:])
    write(tmp_path / "data" / "test-00000-of-00001.parquet", range(20, 26), [0, 1, 2] * 2)
    return tmp_path


def test_a_folder_of_hugging_face(folder):
    dataset = data.load(config_for(dir=str(folder)))
    assert dataset.class_names == ("cat", "dog", "owl") and dataset.counts.tolist() == [8, 4, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2] * 2 and dataset.validation is None
    rows = data.sources.SOURCES["parquet"](config_for(dir=str(folder))).train
    rows = dataclasses.replace(rows, size=12)
    for i in (0, 3, 9, 10, 13):
        np.testing.assert_array_equal(rows.image(i), png(i)[1])
        assert rows.views(i, decode.centre_box)[0].shape == (12, 12, 3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).select(np.array([12])).image(0), png(12)[1])
    assert rows.name(12).endswith("train-00001-of-00002.parquet") and rows.name(12).startswith("row 2 of ")


def test_splits_by_folder_and_labels_as_text(tmp_path):
    write(tmp_path / "default" / "train" / "0000.parquet", range(6), list("aabbcc"), names=None, column="img")
    write(tmp_path / "default" / "validation" / "0000.parquet", range(6, 9), list("abc"), names=None, column="img")
    dataset = data.load(config_for(dir=str(tmp_path)))
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2]  # as of a folder: without a test split it is the validation split


def test_one_file_and_binary_images(tmp_path):
    images = pa.array([png(number)[0] for number in range(14)])
    pq.write_table(pa.table({"picture": images, "fine_label": LABELS}), tmp_path / "mine.parquet")
    dataset = data.load(config_for(list=str(tmp_path / "mine.parquet"), test_share=0.5))
    assert dataset.class_names == ("0", "1", "2")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 14


def test_digests_follow_the_content(folder):
    config = config_for(dir=str(folder))
    before = data.load(config).train.images
    digests = before.item_digests(np.arange(64, dtype=np.uint8).reshape(2, 32))
    assert digests.shape == (14, 32) and len({x.tobytes() for x in digests}) == 14
    changed = before.item_digests(np.ones((2, 32), np.uint8))
    assert not (digests == changed).all(axis=1).any()


def test_it_can_be_prepared(folder, tmp_path):
    words = ["prepare", "--name=parquet", f"--dir={folder}", f"--out={tmp_path / 'out'}"]
    assert prepare.main(words) == 0
    config = common.data("prepared", largest=0, imbalance_factor=1.0)
    config.update(profile="all", image_size=12, workers=0, dir=str(tmp_path / "out"))
    prepared, plain = data.load(config), data.load(config_for(dir=str(folder)))
    assert prepared.counts.tolist() == plain.counts.tolist()
    np.testing.assert_array_equal(prepared.train.images.image(5), plain.train.images.image(5))


def only_a_path(path):
    table = pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}] * 14, STRUCT), "label": LABELS})
    pq.write_table(table, path)


def without_images(path):
    pq.write_table(pa.table({"text": ["a"] * 14, "label": LABELS}), path)


def without_labels(path):
    pq.write_table(pa.table({"image": pa.array([png(0)[0]] * 3), "class": [0, 1, 2]}), path)


def with_a_missing_label(path):
    pq.write_table(pa.table({"image": pa.array([png(0)[0]] * 3), "label": [0, None, 2]}), path)


@pytest.mark.parametrize(
    ("write_file", "message"),
    [
        (lambda path: path.write_bytes(b"no parquet"), "data.parquet is no Parquet file"),
        (without_images, "has no column of images"),
        (without_labels, "has no column 'label', only image, class"),
        (with_a_missing_label, "row 1 has no label"),
        (lambda path: write(path, range(3), [0, 1, 3]), "label '3': expected a whole number below 3"),
    ],
)
def test_wrong_files_are_one_line(write_file, message, tmp_path):
    write_file(tmp_path / "data.parquet")
    with pytest.raises(errors.BadInput, match=message) as caught:
        data.load(config_for(dir=str(tmp_path)))
    assert ("is no Parquet file" in str(caught.value)) == ("is no Parquet file" in message)


def test_a_shard_depends_on_the_files_of_its_rows_alone(folder):
    rows = data.load(config_for(dir=str(folder))).train.images
    last = rows.select(np.array([len(rows) - 1]))
    assert last.stored_in() == (rows.root, [rows.files[-1]])
    digests = np.arange(64, dtype=np.uint8).reshape(2, 32)
    np.testing.assert_array_equal(last.item_digests(digests[1:]), rows.item_digests(digests)[-1:])


def test_an_image_without_bytes_is_named(tmp_path):
    only_a_path(tmp_path / "data.parquet")
    rows = data.sources.SOURCES["parquet"](config_for(dir=str(tmp_path))).train
    with pytest.raises(
        errors.BadInput, match="row 2 of .*data.parquet: holds no bytes of an image, only the path 'a.p"
    ):
        rows.image(2)


def test_a_folder_without_parquet(tmp_path):
    with pytest.raises(errors.BadInput, match="holds no .parquet file"):
        data.load(config_for(dir=str(tmp_path)))
    write(tmp_path / "test-0.parquet", range(3), [0, 1, 2])
    with pytest.raises(errors.BadInput, match="has no file of a training split"):
        data.load(config_for(dir=str(tmp_path)))
