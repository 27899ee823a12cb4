"""Files are written completely or not at all; errors of the disk become one line."""

import errno
import json
import pathlib

import numpy as np
import pytest
from etils import epath

from lt_jax.core import errors, files, log


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "result.json")
    files.write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(errors.RunFailed, match=f"no space left to write {path}"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
    assert files.read_json(tmp_path / "x.json") is None


def test_arrays_are_read_as_written(tmp_path):
    files.write_npz(tmp_path / "a.npz", x=np.arange(3), method="eigen")
    arrays = files.read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["x"], [0, 1, 2])
    assert str(arrays["method"]) == "eigen"
    files.write_npy(tmp_path / "deep" / "b.npy", np.eye(2))
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "b.npy", mmap_mode="r"), np.eye(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "deep"]


def test_metrics_after_the_restored_step_are_removed(tmp_path):
    metrics = log.Metrics(epath.Path(tmp_path))
    for step in (1, 2, 3):
        metrics.add(stage="pretrain", step=step)
    metrics.add(stage="probe", step=3)
    metrics.flush()
    with pathlib.Path(tmp_path, "metrics.jsonl").open("a") as file:
        file.write('{"stage": "pre')  # an incomplete line, as after a kill
    again = log.Metrics(epath.Path(tmp_path))
    again.cut("pretrain", after=2)
    again.flush()
    lines = [json.loads(line) for line in pathlib.Path(tmp_path, "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("pretrain", 1), ("pretrain", 2), ("probe", 3)]


def test_a_folder_that_was_half_copied_is_copied_again(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "features.npy").write_bytes(b"12345678")
    monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    copy = type(epath.Path(source)).copy

    def killed(path, destination, **options):
        copy(path, destination, **options)
        epath.Path(destination).write_bytes(b"1234")
        raise KeyboardInterrupt

    monkeypatch.setattr(type(epath.Path(source)), "copy", killed)
    with pytest.raises(KeyboardInterrupt):
        files.copy_folder(source, target)
    assert not (target / "features.npy").exists()
    monkeypatch.setattr(type(epath.Path(source)), "copy", copy)
    files.copy_folder(source, target)
    assert (target / "features.npy").read_bytes() == b"12345678"
    assert [path.name for path in target.iterdir()] == ["features.npy"]
