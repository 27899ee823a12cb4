"""A work directory in an object store without append, rename or folders. The store is in memory, under gs://.

Checkpoints are not tested here: orbax writes them through a driver of its own that needs a real bucket.
"""

import io
import json
import os

import fsspec
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from lt_jax.core import errors, files, lock, log
from lt_jax.serve import classifier
from lt_jax.train import checkpoint


class Store(MemoryFileSystem):
    """A file system with the operations of an object store: reading and writing whole objects."""

    protocol = ("gs", "gcs")
    store: dict = {}
    pseudo_dirs: list = []
    opened: list = []

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")

    def makedirs(self, path, exist_ok=False):
        """Does nothing: a folder exists when it holds an object."""

    def _open(self, path, mode="rb", **kwargs):
        assert mode in ("rb", "wb"), f"{path} was opened with {mode}"
        self.opened.append((path, mode))
        return super()._open(path, mode, **kwargs)

    def glob(self, path, **kwargs):
        return [name.lstrip("/") for name in super().glob(path, **kwargs)]

    def mv(self, *_, **__):
        raise AssertionError("an object store cannot rename")


@pytest.fixture
def bucket(monkeypatch):
    for listed in (Store.store, Store.pseudo_dirs, Store.opened):
        listed.clear()
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: Store(skip_instance_cache=True))
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield "gs://bucket/run"
    backend.fsspec_backend._get_filesystem.cache_clear()


def test_files_are_whole_objects(bucket):
    workdir = files.prepare_folder(bucket)
    files.write_json(workdir / "stages" / "pretrain.json", {"a": 1})
    files.write_npz(workdir / "subsets" / "0.npz", indices=np.arange(3))
    assert files.read_json(workdir / "stages" / "pretrain.json") == {"a": 1}
    assert files.read_json(workdir / "stages" / "probe.json") is None
    np.testing.assert_array_equal(files.read_npz(workdir / "subsets" / "0.npz")["indices"], np.arange(3))
    assert sorted(Store.store) == ["/bucket/run/stages/pretrain.json", "/bucket/run/subsets/0.npz"]


def test_metrics_grow_and_are_cut_without_append(bucket):
    workdir = epath.Path(bucket)
    for start in (0, 2):  # the second run resumes from step 2
        metrics = log.Metrics(workdir)
        metrics.cut("pretrain", after=start)
        for step in range(start + 1, start + 4):
            metrics.add(stage="pretrain", step=step)
        metrics.flush()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert {mode for path, mode in Store.opened if path.endswith("metrics.jsonl")} == {"rb", "wb"}


def test_files_of_an_interrupted_save_are_removed(bucket):
    folder = epath.Path(bucket) / "checkpoints" / "pretrain"
    for name in ("4/state/data", "6.orbax-checkpoint-tmp-1/state/data"):
        (folder / name).write_bytes(b"x")
    checkpoint._clean(folder)
    assert list(Store.store) == ["/bucket/run/checkpoints/pretrain/4/state/data"]


@pytest.fixture
def features(tmp_path):
    """Returns a file of features for a run without an encoder."""
    generator = np.random.default_rng(0)
    labels, test = np.repeat(np.arange(4), [40, 20, 10, 5]), np.repeat(np.arange(4), 5)
    centres = generator.normal(size=(4, 8)) * 3
    arrays = {
        "features": centres[labels] + generator.normal(size=(75, 8)),
        "labels": labels,
        "test_features": centres[test] + generator.normal(size=(20, 8)),
        "test_labels": test,
    }
    np.savez(tmp_path / "features.npz", **{k: v.astype(np.float32 if "feat" in k else int) for k, v in arrays.items()})
    return tmp_path / "features.npz"


def test_a_whole_run_in_a_bucket(bucket, features, run_main, tiny):
    words = ["--config=configs/dlsa_features.py:smoke", f"--config.data.list={features}", tiny[-1]]
    assert run_main(*words, f"--workdir={bucket}") == 0
    workdir = epath.Path(bucket)
    assert json.loads((workdir / "result.json").read_text())["status"] == "complete"
    assert {"config.json", "run.json", "report.html", "features", "figures"} <= {p.name for p in workdir.iterdir()}
    before = dict(Store.store)
    assert run_main(*words, f"--workdir={bucket}") == 0
    changed = {path for path in before if Store.store[path] is not before[path]}
    assert changed <= {"/bucket/run/config.json", "/bucket/run/run.json"}, changed
    assert run_main(*words, "--config.dlsa.classifier.epochs=3", f"--workdir={bucket}") == 0


def test_a_bucket_has_one_owner(bucket, monkeypatch):
    monkeypatch.setattr(lock, "_SETTLE_S", 0.1)
    workdir = epath.Path(bucket)
    with lock.owned(workdir):
        assert "/bucket/run/lock.json" in Store.store
        with pytest.raises(errors.BadInput, match="gs://bucket/run is in use by process"), lock.owned(workdir):
            pass
    assert not Store.store


def test_predict_finds_images_in_a_bucket(bucket, capsys):
    jpeg = io.BytesIO()
    Image.new("RGB", (4, 4)).save(jpeg, "JPEG")
    folder = epath.Path("gs://bucket/pictures")
    for name in ("a.jpg", "sub/b", "sub/c.jfif", ".hidden/d.jpg", "@eaDir/e.jpg", "sub/Thumbs.db"):
        (folder / name).write_bytes(jpeg.getvalue())
    (folder / "notes.txt").write_bytes(b"words")
    (folder / "f.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    names = [os.fspath(path).removeprefix("gs://bucket/pictures/") for path in classifier.find_images([str(folder)])]
    assert names == ["a.jpg", "sub/b", "sub/c.jfif"]
    assert "2 files skipped: 1 .heic (f.HEIC), 1 .txt (notes.txt); HEIC cannot be read" in capsys.readouterr().err
    assert classifier.find_images([f"{folder}/a.jpg"]) == [folder / "a.jpg"]
