"""File names of arbitrary bytes: in training, in show_data, and in the three formats of predict."""

import csv
import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

import lt_jax
from configs import common
from lt_jax import data
from lt_jax.core import errors, log
from lt_jax.data import prepare
from lt_jax.serve import classifier, show_data

NAMES = (
    b"caf\xe9.jpg", "café.jpg".encode(), b"two\nlines.jpg", b"a\ttab.jpg", b"-dash.jpg", b"--out.jpg", b"'quote\".jpg",
    b'"first.jpg', b"comma,semi;colon.jpg", b"~tilde.jpg", b" blank .jpg", b"return\r.jpg", b"back\\slash.jpg",
    b"percent%41?#.jpg", b"~two\nlines.jpg", b"\x1b[31mred.jpg", "\u2028line.jpg".encode(), "日本.jpg".encode(),
    b"\xff\xfe",
)  # fmt: skip


def write(folder, name, seed=0):
    """Writes a JPEG file of 8 x 8 pixels; `name` is bytes."""
    os.makedirs(folder, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    with open(os.path.join(os.fsencode(folder), name), "wb") as file:
        Image.fromarray(pixels).save(file, "JPEG")


@pytest.fixture
def odd(tmp_path):
    for i, name in enumerate(NAMES):
        write(tmp_path / "odd", name, i)
    return tmp_path / "odd"


@pytest.fixture
def tree(tmp_path):
    """Two classes; the name of one of them has unusual bytes."""
    for split in ("train", "test"):
        for folder in (b"plain", b"na\xefve\nclass"):
            for i, name in enumerate(NAMES):
                write(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"data", split.encode(), folder)), name, i)
    return tmp_path / "data"


def load(root, **changes):
    config = common.data("folder", largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(root), workers=0, image_size=8, **changes)
    return data.load(config)


def test_images_of_any_name_are_read(tree):
    dataset = load(tree)
    assert dataset.class_names == ("na\\xefve\\nclass", "plain") and dataset.counts.tolist() == [len(NAMES)] * 2
    for i in range(len(dataset.train.labels)):
        assert dataset.train.images.image(i).shape == (8, 8, 3)
        assert dataset.train.images.name(i).isprintable()
    paths = {os.fsencode(os.path.basename(dataset.train.images.path(i))) for i in range(len(NAMES))}
    assert paths == set(NAMES)


def test_a_broken_image_with_an_unusual_name_is_reported_in_one_line(tree, capsys):
    (folder,) = (path for path in (tree / "train").iterdir() if path.name != "plain")
    with open(os.path.join(os.fsencode(folder), b"bad\n\xe9.jpg"), "wb"):
        pass
    assert load(tree, on_bad_image="skip").skipped == (
        f"{tree}/train/na\\xefve\\nclass/bad\\n\\xe9.jpg: the file is empty",
    )
    assert "bad\\n\\xe9.jpg: the file is empty" in capsys.readouterr().err


def test_summary_of_the_data(tree):
    assert f"{tree}/train/na\\xefve\\nclass/" in show_data.summary(load(tree))  # among the duplicates


@pytest.mark.slow
def test_show_data(tree, run_main, tmp_path, capsys):
    words = ["--config=configs/folder.py:smoke", f"--config.data.dir={tree}", "--config.data.workers=0",
             "--config.data.generated=0"]  # fmt: skip
    assert run_main(*words, "--stage=show_data", f"--workdir={tmp_path / 'run'}") == 0
    printed = capsys.readouterr().err
    assert "train/na\\xefve\\nclass/" in printed  # among the duplicates
    assert (tmp_path / "run/figures/contact_sheet.png").exists()


def test_prepared_images_of_any_name(tree, tmp_path):
    words = ["prepare", "--name=folder", f"--dir={tree}", f"--out={tmp_path / 'out'}", "--workers=1"]
    assert prepare.main(words) == 0
    config = common.data("prepared", largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(tmp_path / "out"), workers=0, image_size=8)
    dataset = data.load(config)
    assert dataset.class_names == ("na\\xefve\\nclass", "plain") and dataset.counts.tolist() == [len(NAMES)] * 2
    assert all(dataset.train.images.name(i).isprintable() for i in range(len(dataset.train.labels)))


@pytest.mark.slow
def test_training_to_the_report(tree, run_main, tmp_path, tiny, capsysbinary):
    words = (
        tiny[-1], "--config=configs/folder.py:smoke,encoder=resnet_small", f"--config.data.dir={tree}",
        "--config.data.generated=0", "--config.dtype=float32", "--config.stages=('baseline','evaluate','report')",
        "--config.baseline.epochs=1", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert run_main(*words) == 0
    assert lt_jax.load(tmp_path / "run").class_names == ("na\\xefve\\nclass", "plain")
    assert "na\\xefve\\nclass" in (tmp_path / "run/report.html").read_text()
    assert run_main(f"--workdir={tmp_path / 'run'}", "--stage=predict", f"--images={tree}", "--format=csv") == 0


def predict(run_main, finished, odd, *words):
    return run_main(f"--workdir={finished}", "--stage=predict", f"--images={odd}", *words)


def test_predict_csv_keeps_the_bytes(finished, odd, run_main, tmp_path):
    assert predict(run_main, finished, odd, "--format=csv", f"--out={tmp_path / 'out.csv'}") == 0
    text = (tmp_path / "out.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {os.fsencode(os.path.basename(row["image"])) for row in rows} == set(NAMES)
    assert all(row["label"] in "0123456789" and len(row) == 13 for row in rows)


def test_predict_json_is_valid(finished, odd, run_main, tmp_path):
    assert predict(run_main, finished, odd, "--format=json", f"--out={tmp_path / 'out.json'}") == 0
    rows = json.loads((tmp_path / "out.json").read_bytes().decode("ascii"))
    assert {os.fsencode(os.path.basename(row["image"])) for row in rows} == set(NAMES)


def test_predict_table_has_one_row_for_each_image(finished, odd, run_main, tmp_path):
    assert predict(run_main, finished, odd, f"--out={tmp_path / 'out.txt'}") == 0
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(NAMES) and all(line.isprintable() for line in lines)
    for shown in (
        "/caf\\xe9.jpg ",
        "/café.jpg ",
        "/two\\nlines.jpg ",
        "/a\\ttab.jpg ",
        "/\\x1b[31mred.jpg ",
        "/日本.jpg ",
    ):
        assert sum(shown in line for line in lines) == 1


class Screen(io.TextIOWrapper):
    """A standard output that raises an error for characters that its encoding lacks."""

    def __init__(self, encoding):
        self.content = io.BytesIO()
        super().__init__(self.content, encoding=encoding, errors="strict", newline="")

    def text(self):
        self.flush()
        return self.content.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_predict_prints_to_any_terminal(finished, odd, run_main, monkeypatch, encoding, form):
    screen = Screen(encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", Screen(encoding))
    assert predict(run_main, finished, odd, f"--format={form}") == 0
    printed = screen.text()
    if form == "json":
        rows = json.loads(printed)
        assert {os.fsencode(os.path.basename(row["image"])) for row in rows} == set(NAMES)
    elif form == "table":
        assert printed.count(b"\n") == len(NAMES)
        assert ("日本" if encoding == "utf-8" else "\\u65e5\\u672c") in printed.decode(encoding)
    elif encoding == "utf-8":
        rows = list(csv.DictReader(io.StringIO(printed.decode("utf-8", "surrogateescape"), newline="")))
        assert {os.fsencode(os.path.basename(row["image"])) for row in rows} == set(NAMES)
    else:
        assert len(list(csv.DictReader(io.StringIO(printed.decode(encoding), newline="")))) == len(NAMES)


def test_predict_to_a_text_stream_without_a_buffer(finished, odd, run_main, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert predict(run_main, finished, odd, "--format=csv") == 0
    assert "caf\\udce9.jpg" in sys.stdout.getvalue()


def test_files_named_on_the_command_line(finished, odd, run_main, capsys, monkeypatch):
    monkeypatch.chdir(odd)
    for name in ("--images=-dash.jpg", "--images=~two\nlines.jpg"):
        assert run_main(f"--workdir={finished}", "--stage=predict", name) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
    assert run_main(f"--workdir={finished}", "--stage=predict", "--images=no\n\udce9.jpg") == 2
    assert capsys.readouterr().err.splitlines() == ["lt_jax: --images: no such file or folder: no\\n\\xe9.jpg"]


def test_out_may_have_any_name(finished, odd, run_main, tmp_path):
    out = os.path.join(os.fsencode(tmp_path), b"r\xe9sult\n.csv")
    assert predict(run_main, finished, odd, "--format=csv", f"--out={os.fsdecode(out)}") == 0
    assert os.path.exists(out)


def test_log_lines_of_any_name(capsys):
    log.say("caf\udce9")
    assert "caf" in capsys.readouterr().err
    assert log.printable("caf\udce9\n\u2028é日") == "caf\\xe9\\n\\u2028é日"
    assert log.printable("zero\u200bwidth") == "zero\u200bwidth"  # part of names in many scripts


def test_paths_of_any_name_in_python(odd):
    model = classifier.Classifier(("a",), (8, 8, 3), "whole", True, None, None, 1)
    assert model.pixels(classifier.find_images([str(odd)])).shape == (len(NAMES), 8, 8, 3)
    with pytest.raises(errors.BadInput) as raised:
        model.pixels(["no\n\udce9.jpg"])
    assert str(raised.value) == "no\\n\\xe9.jpg: no such file or directory"
