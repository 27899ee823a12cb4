"""lt_jax.data.prepare: shards hold every image, a second call resumes, damage is detected, buckets work."""

import json
import os

import fsspec
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from PIL import Image

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import prepare
from lt_jax.data.sources import generated, records


@pytest.fixture(scope="module")
def tree():
    return generated.tree("places_lt", 4)


def run(tree, out, *words):
    return prepare.main(
        ["prepare", "--name=places_lt", f"--dir={tree}", f"--out={out}", "--shard_size=12", "--workers=1", *words]
    )


def config_for(name, folder):
    config = common.data(name, largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(folder), workers=0, image_size=16)
    return config


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    assert run(tree, out) == 0
    return out


def test_shards_hold_the_same_images_labels_and_names(tree, prepared):
    plain, ours = data.load(config_for("places_lt", tree)), data.load(config_for("prepared", prepared))
    assert ours.class_names == plain.class_names and ours.index_digest == plain.index_digest
    for split in ("train", "test", "validation"):
        a, b = getattr(plain, split), getattr(ours, split)
        np.testing.assert_array_equal(a.labels, b.labels)
        for i in range(len(a.labels)):
            assert a.images.content(i) == b.images.content(i)
        assert a.images.name(0) in b.images.name(0)


def test_a_second_call_writes_only_damaged_shards(tree, prepared, tmp_path, capsys):
    assert run(tree, tmp_path) == 0
    shards = sorted(tmp_path.glob("train-*.array_record"))
    total = len(list(tmp_path.glob("*.array_record")))
    assert len(shards) > 2 and all(s.read_bytes() == (prepared / s.name).read_bytes() for s in shards)
    before = (tmp_path / "index.json").read_text()
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    (tmp_path / f"{shards[2].name}.json").write_text("{")  # as if the process was killed while writing it
    (tmp_path / "index.json").unlink()
    capsys.readouterr()
    assert run(tree, tmp_path) == 0
    assert f"2 shards written, {total - 2} were there" in capsys.readouterr().err
    assert (tmp_path / "index.json").read_text() == before
    assert shards[1].read_bytes() == (prepared / shards[1].name).read_bytes()


def test_two_workers_write_the_same_shards(tree, prepared, tmp_path):
    assert run(tree, tmp_path, "--workers=2") == 0
    assert (tmp_path / "index.json").read_text() == (prepared / "index.json").read_text()


def test_bucket(tree, prepared, monkeypatch):
    """gs:// paths with a file system in memory."""
    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", lambda self, name: fsspec.filesystem("memory"))
    out = epath.Path("gs://bucket/places")
    assert run(tree, out) == 0
    assert (out / "index.json").read_text() == (prepared / "index.json").read_text()
    from_bucket, local = data.load(config_for("prepared", out)), data.load(config_for("prepared", prepared))
    assert from_bucket.train.images.content(3) == local.train.images.content(3)


def test_small_sets_and_shrinking(tree, tmp_path):
    words = ["prepare", "--name=digits", f"--out={tmp_path / 'digits'}", "--shard_size=1200", "--workers=1"]
    assert prepare.main(words) == 0
    ours = records.prepared(config_for("prepared", tmp_path / "digits"))
    plain = data.sources.SOURCES["digits"](config_for("digits", ""))
    for i in (0, 77, 1200):
        np.testing.assert_array_equal(ours.train.image(i), plain.train.image(i))
    assert run(tree, tmp_path / "small", "--size=24") == 0
    small = records.prepared(config_for("prepared", tmp_path / "small"))
    assert {min(small.test.image(i).shape[:2]) for i in range(len(small.test))} == {24}


def test_broken_image(tree, tmp_path, capsys):
    for split, c in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (tmp_path / "in" / split / c).mkdir(parents=True)
        for i in range(2):
            content = (tree / "train/scene0" / f"{i:08d}.jpg").read_bytes()
            (tmp_path / "in" / split / c / f"{i}.jpg").write_bytes(content)
    (tmp_path / "in/train/a/1.jpg").write_bytes(b"")
    words = ["prepare", "--name=folder", f"--dir={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--workers=1"]
    assert prepare.main(words) == 2
    assert f"lt_jax: {tmp_path}/in/train/a/1.jpg: the file is empty" in capsys.readouterr().err
    with pytest.raises(errors.BadInput, match="no index.json"):
        records.prepared(config_for("prepared", tmp_path / "out"))
    assert prepare.main([*words, "--on_bad_image=skip"]) == 0
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["splits"]["train"]["skipped"] == [f"{tmp_path}/in/train/a/1.jpg: the file is empty"]
    assert index["upright"] and data.load(config_for("prepared", tmp_path / "out")).counts.tolist() == [1, 2]
    next((tmp_path / "out").glob("train*.array_record")).unlink()
    with pytest.raises(errors.BadInput, match="array_record is missing: run python -m lt_jax.data.prepare again"):
        records.prepared(config_for("prepared", tmp_path / "out"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name=folders", "--out=x"], "--name: expected one of digits"),
        (["--name=folder"], "--out: expected a folder"),
        (["--name=folder", "--out=x", "--workers=two"], "invalid int value: 'two'"),
        (["--name=folder", "--out=x", "--shard=1"], "unexpected argument"),
        (["--name=folder", "--out=x", "--on_bad_image=no"], "expected error or skip"),
        (["--name=folder", "--out=x", "--dir=nowhere"], "nowhere is not there"),
    ],
)
def test_invalid_flags(words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert prepare.main(["prepare", *words]) == 2
    assert message in capsys.readouterr().err


def test_full_disk(tree, tmp_path, monkeypatch, capsys):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    assert run(tree, tmp_path) == 1
    assert "no space left to write" in capsys.readouterr().err


def small_tree(folder):
    """Writes two classes of three training images and one test image."""
    for name in "ab":
        (folder / "train" / name).mkdir(parents=True)
        (folder / "test" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (9, 9), (40 * i, ord(name), 0)).save(folder / "train" / name / f"{i}.png")
        Image.new("RGB", (9, 9), (9, ord(name), 0)).save(folder / "test" / name / "0.png")
    return folder


def test_shards_are_written_again_after_pixels_change(tmp_path, capsys):
    tree = small_tree(tmp_path / "in")
    out = tmp_path / "out"
    words = ["x", "--name=folder", f"--dir={tree}", f"--out={out}", "--workers=1", "--shard_size=2"]
    assert prepare.main(words) == 0
    blanked = tree / "train/a/1.png"
    times = blanked.stat().st_atime_ns, blanked.stat().st_mtime_ns
    before = blanked.read_bytes()
    Image.new("RGB", (9, 9)).save(blanked)
    os.utime(blanked, ns=times)
    capsys.readouterr()
    assert prepare.main(words) == 0
    assert "1 shards written, 3 were there" in capsys.readouterr().err
    assert blanked.read_bytes() in all_contents(out) and before not in all_contents(out)
    os.utime(tree / "train/b/0.png")  # a new time stamp, the same pixels
    assert prepare.main(words) == 0
    assert "0 shards written, 4 were there" in capsys.readouterr().err


def test_shards_of_removed_images_are_removed(tmp_path):
    tree, out = small_tree(tmp_path / "in"), tmp_path / "out"
    words = ["x", "--name=folder", f"--dir={tree}", f"--out={out}", "--workers=1", "--shard_size=2"]
    assert prepare.main(words) == 0
    removed = (tree / "train/a/2.png").read_bytes()
    (tree / "train/a/2.png").unlink()
    (tree / "train/b/2.png").unlink()
    assert prepare.main(words) == 0
    assert len(data.load(config_for("prepared", out)).train.labels) == 4
    assert sorted(path.name for path in out.glob("train*.array_record")) == [
        "train-00000-of-00002.array_record",
        "train-00001-of-00002.array_record",
    ]
    assert not any(removed in path.read_bytes() for path in out.glob("*.array_record"))


def test_a_shard_that_differs_from_the_index_is_refused(tmp_path, run_main, tiny, capsys):
    tree, out = small_tree(tmp_path / "in"), tmp_path / "out"
    assert prepare.main(["x", "--name=folder", f"--dir={tree}", f"--out={out}", "--workers=1"]) == 0
    words = (
        "--config=configs/folder.py:smoke",
        "--config.data.generated=0",
        "--config.data.name=prepared",
        f"--config.data.dir={out}",
        "--config.data.workers=0",
        "--config.data.image_size=8",
        "--config.encoder.name=resnet_small",
        "--config.encoder.stem=small",
        "--config.dtype=float32",
        "--config.stages=('baseline','evaluate')",
        tiny[-1],
        f"--workdir={tmp_path / 'run'}",
    )
    assert run_main(*words) == 0
    shard = next(out.glob("train*.array_record"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    capsys.readouterr()
    assert run_main(*words) == 2
    assert f"{shard.name} does not hold the images that index.json lists" in capsys.readouterr().err
    assert prepare.main(["x", "--name=folder", f"--dir={tree}", f"--out={out}", "--workers=1"]) == 0
    assert run_main(*words) == 0
    assert "baseline: complete" in capsys.readouterr().err


def test_outdated_local_copies_of_a_bucket_are_not_used(tmp_path, monkeypatch):
    """The bucket is prepared again with other pixels under the same names."""
    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", lambda self, name: fsspec.filesystem("memory"))
    tree, out = small_tree(tmp_path / "in"), epath.Path("gs://bucket/small")
    words = ["x", "--name=folder", f"--dir={tree}", f"--out={out}", "--workers=1"]
    assert prepare.main(words) == 0
    before = (tree / "train/a/0.png").read_bytes()
    assert before in all_contents(out)
    Image.new("RGB", (9, 9), "white").save(tree / "train/a/0.png")
    assert prepare.main(words) == 0
    assert (tree / "train/a/0.png").read_bytes() in all_contents(out) and before not in all_contents(out)


def all_contents(out):
    images = data.load(config_for("prepared", out)).train.images
    return [images.content(i) for i in range(len(images))]
