"""Splits, profiles, duplicates, and the published lists."""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import images, longtail, splits
from lt_jax.data.sources import lists


@pytest.fixture(scope="module")
def published():
    """Returns the folder of the published lists, or skips the test."""
    shared = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "lists"
    folder = pathlib.Path(os.environ.get("LT_JAX_LISTS", shared))
    if not (folder / "Places_LT_train.txt").is_file():
        pytest.skip("needs the published lists; LT_JAX_LISTS names no folder that holds them")
    return folder


def sizes(counts, many=100, few=20):
    return [int(mask.sum()) for mask in longtail.shot_groups(np.array(counts), many, few).values()]


def test_published_places_lt(published):
    counts = np.bincount([label for _, label, _ in lists.read_list(published / "Places_LT_train.txt", 365)])
    assert (len(counts), counts.sum(), counts.max(), counts.min()) == (365, 62500, 4980, 5)
    assert sizes(counts) == [131, 163, 71]
    assert json.loads((published / "Places_LT_train_cls_freq.json").read_text()) == counts.tolist()
    assert np.bincount([e[1] for e in lists.read_list(published / "Places_LT_val.txt", 365)]).tolist() == [20] * 365
    assert np.bincount([e[1] for e in lists.read_list(published / "Places_LT_test.txt", 365)]).tolist() == [100] * 365


def test_published_imagenet_lt(published):
    counts = json.loads((published / "ImageNet_LT_train_cls_freq.json").read_text())
    assert (len(counts), sum(counts), max(counts), min(counts)) == (1000, 115846, 1280, 5)
    assert sizes(counts) == [385, 479, 136]
    val = lists.read_list(published / "ImageNet_LT_val.txt", 1000)
    test = lists.read_list(published / "ImageNet_LT_test.txt", 1000)
    assert np.bincount([e[1] for e in val]).tolist() == [20] * 1000
    assert np.bincount([e[1] for e in test]).tolist() == [50] * 1000
    assert lists.class_names(val + test)[:2] == ("n01440764", "n01443537")


def test_published_inat2018(published):
    val = lists.read_list(published / "iNaturalist18_val.txt", 8142)
    assert np.bincount([e[1] for e in val]).tolist() == [3] * 8142
    assert val[0][0] == "train_val2018/Plantae/7291/9f8ecb39e5f767e39e9b28e34488f179.jpg" and val[0][1] == 7291
    assert lists.class_names(val)[7291] == "Plantae/7291"


def test_blob_id_equals_that_of_git(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert lists.blob_id(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_list_that_differs_from_the_published_one_is_logged(tmp_path, capsys):
    for split in ("train", "val", "test"):
        (tmp_path / f"ImageNet_LT_{split}.txt").write_text("train/n1/a.JPEG 0\ntrain/n2/a.JPEG 1\n")
    for name in ("n1", "n2"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.JPEG").write_bytes(b"")
    config = common.data("imagenet_lt", largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(tmp_path))
    data.load(config)
    assert "ImageNet_LT_train.txt is not the published list" in capsys.readouterr().err


def test_stratified_split_leaves_every_class_in_training():
    labels = np.array([0] * 20 + [1] * 3 + [2] * 2 + [3])
    training, held, without = splits.stratified(labels, 0.2, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [4, 1, 1, 0] and without == 1
    assert np.bincount(labels[training]).tolist() == [16, 2, 1, 1]
    assert sorted([*training, *held]) == list(range(26))
    np.testing.assert_array_equal(held, splits.stratified(labels, 0.2, seed=0)[1])
    assert not np.array_equal(held, splits.stratified(labels, 0.2, seed=1)[1])


def test_validation_is_taken_from_training_and_not_from_test():
    config = common.data("digits", largest=120, imbalance_factor=25)
    whole = data.load(config)
    config.validation = 0.25
    dataset = data.load(config)
    assert len(dataset.train.labels) + len(dataset.validation.labels) == len(whole.train.labels)
    pictures = [{x.tobytes() for x in part.images} for part in (dataset.train, dataset.validation, dataset.test)]
    assert not pictures[0] & pictures[1] and not pictures[1] & pictures[2] and not pictures[0] & pictures[2]
    assert pictures[0] | pictures[1] == {x.tobytes() for x in whole.train.images}


def test_classes_of_one_image_have_no_validation_split(capsys):
    config = common.data("digits", largest=1, imbalance_factor=1.0)
    config.validation = 0.25
    dataset = data.load(config)
    assert dataset.validation is None and dataset.counts.tolist() == [1] * 10
    assert "there is no validation split" in capsys.readouterr().err
    config.update(validation=0.0, folds=2, fold=0)
    with pytest.raises(errors.BadInput, match="fold 0 of 2 has no image"):
        data.load(config)


def test_validation_of_unused_images_is_balanced_and_leaves_the_training_images():
    config = common.data("digits", largest=90, imbalance_factor=25)
    plain = data.load(config)
    config.validation_unused = 20
    dataset = data.load(config)
    assert dataset.index_digest == plain.index_digest
    assert np.bincount(dataset.validation.labels).tolist() == [20] * 10
    pictures = [{x.tobytes() for x in part.images} for part in (dataset.train, dataset.validation, dataset.test)]
    assert len(pictures[1]) == 200
    assert not pictures[1] & (pictures[0] | pictures[2])
    config.validation_unused = 60
    with pytest.raises(errors.BadInput, match="validation_unused: expected at most 38, found 60: .* class '0'"):
        data.load(config)


def test_duplicates_between_splits():
    pixels = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    train = images.Arrays(pixels, np.zeros(5, int))
    test = images.Arrays(pixels[[3, 0]] + np.array([0, 1], np.uint8)[:, None, None, None], np.zeros(2, int))
    pairs = splits.duplicates(splits.content_digests(train), splits.content_digests(test))
    assert pairs == [(3, 0)]


def test_pareto_counts():
    counts = longtail.pareto_counts(1000, 10, 100)
    assert counts[0] == 1000 and counts[-1] == 10 and np.all(np.diff(counts) < 0)
    assert counts.tolist() == [1000, 250, 111, 62, 40, 27, 20, 15, 12, 10]  # 1000 / (c + 1)**2
    assert longtail.pareto_counts(7, 1, 100).tolist() == [7]


def test_counts_of_the_profile_counts():
    config = common.data("digits", largest=0, imbalance_factor=1.0)
    config.update(profile="counts", counts=(9, 8, 7, 6, 5, 4, 3, 2, 1, 1))
    assert data.load(config).counts.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 1]
    config.counts = (1, 2)
    with pytest.raises(errors.BadInput, match="config.data.counts: expected 10 numbers from 0, found 2"):
        data.load(config)
    config.profile = "zipf"
    with pytest.raises(errors.BadInput, match="config.data.profile: expected one of all, counts, exponential"):
        data.load(config)


def test_digests_differ_for_different_data():
    digits = common.data("digits", largest=20, imbalance_factor=2)
    first, again = data.load(digits), data.load(digits)
    assert first.digest == again.digest and len(first.digest) == 64
    digits.seed = 1
    assert data.load(digits).digest != first.digest


def test_digests_depend_on_content_not_on_file_names(tmp_path):
    config = common.data("folder", largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(tmp_path), workers=0)
    for split, name, color in (("train", "a", 1), ("train", "b", 2), ("test", "a", 3), ("test", "b", 4)):
        (tmp_path / split / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (color, 0, 0)).save(tmp_path / split / name / "0.png")
    first = data.load(config).digest
    (tmp_path / "train/a/0.png").rename(tmp_path / "train/a/1.png")
    assert data.load(config).digest == first
    held = config.copy_and_resolve_references()
    held.update(hold=True, image_size=4)
    assert data.load(held).digest == first
    Image.new("RGB", (9, 9), (5, 0, 0)).save(tmp_path / "train/a/1.png")
    assert data.load(config).digest != first
