"""The classifier of a finished run: loaded, asked from the command line, exported."""

import csv
import io
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import lt_jax
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import decode
from lt_jax.data import images as images_lib
from lt_jax.serve import classifier


@pytest.fixture(scope="module")
def model(finished):
    return lt_jax.load(finished)


@pytest.fixture(scope="module")
def scans(tiny):
    """The test images of the run and its classes' probabilities on them."""
    from lt_jax.run import config

    return data.load(config.from_command_line(["lt_jax", *tiny])[0].data).test.images


@pytest.fixture
def pictures(tmp_path, scans):
    """One scan as it is, one eight times as large and wider than high, one in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    Image.fromarray(scans[0]).save(folder / "a.png")
    large = np.pad(scans[1].repeat(8, axis=0).repeat(8, axis=1), ((0, 0), (24, 24), (0, 0)))
    Image.fromarray(large).save(folder / "b.PNG")
    Image.fromarray(scans[2]).save(folder / "below" / "c.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_importing_waits_for_nothing():
    code = "import sys, lt_jax; lt_jax.load; print({'jax', 'numpy', 'flax'} & set(sys.modules))"
    stdout = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert stdout.strip() == "set()"


def test_answers_are_those_of_the_evaluation(model, finished, scans):
    logits = np.load(finished / "predictions.npz")["logits"]
    expected = np.asarray(jax.nn.softmax(logits, axis=-1))
    probabilities = model.predict(scans)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert model.class_names == tuple("0123456789")


def test_files_and_pictures_of_any_size_are_brought_to_the_runs(model, scans, pictures):
    expected = model.predict(scans[:3])
    paths = [pictures / "a.png", str(pictures / "b.PNG"), pictures / "below" / "c.bmp"]
    np.testing.assert_allclose(model.predict(paths), expected, atol=1e-6)
    np.testing.assert_allclose(model.predict([Image.open(path) for path in paths]), expected, atol=1e-6)
    np.testing.assert_allclose(model.predict(paths[0]), expected[:1], atol=1e-6)
    assert model.predict([]).shape == (0, 10) == model.predict(scans[:0]).shape


def test_image_files_are_cropped_as_in_evaluation(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
    Image.fromarray(pixels).resize((600, 900)).save(tmp_path / "a.jpg", quality=95)
    split = images_lib.files(tmp_path, [("a.jpg", 0, 0)])
    like = classifier.Classifier(("x",), (224, 224, 3), "centre", False, None, None, 1)
    (crop,) = split.views(0, decode.centre_box)
    np.testing.assert_array_equal(like.pixels([tmp_path / "a.jpg"])[0], crop)
    by_pillow = like.pixels([Image.open(tmp_path / "a.jpg")])[0]
    assert np.abs(by_pillow.astype(int) - crop).mean() < 8  # decoded whole, then shrunk


@pytest.mark.parametrize(
    "images", [np.zeros((2, 9, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.float32), [np.zeros((8, 8), np.uint8)]]
)
def test_other_arrays_are_refused(model, images):
    with pytest.raises(errors.BadInput, match="expected uint8 of shape n x 8 x 8 x 3, found"):
        model.predict(images)


def test_predict_as_table_csv_and_json(finished, model, pictures, run_main, capsys, tmp_path):
    where = (f"--workdir={finished}", "--stage=predict")
    expected = model.predict([pictures / "a.png", pictures / "b.PNG", pictures / "below" / "c.bmp"])
    labels = [str(c) for c in expected.argmax(axis=1)]

    assert run_main(*where, f"--images={pictures}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == labels and lines[0].startswith(str(pictures / "a.png"))

    assert run_main(*where, "--images", pictures / "a.png", pictures / "b.PNG", "--format=csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == labels[:2]
    np.testing.assert_allclose([float(rows[0][str(c)]) for c in range(10)], expected[0], atol=1e-6)

    out = tmp_path / "out.json"
    assert run_main(*where, f"--images={pictures}", "--format=json", f"--out={out}") == 0
    assert capsys.readouterr().out == ""
    rows = json.loads(out.read_text())
    assert [row["label"] for row in rows] == labels
    assert rows[2]["probability"] == pytest.approx(expected[2].max(), abs=1e-6)


def test_predict_leaves_the_run_as_it_is(finished, pictures, run_main):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert run_main(f"--workdir={finished}", "--stage=predict", f"--images={pictures}") == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_predict_by_another_method_and_in_favour_of_rare_classes(finished, pictures, run_main, capsys):
    where = (f"--workdir={finished}", "--stage=predict", f"--images={pictures}", "--format=json")
    for words, model in (
        (("--method=nearest_class_mean",), lt_jax.load(finished, "nearest_class_mean")),
        (("--tau=2",), lt_jax.load(finished, tau=2.0)),
    ):
        assert run_main(*where, *words) == 0
        printed = capsys.readouterr()
        assert f"classifier: {model.method}" in printed.err
        rows = json.loads(printed.out)
        expected = model.predict([row["image"] for row in rows])
        np.testing.assert_allclose([row["probability"] for row in rows], expected.max(axis=1), atol=1e-5)


MISPLACED = {
    "--method=crt": "--method: expected with --stage=predict or --stage=export alone; a recipe to train is a token",
    "--tau=1": "--tau: expected with --stage=predict or --stage=export alone",
}


@pytest.mark.parametrize(("word", "message"), MISPLACED.items())
def test_a_method_of_a_finished_run_is_no_training(word, message, tmp_path, run_main, capsys):
    assert run_main(word, f"--workdir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err


BAD = {
    "method": (["--method=crf"], "has no method 'crf': did you mean crt?"),
    "tau": (["--tau=much"], "--tau: expected a number, found 'much'"),
    "tau without end": (["--tau=inf"], "--tau: expected a finite number, found 'inf'"),
    "nothing": ([], "--images: expected a folder or files, found nothing"),
    "not there": (["--images={0}/nowhere"], "--images: no such file or folder"),
    "no image below": (["--images={0}/empty"], "--images: no image below"),
    "unreadable": (["--images={0}/broken.jpg"], "broken.jpg: this is no image file"),
    "empty file": (["--images={0}/nothing.png"], "nothing.png: the file is empty"),
    "format": (["--images={0}/empty", "--format=xml"], "--format: expected one of table, csv, json, found 'xml'"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_images_are_one_line(words, message, finished, tmp_path, run_main, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_text("no image")
    (tmp_path / "nothing.png").write_bytes(b"")
    words = [word.format(tmp_path) for word in words]
    assert run_main(f"--workdir={finished}", "--stage=predict", *words) == 2
    error_lines = capsys.readouterr().err.strip().splitlines()
    assert len(error_lines) == 1 and message in error_lines[0]


@pytest.mark.parametrize("stage", ["predict", "export"])
def test_no_finished_run(stage, tmp_path, run_main, capsys):
    assert run_main(f"--workdir={tmp_path / 'none'}", f"--stage={stage}") == 2
    assert f"no finished run in {tmp_path / 'none'}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_exported_copy_answers_alike(copied, scans, model, run_main):
    pytest.importorskip("flatbuffers")
    assert run_main(f"--workdir={copied}", "--stage=export", "--method=crt", "--tau=1") == 0
    about = json.loads((copied / "export" / "classifier.json").read_text())
    assert about["method"] == "crt" and about["tau"] == 1.0
    assert run_main(f"--workdir={copied}", "--stage=export") == 0
    about = json.loads((copied / "export" / "classifier.json").read_text())
    assert about["class_names"] == list("0123456789") and about["image_shape"] == [8, 8, 3]
    copy = jax.export.deserialize(bytearray((copied / "export" / "classifier.jax").read_bytes()))
    for count in (1, 5):
        np.testing.assert_allclose(copy.call(scans[:count]), model.predict(scans[:count]), atol=1e-5)


def test_a_copy_that_answers_otherwise_fails_the_stage(copied, run_main, monkeypatch, capsys):
    pytest.importorskip("flatbuffers")
    own = classifier.Classifier.probabilities
    monkeypatch.setattr(classifier.Classifier, "probabilities", lambda self, images: own(self, 255 - images))
    assert run_main(f"--workdir={copied}", "--stage=export") == 1
    assert "probabilities of the loaded copy are off by" in capsys.readouterr().err
    assert not (copied / "export").exists()


def test_export_says_what_is_missing(copied, run_main, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    assert run_main(f"--workdir={copied}", "--stage=export") == 2
    line = "lt_jax: --stage=export: writing the file needs flatbuffers: pip install 'lt_jax[export]'"
    assert line in capsys.readouterr().err


def test_a_run_of_an_older_version_says_what_to_do(copied):
    result = json.loads((copied / "result.json").read_text())
    del result["dataset"]["images"]
    (copied / "result.json").write_text(json.dumps(result))
    with pytest.raises(errors.BadInput, match="delete stages/evaluate.json there"):
        lt_jax.load(copied)


def test_tau_subtracts_the_log_prior_also_in_what_is_exported(finished, scans):
    counts = np.array(json.loads((finished / "result.json").read_text())["dataset"]["counts"])
    logits = np.load(finished / "predictions.npz")["logits"][:5]
    expected = jax.nn.softmax(logits - 1.5 * np.log(counts / counts.sum()), axis=-1)
    adjusted = lt_jax.load(finished, tau=1.5)
    np.testing.assert_allclose(adjusted.predict(scans[:5]), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(adjusted.probabilities)(scans[:5]), expected, atol=1e-5)
    with pytest.raises(errors.BadInput, match="tau: expected a finite number, found nan"):
        lt_jax.load(finished, tau=float("nan"))


def test_the_linear_probe_is_loaded_and_the_official_one_is_not_saved(finished, scans):
    result = json.loads((finished / "result.json").read_text())
    labels = np.load(finished / "predictions.npz")["labels"]
    accuracy = (lt_jax.load(finished, "linear_probe").predict(scans).argmax(axis=1) == labels).mean()
    assert accuracy == pytest.approx(result["methods"]["linear_probe"]["test"]["overall"], abs=0.003)
    with pytest.raises(errors.BadInput, match="linear_probe_official was measured, but its classifier is not saved"):
        lt_jax.load(finished, "linear_probe_official")
