"""Data, weights and pretrainings are identified by content; changes are detected, and the message names them."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from lt_jax.core import errors
from lt_jax.run import graph, inputs

FLAGS = (
    "--config=configs/folder.py:smoke",
    "--config.data.generated=0",
    "--config.data.image_size=8",
    "--config.data.hold=True",
    "--config.encoder.name=resnet_small",
    "--config.encoder.width=4",
    "--config.encoder.stem=small",
    "--config.dtype=float32",
    "--config.pretrain.projector=(16,8)",
)
PLAIN = ("--config.stages=('baseline','evaluate','report')",)
BNS = ("--config.stages=('pretrain','retrain','evaluate')",)


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def picture(file, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, "PNG")


@pytest.fixture
def images(tmp_path):
    """Returns a folder of two classes with 12 and 6 training images and 4 test images each."""
    for split, counts in (("train", (12, 6)), ("test", (4, 4))):
        for label, count in enumerate(counts):
            for i in range(count):
                picture(tmp_path / "images" / split / "ab"[label] / f"{i:02d}.png", 100 * label + i + len(split))
    return tmp_path / "images"


@pytest.fixture
def start(images, tmp_path, run_main, tiny, capsys):
    """Returns start(*flags) -> (exit status, standard error) of a run on `images` in one work directory."""

    def run(*flags, workdir=tmp_path / "run", folder=images):
        capsys.readouterr()
        status = run_main(*FLAGS, tiny[-1], f"--config.data.dir={folder}", f"--workdir={workdir}", *flags)
        return status, capsys.readouterr().err

    return run


@pytest.mark.slow
def test_unchanged_images_may_be_moved(start, images, tmp_path, monkeypatch):
    assert start(*PLAIN)[0] == 0
    before = (tmp_path / "run/result.json").read_bytes()
    os.utime(images / "train/a/00.png")  # a new time stamp, the same image
    status, err = start(*PLAIN)
    assert status == 0 and "baseline: complete" in err and "evaluate: complete" in err
    shutil.copytree(images, tmp_path / "moved")
    monkeypatch.setenv("LT_JAX_DATA", str(tmp_path / "moved"))
    status, err = start(*PLAIN, "--config.data.dir=")
    assert status == 0 and "baseline: complete" in err and "evaluate: complete" in err
    assert (tmp_path / "run/result.json").read_bytes() == before


@pytest.mark.slow
def test_added_images_rerun_the_stages_that_depend_on_them(start, images, tmp_path):
    assert start(*PLAIN)[0] == 0
    for i in range(30):
        picture(images / "train/b" / f"x{i}.png", 1000 + i)
    status, err = start(*PLAIN)
    assert status == 0
    assert "baseline: content of the training images (30 added (train/b/x0.png, ...)) changed, so it is run anew" in err
    assert read(tmp_path / "run/result.json")["dataset"]["counts"] == [12, 36]


def test_changed_pixels_with_the_same_name_and_time_are_detected(start, images, tmp_path):
    assert start(*PLAIN)[0] == 0
    file = images / "train/a/03.png"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    size = file.stat().st_size
    content = bytearray(file.read_bytes())
    picture(file, 999)
    new = bytearray(file.read_bytes())
    assert new != content
    file.write_bytes((new + bytes(size))[:size] if len(new) < size else new[:size])
    picture(file, 999) if len(new) > size else None
    os.utime(file, ns=times)
    status, err = start(*PLAIN)
    assert status == 0 and "content of the training images (1 changed (train/a/03.png)) changed" in err


def test_changed_test_images_rerun_only_the_evaluation(start, images, tmp_path):
    assert start(*PLAIN)[0] == 0
    trained = (tmp_path / "run/stages/baseline.json").read_bytes()
    (images / "test/b/03.png").unlink()
    status, err = start(*PLAIN)
    assert status == 0 and "baseline: complete" in err
    assert "evaluate: content of the test images (1 removed (test/b/03.png)) changed" in err
    assert (tmp_path / "run/stages/baseline.json").read_bytes() == trained
    assert len(np.load(tmp_path / "run/predictions.npz")["labels"]) == 7


def test_changed_images_after_a_finished_pretraining_are_refused(start, images, tmp_path):
    assert start(*BNS)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    picture(images / "train/b/new.png", 7)
    for _ in range(2):
        status, err = start(*BNS, "--config.retrain.k=4")
        assert status == 2
        line = err.strip().splitlines()[-1]
        assert "holds a finished pretraining" in line and "1 added (train/b/new.png)" in line and "--workdir" in line
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    (images / "train/b/new.png").unlink()
    assert start(*BNS)[0] == 0


def test_the_first_run_continues_after_a_broken_image_is_deleted(start, images):
    broken = images / "train/a/05.png"
    broken.write_bytes(b"no image")
    status, err = start(*BNS)
    assert status == 2 and "train/a/05.png" in err
    broken.unlink()
    assert start(*BNS)[0] == 0


def test_a_single_stage_refuses_outdated_input(start, tmp_path):
    assert start(*BNS)[0] == 0
    status, err = start(*BNS, "--stage=evaluate", "--config.retrain.k=4")
    assert status == 2
    assert "--stage=evaluate: retrain in" in err and "retrain.k (was 5, now 4)" in err and "--stage=retrain" in err
    assert read(tmp_path / "run/config.json")["retrain"]["k"] == 5


@pytest.mark.slow
def test_a_run_with_init_from_continues_without_the_source_folder(start, tmp_path, monkeypatch):
    assert start(*BNS, workdir=tmp_path / "source")[0] == 0
    monkeypatch.chdir(tmp_path)
    words = (*BNS, "--config.init_from=source", "--config.seed=3")
    assert start(*words)[0] == 0
    before = (tmp_path / "run/result.json").read_bytes()
    shutil.rmtree(tmp_path / "source")
    status, err = start(*words)
    assert status == 0 and "retrain: complete" in err and "evaluate: complete" in err
    status, err = start(*words, "--config.retrain.k=4")
    assert status == 0 and "retrain: retrain.k" in err
    assert start(*BNS, "--config.seed=9", workdir=tmp_path / "source")[0] == 0  # trained again, with another seed
    assert start(*words)[0] == 0
    assert read(tmp_path / "run/result.json")["test"] == json.loads(before)["test"]
    status, err = start(*BNS, "--config.init_from=other")
    assert status == 2 and "holds the pretraining of" in err


@pytest.mark.slow
def test_init_from_refuses_a_pretraining_on_different_images(start, images, tmp_path):
    assert start(*BNS, workdir=tmp_path / "source")[0] == 0
    picture(images / "train/a/00.png", 999)
    status, err = start(*BNS, f"--config.init_from={tmp_path / 'source'}")
    assert status == 2 and "has seen other training images" in err and not (tmp_path / "run/stages").exists()


@pytest.mark.slow
def test_the_comparison_refuses_different_images_and_outdated_results(start, images, tmp_path, capsys):
    from lt_jax.report.__main__ import main as report

    assert start(*PLAIN, workdir=tmp_path / "a")[0] == 0
    picture(images / "train/b/new.png", 7)
    assert start(*PLAIN, "--config.seed=1", workdir=tmp_path / "b")[0] == 0
    words = [str(tmp_path / "a"), str(tmp_path / "b"), f"--out={tmp_path / 'page.html'}"]
    assert report(words) == 2
    assert "equal settings, but were made from other training images" in capsys.readouterr().err
    picture(images / "test/b/new.png", 8)
    assert start(*PLAIN, "--config.seed=1", "--config.baseline.epochs=1", workdir=tmp_path / "b")[0] == 0
    assert report(words) == 2
    assert "tested on other images of folder" in capsys.readouterr().err
    config = read(tmp_path / "a/config.json")
    config["baseline"]["epochs"] = 7.0
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    assert report([str(tmp_path / "a"), f"--out={tmp_path / 'page.html'}"]) == 2
    assert "result.json was made from other settings than the run has now" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_result_holds_the_digests_of_its_inputs(start, tmp_path):
    assert start(*PLAIN)[0] == 0
    result, run = read(tmp_path / "run/result.json"), read(tmp_path / "run/run.json")
    assert result["digests"]["data"] == run["data"]["digest"] and len(result["digests"]["data"]) == 64
    assert result["digests"]["weights"] is None and len(result["digests"]["config"]) == 16


def exported_resnet(file, seed=0, blocks=1):
    """Writes weights of the tiny encoder under torchvision's names, with `blocks` blocks per stage."""
    rng, tensors = np.random.default_rng(seed), {}

    def norm(name, width):
        tensors.update({f"{name}.{part}": np.full(width, value, np.float32) for part, value in NORM.items()})

    def conv(name, *shape):
        tensors[f"{name}.weight"] = rng.normal(0, 0.2, shape).astype(np.float32)

    conv("conv1", 4, 3, 3, 3)
    norm("bn1", 4)
    for stage, width in enumerate((4, 8, 16)):
        for block in range(blocks):
            before = width if block or not stage else width // 2
            for number, channels in ((1, before), (2, width)):
                conv(f"layer{stage + 1}.{block}.conv{number}", width, channels, 3, 3)
                norm(f"layer{stage + 1}.{block}.bn{number}", width)
            if stage and not block:
                conv(f"layer{stage + 1}.0.downsample.0", width, before, 1, 1)
                norm(f"layer{stage + 1}.0.downsample.1", width)
    np.savez(file, **tensors)


NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def test_weights_are_identified_by_content(start, tmp_path):
    file, words = tmp_path / "w.npz", (*PLAIN, f"--config.encoder.weights={tmp_path / 'w.npz'}")
    exported_resnet(file)
    assert start(*words)[0] == 0
    shutil.copy(file, tmp_path / "copy.npz")
    status, err = start(*PLAIN, f"--config.encoder.weights={tmp_path / 'copy.npz'}")
    assert status == 0 and "baseline: complete" in err
    exported_resnet(file, seed=1)
    status, err = start(*words)
    assert status == 0 and "baseline: content of the file in encoder.weights changed, so it is run anew" in err
    exported_resnet(file, blocks=2)  # a deeper network, whose first blocks have the same shapes
    status, err = start(*words)
    assert status == 2 and "that this encoder does not have" in err


@pytest.mark.slow
def test_a_subset_of_other_settings_is_never_used(start, tmp_path):
    """After a kill between the draw and the first save, a subset of another k, method, key or p is drawn again."""
    words = (*BNS, "--config.retrain.k=4")
    assert start(*words)[0] == 0
    file = tmp_path / "run/subsets/0.npz"
    first = dict(np.load(file))
    for change in ({"k": 5}, {"method": "uniform"}, {"key": first["key"] + 1}, {"log_p": first["log_p"] - 1}):
        shutil.rmtree(tmp_path / "run/checkpoints/retrain")
        entry = read(tmp_path / "run/stages/retrain.json")
        (tmp_path / "run/stages/retrain.json").write_text(json.dumps({**entry, "status": "running"}))
        np.savez(file, **{**first, "indices": first["indices"][:1], "labels": first["labels"][:1], **change})
        assert start(*words)[0] == 0
        again = np.load(file)
        for key, value in first.items():
            np.testing.assert_array_equal(again[key], value)


def test_stages_that_measure_validation_images_depend_on_them():
    digests = {"train": "a", "test": "b", "validation": "c", "weights": None}
    for stage in ("probe", "dlsa", "features", "heads", "evaluate"):
        assert inputs.Inputs(digests).of_stage(stage)["content.validation"] == "c"


@pytest.mark.slow
def test_a_stage_whose_removal_was_killed_is_not_complete(start, tmp_path, monkeypatch):
    assert start(*PLAIN)[0] == 0
    monkeypatch.setattr(graph, "_remove", lambda *_: (_ for _ in ()).throw(errors.RunFailed("killed")))
    assert start(*PLAIN, "--config.baseline.base_learning_rate=0.002")[0] == 1
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "run/checkpoints/baseline")
    status, printed = start(*PLAIN)
    assert status == 0 and "baseline: complete" not in printed
    assert (tmp_path / "run/checkpoints/baseline").exists()
