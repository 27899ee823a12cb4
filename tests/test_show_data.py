"""--stage=show_data, and the description of the data in run.json."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import common, folder
from lt_jax import data
from lt_jax.serve import show_data


def test_show_data_prints_and_draws(tmp_path, run_main, capsys):
    assert run_main("--stage=show_data", f"--workdir={tmp_path}") == 0
    stderr = capsys.readouterr().err
    assert "digits: 10 classes, 120 to 4 training images a class, imbalance factor 30" in stderr
    assert "splits: train 383, test 500" in stderr
    assert "groups: many 2 classes, medium 4 classes, few 4 classes" in stderr
    assert "images that train and test share: 0" in stderr
    dataset = data.load(common.data("digits", largest=120, imbalance_factor=25))
    assert dataset.digest in stderr and dataset.index_digest in stderr
    columns = 3 + len(show_data.FAMILIES)
    with Image.open(tmp_path / "figures/contact_sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (16 + 96 * 8, 120 + 96 * columns, 3)
    for column in range(columns):  # no column is empty, and every family changes the image
        cell = pixels[16 : 16 + 92, 120 + 96 * column : 120 + 96 * column + 92]
        assert cell.std() > 10
        if column:
            assert not np.array_equal(cell, pixels[16 : 16 + 92, 120 : 120 + 92])
    assert not (tmp_path / "stages").exists()


def test_duplicates_are_named(tmp_path):
    config = folder.get_config("smoke")
    config.data.workers = 0
    root = data.sources.folders.generated.tree("folder", 6)
    twin = (root / "test/class0/0.jpg").read_bytes()
    for split in ("train", "test"):
        for c in "ab":
            (tmp_path / split / c).mkdir(parents=True)
            for i in range(2):
                name = f"{split}{c}{i}".encode()
                (tmp_path / split / c / f"{i}.jpg").write_bytes(twin + name)  # decoders ignore bytes after the end
    (tmp_path / "train/b/1.jpg").write_bytes((tmp_path / "test/a/0.jpg").read_bytes())
    config.data.dir = str(tmp_path)
    summary = show_data.summary(data.load(config.data))
    assert "images that train and test share: 1" in summary
    assert f"{tmp_path}/train/b/1.jpg = {tmp_path}/test/a/0.jpg" in summary


def test_show_data_refuses_features(tmp_path, run_main, capsys):
    np.savez(tmp_path / "x.npz", features=np.ones((4, 2)), labels=[0, 0, 1, 1], test_features=np.ones((2, 2)),
             test_labels=[0, 1])  # fmt: skip
    words = ("--config.data.name=features", "--config.data.profile=all", f"--config.data.list={tmp_path / 'x.npz'}")
    assert run_main("--stage=show_data", *words, f"--workdir={tmp_path / 'run'}") == 2
    assert "features holds no images" in capsys.readouterr().err


def test_run_json_describes_the_data_after_a_second_call_too(copied, run_main, tiny):
    assert run_main(*tiny, f"--workdir={copied}") == 0
    run = json.loads((copied / "run.json").read_text())["data"]
    result = json.loads((copied / "result.json").read_text())["dataset"]
    assert run["index_digest"] == result["index_digest"] and run["counts"] == result["counts"]
    assert run["skipped"] == {"count": 0, "images": []} and len(run["digest"]) == 64


@pytest.mark.slow
def test_a_broken_image_is_a_one_line_error_and_skip_lists_it(tmp_path, run_main, tiny, capsys):
    root = tmp_path / "data"
    source = data.sources.folders.generated.tree("folder", 6)
    for file in source.rglob("*.jpg"):
        target = root / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    (root / "train/class0/3.jpg").write_bytes(b"")
    words = (
        tiny[-1], "--config=configs/folder.py:smoke,encoder=resnet_small", f"--config.data.dir={root}",
        "--config.data.generated=0", "--config.data.workers=0", "--config.dtype=float32",
        "--config.stages=('baseline','evaluate')", "--config.baseline.epochs=1", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert run_main(*words) == 2
    error_lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lt_jax: ")]
    assert error_lines == [f"lt_jax: {root}/train/class0/3.jpg: the file is empty"]
    assert run_main(*words, "--config.data.on_bad_image=skip", f"--workdir={tmp_path / 'other'}") == 0
    skipped = json.loads((tmp_path / "other/run.json").read_text())["data"]["skipped"]
    assert skipped["count"] == 1 and skipped["images"] == [f"{root}/train/class0/3.jpg: the file is empty"]


@pytest.mark.slow
def test_a_work_directory_inside_the_image_folder_is_not_a_class(tmp_path, run_main, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16, 3), np.uint8)
    for (c, i), image in ((index, pixels[index]) for index in np.ndindex(2, 6)):
        (tmp_path / f"class{c}").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"class{c}/{i}.png")
    words = (
        "--stage=show_data", "--config=configs/folder.py:smoke", f"--config.data.dir={tmp_path}",
        "--config.data.generated=0", "--config.data.workers=0", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert run_main(*words) == 0
    assert (tmp_path / "run/figures/contact_sheet.png").exists() and (tmp_path / "run/run.json").exists()
    (tmp_path / "run/lock.json").unlink(missing_ok=True)
    capsys.readouterr()
    assert run_main(*words) == 0
    assert ": 2 classes," in capsys.readouterr().err


def test_advice_in_plain_words():
    lines = show_data.advice(np.array([400, 80, 4, 3]), ("cat", "dog", "owl", "elk"))
    text = "\n".join(lines)
    assert "imbalance factor 133: plain cross-entropy will neglect the rare classes" in text
    assert "2 classes have fewer than 5 images (elk, owl)" in text and "487 training images are few" in text
    assert "scratch,k=30 keeps" in text
    text = "\n".join(show_data.advice(np.array([30_000, 20_000]), ("a", "b")))
    assert "nearly balanced" in text and "fewer than" not in text and "are few" not in text and "k=" not in text
