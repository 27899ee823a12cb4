"""Image folders: names of splits, files of other formats, system folders, links, unusual names."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image, features

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import prepare
from lt_jax.serve import classifier

PIXELS = (np.linspace(0, 255, 12 * 16).reshape(12, 16, 1) * [1.0, 0.5, 0.2]).astype(np.uint8)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60)


def encoded(form="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form)
    return buffer.getvalue()


JPEG = encoded()
Image.init()  # fills Image.SAVE


def write(root, *names, content=JPEG):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def load(root, **changes):
    config = common.data("folder", largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(root), workers=0, image_size=16, **changes)
    return data.load(config)


def names_of(split):
    return [os.path.relpath(split.images.path(i), split.images.root) for i in range(len(split.labels))]


def lines_of(capsys, beginning):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"[lt_jax] {beginning}")]


# Names of splits.


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("Training", "Testing"), ("training", "testing"), ("TRAIN", "test"), ("train", "TESTING")],
)
def test_split_folders_in_any_case(tmp_path, capsys, train, test):
    write(tmp_path, *(f"{split}/{c}/{i}.jpg" for split in (train, test) for c in ("cat", "dog") for i in range(2)))
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and dataset.counts.tolist() == [2, 2]
    assert names_of(dataset.test)[0] == f"{test}/cat/0.jpg" and dataset.validation is None
    (line,) = lines_of(capsys, f"folder {tmp_path}: ")
    assert line == f"[lt_jax] folder {tmp_path}: splits {train} (training) and {test} (test)"


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Validation", "VALID"])
@pytest.mark.parametrize("has_test", [True, False])
def test_validation_folders(tmp_path, capsys, validation, has_test):
    splits = ["Train", validation, *(["test"] if has_test else [])]
    write(tmp_path, *(f"{split}/{c}/{split}.jpg" for split in splits for c in ("cat", "dog")))
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    (line,) = lines_of(capsys, f"folder {tmp_path}: ")
    if has_test:
        assert names_of(dataset.validation)[0] == f"{validation}/cat/{validation}.jpg"
        assert line.endswith(f"splits Train (training), test (test) and {validation} (validation)")
    else:
        assert names_of(dataset.test)[0] == f"{validation}/cat/{validation}.jpg" and dataset.validation is None
        assert line.endswith(f"splits Train (training) and {validation} (test: there is no test folder)")


def test_two_folders_for_one_split(tmp_path):
    write(tmp_path, *(f"{split}/{c}/0.jpg" for split in ("Train", "training", "test") for c in ("cat", "dog")))
    write(tmp_path, "extra/0.jpg")
    with pytest.raises(errors.BadInput, match="'Train' and 'training' are both the training split; merge or rename"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "extra")
    assert load(tmp_path, splits="none").class_names == ("Train", "test", "training")


def test_classes_that_are_called_train_and_test(tmp_path, capsys):
    write(tmp_path, *(f"{c}/{i}.jpg" for c in ("train", "test", "bus") for i in range(5)))
    dataset = load(tmp_path)
    assert dataset.class_names == ("bus", "test", "train") and dataset.counts.tolist() == [4, 4, 4]
    (line,) = lines_of(capsys, f"folder {tmp_path}: ")
    assert line.split(": ", 1)[1].startswith("test and train are read as classes, not as splits")
    assert "config.data.splits=folders" in line


def test_a_class_called_train_with_folders_in_it(tmp_path, capsys):
    write(tmp_path, *(f"{c}/{i}.jpg" for c in ("train/steam", "train/diesel", "bus", "tram") for i in range(3)))
    assert load(tmp_path).class_names == ("bus", "train", "tram")
    (line,) = lines_of(capsys, f"folder {tmp_path}: ")
    assert "train is read as a class" in line
    assert load(tmp_path, splits="folders").class_names == ("diesel", "steam")
    (line,) = lines_of(capsys, f"folder {tmp_path}: ")
    assert line.endswith("splits train (training); bus, tram are left out")


def test_a_test_folder_without_classes_is_left_out_and_logged(tmp_path, capsys):
    write(tmp_path, "test/1.jpg", "test/2.jpg", *(f"train/{c}/{i}.jpg" for c in ("cat", "dog") for i in range(5)))
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and dataset.counts.tolist() == [4, 4]
    (line,) = lines_of(capsys, f"folder {tmp_path}: ")
    assert line.endswith("splits train (training); test is left out: it holds no class folders")


def test_folders_beside_the_splits_are_left_out_and_logged(tmp_path, capsys):
    write(tmp_path, "extra/1.jpg", *(f"{s}/{c}/0.jpg" for s in ("train", "test") for c in ("cat", "dog")))
    assert load(tmp_path).class_names == ("cat", "dog")
    (line,) = lines_of(capsys, f"folder {tmp_path}: ")
    assert line.endswith("splits train (training) and test (test); extra is left out")


def test_config_data_splits_overrides_the_detection(tmp_path):
    write(tmp_path, *(f"{split}/{c}/{i}.jpg" for split in ("train", "test") for c in ("a", "b") for i in range(2)))
    assert load(tmp_path, splits="none").class_names == ("test", "train")
    assert load(tmp_path, splits="folders").class_names == ("a", "b")
    with pytest.raises(errors.BadInput, match="config.data.splits: expected one of auto, folders, none, found 'x'"):
        load(tmp_path, splits="x")


def test_split_folders_are_required(tmp_path):
    write(tmp_path, "cat/0.jpg", "dog/0.jpg", "train/0.jpg")
    with pytest.raises(errors.BadInput, match="config.data.splits=folders: expected .*train/CLASS/"):
        load(tmp_path, splits="folders")


def test_invalid_splits_on_the_command_line(tmp_path, run_main, capsys):
    words = ["--config=configs/folder.py:cpu", "--stage=show_data", f"--workdir={tmp_path / 'run'}"]
    assert run_main(*words, "--config.data.splits=some") == 2
    assert "config.data.splits: expected one of auto, folders, none, found 'some'" in capsys.readouterr().err


@pytest.mark.slow
def test_splits_on_the_command_line(tmp_path, run_main, capsys):
    write(tmp_path, *(f"{split}/{c}/{i}.jpg" for split in ("train", "test") for c in ("a", "b") for i in range(2)))
    words = ["--config=configs/folder.py:cpu", f"--config.data.dir={tmp_path}", "--stage=show_data",
             "--config.data.workers=0", f"--workdir={tmp_path / 'run'}"]  # fmt: skip
    assert run_main(*words, "--config.data.splits=none") == 0
    assert "2 classes, 3 to 3 training images" in capsys.readouterr().err


@pytest.mark.parametrize("workdir", ["run", "runs/mine"])
def test_a_work_directory_among_the_classes_is_not_a_class(tmp_path, capsys, workdir):
    write(tmp_path, *(f"{c}/{i}.jpg" for c in ("cat", "dog") for i in range(3)))
    write(tmp_path / workdir, "run.json", "config.json", "figures/contact_sheet.png")
    assert load(tmp_path).class_names == ("cat", "dog")
    line = f"{tmp_path / workdir} is the work directory of a run; left out"
    assert capsys.readouterr().err.count(line) == 1
    assert len(classifier.find_images([str(tmp_path)])) == 6


def test_prepare_reads_split_folders(tmp_path):
    write(tmp_path / "in", *(f"{split}/{c}/0.jpg" for split in ("Train", "Test") for c in ("a", "b")))
    words = ["prepare", "--name=folder", f"--dir={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--workers=1"]
    assert prepare.main(words) == 0
    assert {file.name.split("-")[0] for file in (tmp_path / "out").glob("*.array_record")} == {"train", "test"}


# Files of other formats.


@pytest.fixture
def tree(tmp_path):
    write(tmp_path, *(f"{split}/{c}/{i}.jpg" for split in ("train", "test") for c in ("cat", "dog") for i in range(2)))
    return tmp_path


@pytest.mark.parametrize("name", ["x.jfif", "x", "x.JPG_large", "x.jpe", "x.heic", "x.img", "x.jpg "])
def test_images_are_recognised_by_content(tree, name):
    write(tree, f"train/cat/{name}")
    dataset = load(tree)
    assert dataset.counts.tolist() == [3, 2] and f"train/cat/{name}" in names_of(dataset.train)
    position = names_of(dataset.train).index(f"train/cat/{name}")
    assert dataset.train.images.image(position).shape == (12, 16, 3)


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "QOI"])
def test_every_format_is_recognised_by_content(tree, form):
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {form}")
    write(tree, "train/cat/x", content=encoded(form))
    assert load(tree).counts.tolist() == [3, 2]


@pytest.mark.skipif("AVIF" not in Image.SAVE, reason="this Pillow is built without AVIF")
def test_avif(tree):
    write(tree, "train/cat/x.avif", "train/cat/y", content=encoded("AVIF"))
    dataset = load(tree)
    assert dataset.counts.tolist() == [4, 2]
    assert dataset.train.images.image(names_of(dataset.train).index("train/cat/x.avif")).shape == (12, 16, 3)


def test_avif_where_pillow_cannot_read_it(tree, monkeypatch, capsys):
    content = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(60)
    write(tree, "train/cat/x.avif", content=content)
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    assert load(tree).counts.tolist() == [2, 2]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert line.endswith("1 file skipped: 1 .avif (train/cat/x.avif); AVIF cannot be read, convert them to JPEG")


def test_other_files_are_counted_and_listed_in_one_line(tree, capsys):
    write(tree, "train/cat/IMG_1.HEIC", "train/dog/IMG_2.HEIC", content=HEIC)
    write(tree, "train/cat/notes.txt", "test/cat/clip", content=b"words")
    assert load(tree).counts.tolist() == [2, 2]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert line == (
        f"[lt_jax] folder {tree}: 4 files skipped: 2 .heic (train/cat/IMG_1.HEIC, train/dog/IMG_2.HEIC), "
        "1 .txt (train/cat/notes.txt), 1 without extension (test/cat/clip); HEIC cannot be read, convert them to JPEG"
    )


def test_a_long_list_of_skipped_files_is_shortened(tree, capsys):
    write(tree, *(f"train/cat/{i}.txt" for i in range(9)), content=b"words")
    load(tree)
    assert "9 files skipped: 9 .txt (train/cat/0.txt, train/cat/1.txt, train/cat/2.txt, ...)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["notes.txt", "a.json", "a.csv", "a.xml", "a.md", "a.ini", "a.db"])
def test_side_files_are_ignored(tree, name):
    write(tree, f"train/cat/{name}", content=JPEG)  # side files are not opened, so their content has no effect
    assert load(tree).counts.tolist() == [2, 2]


@pytest.mark.parametrize(("split", "name"), [("train", "emu"), ("test", "dog")])
def test_a_class_without_readable_images_is_an_error(tree, split, name):
    for file in (tree / split / "dog").iterdir():
        file.unlink()
    write(tree, *(f"{split}/{name}/{i}.HEIC" for i in range(3)), content=HEIC)
    with pytest.raises(errors.BadInput) as raised:
        load(tree)
    assert str(raised.value).startswith(f"{tree / split / name}: no readable image in this class folder, but 3 .heic (")
    assert "HEIC cannot be read, convert them to JPEG" in str(raised.value)


def test_images_beside_the_class_folders_are_logged(tmp_path, capsys):
    write(tmp_path, "0.jpg", "labels.csv", *(f"{c}/{i}.jpg" for c in ("cat", "dog") for i in range(3)))
    assert load(tmp_path).class_names == ("cat", "dog")
    assert f"folder {tmp_path}: 1 image lies in no class folder and is left out: 0.jpg" in capsys.readouterr().err


def test_class_folders_without_files_are_logged(tmp_path, capsys):
    write(tmp_path, *(f"{c}/{i}.jpg" for c in ("cat", "dog") for i in range(3)))
    (tmp_path / "emu").mkdir()
    assert load(tmp_path).class_names == ("cat", "dog")
    assert f"folder {tmp_path}: emu holds no files and is no class" in capsys.readouterr().err


SYSTEM = (
    "@eaDir", "__MACOSX", ".thumbnails", "Thumbs.db", "desktop.ini", ".DS_Store", "._1.jpg", "#recycle", "$RECYCLE.BIN",
    "System Volume Information", "lost+found", ".hidden.jpg", "@EADIR", "THUMBS.DB",
)  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
def test_system_files_and_folders_are_ignored_silently(tree, capsys, name):
    is_file = "." in name[1:] and name not in ("$RECYCLE.BIN",)
    for folder in (tree, tree / "train", tree / "train/cat", tree / "test"):
        write(folder, name if is_file else f"{name}/1.jpg/SYNOPHOTO_THUMB_M.jpg", f".{name}/x.jpg")
    dataset = load(tree)
    assert dataset.class_names == ("cat", "dog") and dataset.counts.tolist() == [2, 2]
    assert len(dataset.test.labels) == 4 and "skipped" not in capsys.readouterr().err
    assert len(classifier.find_images([str(tree)])) == 8


def test_predict_finds_the_same_images_as_training(tree, capsys):
    write(tree, "train/cat/x", "train/cat/y.jfif")
    write(tree, "train/cat/z.HEIC", content=HEIC)
    paths = [os.fspath(path) for path in classifier.find_images([str(tree / "train")])]
    assert paths == sorted(str(p) for p in (tree / "train").rglob("*") if p.is_file() and p.suffix != ".HEIC")
    assert "1 file skipped: 1 .heic (cat/z.HEIC); HEIC cannot be read" in capsys.readouterr().err
    with pytest.raises(errors.BadInput, match=r"--images: no image below .*only, but 2 \.heic .*HEIC cannot be read"):
        write(tree, "only/1.heic", "only/2.heic", content=HEIC)
        classifier.find_images([str(tree / "only")])


def test_pipes_are_skipped(tree, capsys):
    os.mkfifo(tree / "train/cat/x.jpg")
    os.mkfifo(tree / "train/cat/y")
    assert load(tree).counts.tolist() == [2, 2]
    assert "2 files skipped" in capsys.readouterr().err


def test_only_files_of_unknown_suffix_are_opened(tree, monkeypatch):
    import builtins

    opened, real = [], builtins.open
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: opened.append(str(file)) or real(file, *a, **k))
    write(tree, "train/cat/x.txt", "train/cat/y.img")
    opened.clear()
    load(tree)
    assert [file for file in opened if str(tree) in file] == [str(tree / "train/cat/y.img")]


# Links.


def test_folders_that_contain_themselves(tree, capsys):
    os.symlink(tree, tree / "self")
    os.symlink(tree / "train", tree / "train/again")
    os.symlink(tree / "train/cat", tree / "train/cat/again")
    os.symlink(tree / "train", tree / "train/dog/above")
    dataset = load(tree)
    assert dataset.class_names == ("cat", "dog") and dataset.counts.tolist() == [2, 2]
    assert capsys.readouterr().err.count(f"{tree}/self leads back to") == 0  # folders beside the splits are not walked
    assert load(tree / "train").counts.tolist() == [1, 1]
    assert capsys.readouterr().err.count("again leads back to") == 2


def test_predict_ignores_circular_links(tree, capsys):
    os.symlink(tree, tree / "self")
    for c in ("cat", "dog"):
        os.symlink(tree / "train", tree / "train" / c / "above")
    assert len(classifier.find_images([str(tree)])) == 8
    assert "leads back to" in capsys.readouterr().err


def test_many_links_to_one_another_are_walked_once(tmp_path, monkeypatch):
    for a in range(9):  # nine folders that each link to all of them: 9! paths
        write(tmp_path, f"cat/{a}/{a}.jpg")
        for b in range(9):
            os.symlink(tmp_path / "cat" / str(b), tmp_path / "cat" / str(a) / f"to{b}")
    write(tmp_path, "dog/0.jpg")
    scan, scanned = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scan(path))
    dataset = load(tmp_path, validation=0.0)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 10
    assert len(classifier.find_images([str(tmp_path)])) == 10
    assert 0 < len(scanned) < 1000


def test_two_links_to_one_folder_count_its_images_once(tmp_path):
    write(tmp_path, "store/0.jpg", "store/1.jpg", "in/dog/0.jpg", "in/dog/1.jpg", "in/cat/2.jpg")
    for name in ("a", "b"):
        os.symlink(tmp_path / "store", tmp_path / "in/cat" / name)
    dataset = load(tmp_path / "in")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 5
    assert len(classifier.find_images([str(tmp_path / "in")])) == 5
