"""Smoke forms of the large sets: their code path on a generated JPEG tree in the true layout."""

import json
import multiprocessing
import os
import pathlib
import signal

import numpy as np
import pytest

from configs import common
from lt_jax import data
from lt_jax.data import batches
from lt_jax.data.sources import generated
from lt_jax.sampling import orders


def load(name):
    config = common.data(name, largest=0, imbalance_factor=1.0)
    config.update(profile="all", generated=6, image_size=16, workers=0)
    return data.load(config)


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt", "inat2018", "folder"])
def test_generated_tree_has_the_true_layout(name):
    dataset, root = load(name), generated.tree(name, 6)
    expected = {
        "imagenet_lt": ("ImageNet_LT_train.txt", r"train/n00000000/n00000000_0.JPEG"),
        "places_lt": ("Places_LT_train.txt", "train/scene0/00000000.jpg"),
        "inat2018": ("train2018.json", "train_val2018/Aves/0/00000000000000000000000000000000.jpg"),
        "folder": ("train", "train/class0/0.jpg"),
    }[name]
    assert (root / expected[0]).exists() and (root / expected[1]).is_file()
    assert dataset.num_classes == 6 and dataset.counts[0] == 24 and dataset.counts[-1] == 2
    assert (dataset.validation is not None) == (name in ("imagenet_lt", "places_lt"))
    assert np.bincount(dataset.test.labels).tolist() == [3] * 6
    train = {dataset.train.images.name(i).split(" (")[0] for i in range(len(dataset.train.labels))}
    test = {dataset.test.images.name(i).split(" (")[0] for i in range(len(dataset.test.labels))}
    assert not train & test and all(pathlib.Path(path).is_file() for path in train | test)


def words(tiny, name, workdir, *more):
    return (
        tiny[-1],  # the cache of compiled programs
        f"--config=configs/{name}.py:smoke,encoder=resnet_small", "--config.dtype=float32",
        "--config.pretrain.projector=(16,8)", f"--workdir={workdir}", "--config.data.workers=0", *more,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["paper", "official"])
def test_smoke_form_runs_every_stage(tmp_path, run_main, tiny, loss):
    name = {"paper": "inat2018", "official": "places_lt"}[loss]
    assert run_main(*words(tiny, name, tmp_path, f"--config.pretrain.loss={loss}")) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["dataset"]["train_size"] == sum(result["dataset"]["counts"]) and result["dataset"]["num_classes"] == 6
    assert np.load(tmp_path / "features/train.features.npy").shape[0] == result["dataset"]["train_size"]
    subsets = [np.load(path) for path in sorted((tmp_path / "subsets").iterdir())]
    assert [np.bincount(subset["labels"]).max() for subset in subsets] == [5, 5]
    assert not np.array_equal(subsets[0]["indices"], subsets[1]["indices"])
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_run_whose_worker_was_killed_can_be_resumed(tmp_path, run_main, tiny, capsys, monkeypatch):
    """It ends with status 1 and one line. The resumed run logs the same metrics as an uninterrupted one."""
    more = (
        "--config.stages=('pretrain',)", "--config.data.workers=1", "--config.pretrain.epochs=8",
        "--config.checkpoint.every_steps=2",
    )  # fmt: skip
    assert run_main(*words(tiny, "folder", tmp_path / "unbroken", *more)) == 0
    ask = batches.Streamed.__call__

    def kill_at_six(self, step):
        for child in multiprocessing.active_children() if step == 6 else ():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        return ask(self, step)

    monkeypatch.setattr(batches.Streamed, "__call__", kill_at_six)
    monkeypatch.setattr("lt_jax.data.stream._AHEAD", 1)
    capsys.readouterr()
    status = run_main(*words(tiny, "folder", tmp_path / "broken", *more))
    error_lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lt_jax: ")]
    assert status == 1 and len(error_lines) == 1 and "a process that reads images has ended" in error_lines[0]
    monkeypatch.setattr(batches.Streamed, "__call__", ask)
    assert run_main(*words(tiny, "folder", tmp_path / "broken", *more)) == 0
    assert "pretrain: resuming from step" in capsys.readouterr().err
    unbroken, broken = (
        [
            {key: value for key, value in json.loads(line).items() if key != "images_per_s"}
            for line in (tmp_path / which / "metrics.jsonl").read_text().splitlines()
        ]
        for which in ("unbroken", "broken")
    )
    assert unbroken == broken


def resident():
    """Returns the resident memory of this process and its workers in bytes."""
    total = 0
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        total += 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
    return total


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_over_ten_thousand_batches():
    dataset = load("folder")
    object.__setattr__(dataset.train.images, "workers", 1)
    fed = batches.feed(dataset.train, orders.Order(dataset.train.labels, 2, seed=0), 2, 0, 0.3)
    seen = []
    for step in range(10_000):
        batch = fed(step)
        assert batch["images"].shape == (2, 16, 16, 3)
        if step % 1000 == 999:
            seen.append(resident())
    fed.close()
    assert max(seen[5:]) < seen[1] + 20 * 2**20, seen
