"""Unusual and broken image files: each is read, or the error names it in one line."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import decode
from lt_jax.data.sources import lists

PIXELS = (np.linspace(0, 255, 40 * 60).reshape(40, 60, 1) * [1.0, 0.5, 0.2]).astype(np.uint8)


def encoded(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


JPEG = encoded(Image.fromarray(PIXELS), quality=95)


def config_for(name, folder="", **changes):
    config = common.data(name, largest=0, imbalance_factor=1.0)
    config.update(profile="all", dir=str(folder), workers=0, image_size=16, **changes)
    return config


@pytest.fixture
def tree(tmp_path):
    """Returns a folder of two classes with training and test images."""
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                write(tmp_path / split / name / f"{i}.jpg", JPEG)
    return tmp_path


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


ODD = {
    "CMYK": (encoded(Image.fromarray(PIXELS).convert("CMYK")), 40),
    "grey": (encoded(Image.fromarray(PIXELS[..., 0])), 3),
    "RGBA": (encoded(Image.fromarray(PIXELS).convert("RGBA"), "PNG"), 0),
    "palette": (encoded(Image.fromarray(PIXELS).quantize(256), "PNG"), 40),
    "16-bit grey": (encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"), 0),
    "progressive": (encoded(Image.fromarray(PIXELS), progressive=True, quality=95), 6),
}


@pytest.mark.parametrize("kind", ODD)
def test_unusual_images_are_read_as_rgb(kind):
    content, tolerance = ODD[kind]
    pixels = decode.image(content, kind)
    assert pixels.dtype == np.uint8 and pixels.shape == (40, 60, 3)
    truth = PIXELS[..., :1].repeat(3, -1) if "grey" in kind else PIXELS
    assert np.abs(pixels.astype(int) - truth).max() <= tolerance


def test_exif_orientation_is_applied_only_if_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise by a quarter turn
    content = encoded(Image.fromarray(PIXELS), exif=exif, quality=95)
    assert decode.image(content, "photo").shape == (40, 60, 3)
    turned = decode.image(content, "photo", upright=True)
    assert turned.shape == (60, 40, 3)
    assert np.abs(turned.astype(int) - np.rot90(PIXELS, -1)).max() < 8
    seen = []
    decode.crops(content, "photo", lambda whole: seen.append(whole) or [(0, 0, *whole)], 8, upright=True)
    assert seen == [(60, 40)]


def test_exif_without_orientation_is_accepted(tree):
    write(tree / "train/cat/0.jpg", encoded(Image.fromarray(PIXELS), exif=Image.Exif().tobytes() or b"Exif\0\0"))
    assert data.load(config_for("folder", tree)).train.images.image(0).shape == (40, 60, 3)


def test_small_sets_may_be_held_in_memory(tree, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tree / "train/cat/0.jpg", encoded(Image.fromarray(PIXELS), exif=exif, quality=95))
    read, held = (data.load(config_for("folder", tree, hold=hold)) for hold in (False, True))
    assert held.train.in_memory and held.test.in_memory and not read.train.in_memory
    assert (held.index_digest, held.digest, held.image_shape) == (read.index_digest, read.digest, read.image_shape)
    for i in range(len(held.train.labels)):
        whole = decode.sized(read.train.images.image(i), (16, 16), centre=False)
        np.testing.assert_array_equal(held.train.images[i], whole)
    assert held.train.upright and read.train.upright
    monkeypatch.setattr(data, "MOST_HELD", 1000)
    with pytest.raises(errors.BadInput, match="config.data.hold: 8 images of 16 pixels take more than"):
        data.load(config_for("folder", tree, hold=True))


BROKEN = {
    "zero bytes": (b"", "the file is empty"),
    "text": (b"no image at all, just words", "this is no image file"),
    "truncated": (JPEG[: len(JPEG) // 2], "corrupt or truncated"),
    "end missing": (JPEG[:-2], "corrupt or truncated"),
    "header alone": (JPEG[:100], "corrupt or truncated|no image file"),
    "corrupt": (JPEG[:330] + b"\xff\xc4\x00" * 20 + JPEG[390:], "corrupt or truncated"),
    "truncated PNG": (encoded(Image.fromarray(PIXELS), "PNG")[:-60], "corrupt or truncated"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_the_error_names_a_broken_image(tree, kind):
    content, message = BROKEN[kind]
    write(tree / "train/dog/2.jpg", content)
    dataset = data.load(config_for("folder", tree))
    position = next(i for i in range(8) if dataset.train.images.name(i).endswith("dog/2.jpg"))
    with pytest.raises(errors.BadInput, match=rf"train/dog/2\.jpg: .*({message})"):
        dataset.train.images.views(position, decode.centre_box)
    with pytest.raises(errors.BadInput, match=rf"train/dog/2\.jpg: .*({message})"):
        dataset.train.images.image(position)


def test_skip_leaves_out_training_images_and_lists_them(tree, capsys):
    write(tree / "train/dog/2.jpg", b"")
    write(tree / "train/cat/1.jpg", JPEG[:-40])
    dataset = data.load(config_for("folder", tree, on_bad_image="skip"))
    assert dataset.counts.tolist() == [3, 3]
    assert len(dataset.skipped) == 2 and "cat/1.jpg" in dataset.skipped[0] and "file is empty" in dataset.skipped[1]
    assert "2 images are skipped in all" in capsys.readouterr().err
    for i in range(6):
        assert dataset.train.images.image(i).shape == (40, 60, 3)


def test_skip_does_not_apply_to_test_images(tree):
    write(tree / "test/dog/1.jpg", b"")
    dataset = data.load(config_for("folder", tree, on_bad_image="skip"))
    assert len(dataset.test.labels) == 4
    with pytest.raises(errors.BadInput, match="the file is empty"):
        [dataset.test.images.image(i) for i in range(4)]


def test_class_with_one_image(tmp_path, capsys):
    for name, count in (("cat", 6), ("dog", 1)):
        for i in range(count):
            write(tmp_path / name / f"{i}.jpg", JPEG)
    dataset = data.load(config_for("folder", tmp_path))
    assert dataset.counts.tolist() == [5, 1] and np.bincount(dataset.test.labels).tolist() == [1]
    assert "1 classes have one image each, which stays in training" in capsys.readouterr().err


def test_two_classes_that_differ_by_case(tree):
    write(tree / "train/Cat/0.jpg", JPEG)
    with pytest.raises(errors.BadInput, match="'Cat' and 'cat' differ by case alone"):
        data.load(config_for("folder", tree))


def test_class_only_in_the_test_split(tree):
    write(tree / "test/emu/0.jpg", JPEG)
    with pytest.raises(errors.BadInput, match="'emu' is no class of the training split"):
        data.load(config_for("folder", tree))


def test_parent_of_the_class_folders(tree):
    (tree / "train").rename(tree / "mine")
    (tree / "test").rename(tree / ".hidden")
    with pytest.raises(errors.BadInput, match=r"'mine' is the only folder with images, of one class; .* give .*mine$"):
        data.load(config_for("folder", tree))
    assert data.load(config_for("folder", tree / "mine")).num_classes == 2


@pytest.mark.parametrize("layout", ["nothing", "empty classes", "no classes"])
def test_folder_without_images(tmp_path, layout):
    if layout == "empty classes":
        (tmp_path / "train/cat").mkdir(parents=True)
    if layout == "no classes":
        write(tmp_path / "0.jpg", JPEG)
    with pytest.raises(errors.BadInput, match="holds no images"):
        data.load(config_for("folder", tmp_path))


def test_unreadable_directory(tree, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may read every folder
    with pytest.raises(errors.BadInput, match=r"train/dog: permission denied"):
        data.load(config_for("folder", tree))


def test_circular_symbolic_links(tree, capsys):
    os.symlink(tree / "train/cat", tree / "train/cat/again")
    os.symlink(tree / "train/dog/self", tree / "train/dog/self")
    dataset = data.load(config_for("folder", tree))
    assert dataset.counts.tolist() == [4, 4]
    assert "leads back to" in capsys.readouterr().err


def places_lt(folder, train="train/a/0.jpg 0\ntrain/b/0.jpg 1\n"):
    """Writes Places-LT with two classes in the layout of the official lists and returns its config."""
    for path in ("train/a/0.jpg", "train/b/0.jpg", "train/a/1.jpg", "val/a/0.jpg", "val/b/0.jpg"):
        write(folder / path, JPEG)
    (folder / "Places_LT_train.txt").write_text(train)
    (folder / "Places_LT_val.txt").write_text("train/a/1.jpg 0\n")
    (folder / "Places_LT_test.txt").write_text("val/a/0.jpg 0\nval/b/0.jpg 1\n")
    return config_for("places_lt", folder)


def test_official_layout(tmp_path):
    dataset = data.load(places_lt(tmp_path))
    assert dataset.class_names == ("a", "b") and dataset.counts.tolist() == [1, 1]
    assert len(dataset.validation.labels) == 1 and len(dataset.test.labels) == 2


def test_the_error_names_a_missing_image_and_its_line(tmp_path):
    config = places_lt(tmp_path, "train/a/0.jpg 0\ntrain/b/7.jpg 1\ntrain/b/8.jpg 1\n")
    message = r"train/b/7\.jpg \(line 2 of Places_LT_train\.txt\): no such file or directory \(and 1 more\)"
    with pytest.raises(errors.BadInput, match=message):
        data.load(config)
    config.on_bad_image = "skip"
    assert len(data.load(config).skipped) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/a/0.jpg 365", "line 1 of .*Places_LT_train.txt: label 365 is not in 0..364"),
        ("train/a/0.jpg cat", "line 1 of .*: expected `path label`"),
        ("", "holds no images"),
    ],
)
def test_invalid_line_of_a_list(tmp_path, line, message):
    with pytest.raises(errors.BadInput, match=message):
        data.load(places_lt(tmp_path, line + "\n"))


def test_missing_list_and_missing_folder(tmp_path):
    with pytest.raises(errors.BadInput, match="Places_LT_train.txt is missing: put the official list there"):
        data.load(config_for("places_lt", tmp_path))
    with pytest.raises(errors.BadInput, match="nowhere is not there"):
        data.load(config_for("places_lt", tmp_path / "nowhere"))


def test_json_with_an_unknown_label(tmp_path):
    content = {
        "images": [{"id": 5, "file_name": "x.jpg"}],
        "annotations": [{"image_id": 5, "category_id": 9}],
        "categories": [{"id": 0, "name": "Aves"}],
    }
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(errors.BadInput, match=r"image 1 of .*train2018.json: label 9 is not among the categories"):
        lists.read_json(tmp_path / "train2018.json")
    (tmp_path / "train2018.json").write_text('{"images": []')
    with pytest.raises(errors.BadInput, match="not the json of iNaturalist"):
        lists.read_json(tmp_path / "train2018.json")


TABLES = {
    "no column": ("file,label\na.jpg,0\n", "has no column 'path'"),
    "no label": ("path,label\na.jpg,\n", "line 2 of .*: label is missing"),
    "unknown split": ("path,label,split\na.jpg,0,dev\n", "line 2 of .*: split 'dev' is none of"),
    "no rows": ("path,label\n", "holds no images"),
    "same by case": ("path,label\na.jpg,Cat\nb.jpg,cat\n", "'cat' and 'Cat' differ by case alone"),
    "one class": ("path,label\na.jpg,cat\nb.jpg,cat\n", "at least two classes, found 1"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_broken_table(tmp_path, kind):
    text, message = TABLES[kind]
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(errors.BadInput, match=message):
        data.load(config_for("table", list=str(tmp_path / "list.csv")))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_table_with_splits(tree, form):
    rows = [(f"{split}/{c}/{i}.jpg", c, split) for split, n in (("train", 4), ("test", 2)) for c in ("cat", "dog")
            for i in range(n)]  # fmt: skip
    file = tree / f"list.{form}"
    if form == "csv":
        file.write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        columns = dict(zip(("path", "label", "split"), zip(*rows, strict=True), strict=True))
        pyarrow.parquet.write_table(pyarrow.table({k: list(v) for k, v in columns.items()}), file)
    dataset = data.load(config_for("table", list=str(file)))
    assert dataset.class_names == ("cat", "dog") and dataset.counts.tolist() == [4, 4]
    assert len(dataset.test.labels) == 4


def test_label_outside_the_class_list(tree):
    (tree / "names.txt").write_text("cat\n")
    (tree / "list.csv").write_text("path,label\ntrain/cat/0.jpg,cat\ntrain/dog/0.jpg,dog\n")
    with pytest.raises(errors.BadInput, match=r"line 3 of .*list.csv: label 'dog' is not in the class list"):
        data.load(config_for("table", list=str(tree / "list.csv"), classes=str(tree / "names.txt")))


@pytest.mark.parametrize("form", ["npz", "h5"])
def test_features(tmp_path, form):
    generator = np.random.default_rng(0)
    arrays = {
        "features": generator.normal(size=(20, 5)), "labels": np.repeat([0, 1], 10),
        "test_features": generator.normal(size=(4, 5)), "test_labels": np.array([0, 0, 1, 1]),
    }  # fmt: skip
    file = tmp_path / f"all.{form}"

    def save(**changes):
        if form == "npz":
            np.savez(file, **arrays | changes)
        else:
            import h5py

            with h5py.File(file, "w") as content:
                for name, value in (arrays | changes).items():
                    content[name] = value

    save()
    dataset = data.load(config_for("features", list=str(file)))
    assert dataset.train.images.shape == (20, 5) and dataset.train.images.dtype == np.float32
    save(features=np.full((20, 5), np.nan))
    with pytest.raises(errors.BadInput, match="row 0 holds a value that is not finite"):
        data.load(config_for("features", list=str(file)))
    save(labels=np.zeros(7, int))
    with pytest.raises(errors.BadInput, match=r"expected \(n, d\) and \(n,\)"):
        data.load(config_for("features", list=str(file)))
    for labels, message in (
        (np.arange(20) - 1, "found -1"),
        (np.arange(20) / 2, "found 0.0"),
        (np.full(20, b"cat"), "cat"),
    ):
        save(labels=labels)
        with pytest.raises(errors.BadInput, match=f"training labels: expected whole numbers from 0 on, .*{message}"):
            data.load(config_for("features", list=str(file)))
    del arrays["test_labels"]
    save()
    with pytest.raises(errors.BadInput, match="holds an array 'test_features', but no 'test_labels'"):
        data.load(config_for("features", list=str(file)))
    file.write_bytes(b"nothing")
    with pytest.raises(errors.BadInput, match=r"no readable \.npz or \.h5 file"):
        data.load(config_for("features", list=str(file)))
