"""Tables of images: labels, class files, paths, delimiters, encodings, number formats."""

import datetime
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import prepare
from lt_jax.data.sources import lists


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with 0.jpg to 9.jpg and sub/0.jpg, sub/1.jpg."""
    (tmp_path / "sub").mkdir()
    for name in (*(f"{i}.jpg" for i in range(10)), "sub/0.jpg", "sub/1.jpg"):
        Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(tmp_path / name)
    return tmp_path


def load(file, **changes):
    config = common.data("table", largest=0, imbalance_factor=1.0)
    config.update(profile="all", list=str(file), workers=0, image_size=8, test_share=0.2, **changes)
    return data.load(config)


def write(folder, content, name="t.csv", encoding="utf-8"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return folder / name


def rows(*labels, header="path,label,split\n", split="test"):
    """Returns a table in which each label has one training row and one row, of image 9, in `split`."""
    lines = [f"{i}.jpg,{label},train\n9.jpg,{label},{split}\n" for i, label in enumerate(labels)]
    return header + "".join(lines)


def labels_of(dataset):
    """Returns file name -> class name of the training images."""
    part = dataset.train
    return {os.path.basename(part.images.path(i)): dataset.class_names[c] for i, c in enumerate(part.labels)}


def log_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if " table " in line or " features " in line]


# Labels and class files.


def test_labels_are_names_if_all_are_in_the_class_file(folder, capsys):
    classes = write(folder, "10\n20\n30\n", "classes.txt")
    dataset = load(write(folder, rows("10", "30", "20")), classes=str(classes))
    assert dataset.class_names == ("10", "20", "30")
    assert labels_of(dataset) == {"0.jpg": "10", "1.jpg": "30", "2.jpg": "20"} and log_of(capsys) == []


def test_labels_are_positions_if_one_is_not_a_name(folder):
    classes = write(folder, "1\n2\n3\n", "classes.txt")
    dataset = load(write(folder, rows("0", "1", "2")), classes=str(classes))
    assert labels_of(dataset) == {"0.jpg": "1", "1.jpg": "2", "2.jpg": "3"}


def test_labels_are_names_if_both_readings_are_possible(folder, capsys):
    classes = write(folder, "1\n2\n3\n4\n5\n", "classes.txt")
    file = write(folder, rows("1", "2", "4"))
    dataset = load(file, classes=str(classes))
    assert labels_of(dataset) == {"0.jpg": "1", "1.jpg": "2", "2.jpg": "4"}
    (line,) = log_of(capsys)
    assert line.startswith(f"[lt_jax] table {file}: labels are read as the names in {classes}, not as positions from 0")


def test_nothing_is_logged_if_both_readings_agree(folder, capsys):
    classes = write(folder, "0\n1\n2\n", "classes.txt")
    load(write(folder, rows("0", "1", "2")), classes=str(classes))
    assert log_of(capsys) == []


def test_positions_in_a_file_of_names(folder):
    classes = write(folder, "cat\ndog\n", "classes.txt")
    assert labels_of(load(write(folder, rows("1", "0")), classes=str(classes))) == {"0.jpg": "dog", "1.jpg": "cat"}


@pytest.mark.parametrize(
    ("labels", "line", "bad"),
    [
        (("cat", "1"), 4, "label '1' is not in the class list"),
        (("0", "2"), 4, "label '2' is not in the class list .*nor a position below 2"),
        (("cat", "emu"), 4, "label 'emu' is not in the class list"),
        (("0", "²"), 4, "label '²' is not in the class list"),
        (("0", "-1"), 4, "label '-1' is not in the class list"),
    ],
)
def test_the_error_names_the_first_invalid_line(folder, labels, line, bad):
    classes = write(folder, "cat\ndog\n", "classes.txt")
    with pytest.raises(errors.BadInput, match=rf"line {line} of .*t\.csv: {bad}"):
        load(write(folder, rows(*labels)), classes=str(classes))


@pytest.mark.parametrize(("encoding", "beginning"), [("utf-8", b"\xef\xbb\xbf"), ("cp1252", b""), ("utf-16", b"")])
def test_class_files_of_any_encoding(folder, encoding, beginning):
    content = beginning + "  Straße \r\n\r\nÄpfel\r\n".encode(encoding)
    classes = write(folder, content, "classes.txt")
    dataset = load(write(folder, rows("Straße", "Äpfel")), classes=str(classes))
    assert dataset.class_names == ("Straße", "Äpfel")


# Spaces, header, delimiters, encodings.


def test_surrounding_spaces_are_ignored(folder):
    text = " path , label , split \n 0.jpg , cat , train \n 1.jpg,dog ,  Train\n9.jpg, cat, TEST \n"
    dataset = load(write(folder, text))
    assert dataset.class_names == ("cat", "dog") and labels_of(dataset) == {"0.jpg": "cat", "1.jpg": "dog"}
    assert len(dataset.test.labels) == 1


def test_spaces_of_an_existing_file_name_are_kept(folder):
    (folder / " odd .jpg").write_bytes((folder / "0.jpg").read_bytes())
    text = "path,label,split\n odd .jpg,cat,train\n 1.jpg ,dog,train\n9.jpg,cat,test\n"
    assert sorted(labels_of(load(write(folder, text)))) == [" odd .jpg", "1.jpg"]


def test_lines_may_end_with_carriage_return(folder):
    assert load(write(folder, rows("a", "b").replace("\n", "\r").replace(",", ";"))).class_names == ("a", "b")


@pytest.mark.parametrize("header", ["Path,LABEL,Split", "PATH,Label,SPLIT", '"Path","Label","Split"'])
def test_header_in_any_case(folder, header):
    assert load(write(folder, rows("cat", "dog", header=header + "\n"))).class_names == ("cat", "dog")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("encoding", "beginning"), [("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16", b""), ("latin-1", b"")]
)
def test_delimiters_and_encodings(folder, capsys, delimiter, encoding, beginning):
    content = beginning + rows("Straße", "über").replace(",", delimiter).replace("\n", "\r\n").encode(encoding)
    file = write(folder, content)
    assert load(file).class_names == ("Straße", "über")
    lines = [line for line in capsys.readouterr().err.splitlines() if "UTF-8" in line]
    assert len(lines) == (encoding == "latin-1")
    if lines:
        assert f"{file} is not UTF-8: read as Windows-1252" in lines[0]


def test_big_endian_utf_16(folder):
    assert load(write(folder, b"\xfe\xff" + rows("ä", "b").encode("utf-16-be"))).class_names == ("b", "ä")


def test_commas_in_a_semicolon_separated_table(folder):
    (folder / "a,b.jpg").write_bytes((folder / "0.jpg").read_bytes())
    dataset = load(write(folder, "path;label\na,b.jpg;x, y\n1.jpg;z\n2.jpg;z\n"))
    assert dataset.class_names == ("x, y", "z")


def test_a_row_with_too_many_fields_is_an_error(folder):
    with pytest.raises(errors.BadInput, match=r"line 3 of .*: 3 fields where the header has 2.*quot"):
        load(write(folder, "path,label\n0.jpg,cat\na,b.jpg,cat\n"))
    assert load(write(folder, "path,label,\n0.jpg,cat,\n1.jpg,dog,\n2.jpg,dog,\n")).class_names == ("cat", "dog")


def test_an_unclosed_quote_is_an_error(folder):
    with pytest.raises(errors.BadInput, match=r"t\.csv is no CSV file \(.*line"):
        load(write(folder, 'path,label\n0.jpg,cat\n"1.jpg,dog\n2.jpg,emu\n'))


def test_line_numbers_count_empty_lines(folder):
    with pytest.raises(errors.BadInput, match=r"line 6 of .*: label is missing"):
        load(write(folder, "path,label\n\n0.jpg,cat\n,\n1.jpg,dog\n2.jpg, \n"))
    with pytest.raises(errors.BadInput, match=r"line 2 of .*: path is missing"):
        load(write(folder, "path,label\n ,cat\n"))


def test_two_columns_with_the_same_name(folder):
    with pytest.raises(errors.BadInput, match="has the column 'label' twice"):
        load(write(folder, "path,label,Label\n0.jpg,cat,dog\n"))


@pytest.mark.parametrize("split", ["testing", "TEST", "Testing"])
def test_names_of_splits(folder, split):
    assert len(load(write(folder, rows("a", "b", split=split))).test.labels) == 2
    assert len(load(write(folder, rows("a", "b") + "8.jpg,a,Valid\n")).validation.labels) == 1


# Paths.


def test_absolute_paths(folder, tmp_path_factory):
    text = f"path,label\n{folder}/0.jpg,cat\n{folder}/sub/0.jpg,dog\n{folder}/1.jpg,dog\n"
    dataset = load(write(tmp_path_factory.mktemp("other"), text))
    assert dataset.train.images.image(0).shape == (8, 8, 3) and dataset.class_names == ("cat", "dog")


def test_absolute_paths_beside_a_data_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("other")
    text = f"path,label\n{folder}/0.jpg,cat\n{folder}/sub/0.jpg,dog\n{folder}/1.jpg,dog\n"
    assert load(write(elsewhere, text), dir=str(elsewhere)).train.images.image(0).shape == (8, 8, 3)


def test_windows_separators(folder):
    (folder / "odd\\name.jpg").write_bytes((folder / "0.jpg").read_bytes())  # a file name that contains a backslash
    text = "path,label,split\nsub\\0.jpg,cat,train\n.\\sub\\1.jpg,dog,train\nodd\\name.jpg,dog,train\n0.jpg,cat,test\n"
    dataset = load(write(folder, text))
    assert sorted(labels_of(dataset)) == ["0.jpg", "1.jpg", "odd\\name.jpg"]
    for i in range(3):
        assert dataset.train.images.image(i).shape == (8, 8, 3)


def test_windows_drives(folder):
    (folder / "C:").mkdir()
    (folder / "C:" / "x.jpg").write_bytes((folder / "0.jpg").read_bytes())
    text = "path,label,split\nC:\\x.jpg,cat,train\n1.jpg,dog,train\n0.jpg,cat,test\n"
    assert load(write(folder, text)).train.images.image(0).shape == (8, 8, 3)
    with pytest.raises(errors.BadInput, match=r"D:\\x\.jpg \(line 2 of t\.csv\): no such file"):
        load(write(folder, text.replace("C:", "D:")))


def test_file_names_that_are_not_utf_8(folder):
    """A table that is UTF-8 except for one Latin-1 file name, which is stored in the same bytes on disk."""
    for name in (b"caf\xe9.jpg", "élan.jpg".encode()):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write((folder / "0.jpg").read_bytes())
    content = b"path,label,split\ncaf\xe9.jpg,cat,train\n" + "élan.jpg,dog,train\n0.jpg,cat,test\n".encode()
    dataset = load(write(folder, content))
    assert {os.fsencode(name) for name in labels_of(dataset)} == {b"caf\xe9.jpg", "élan.jpg".encode()}
    for i in range(2):
        assert dataset.train.images.image(i).shape == (8, 8, 3)


def test_missing_images_are_named_as_in_the_table(folder):
    with pytest.raises(errors.BadInput, match=r"no\\where\.jpg \(line 2 of t\.csv\): no such file"):
        load(write(folder, "path,label,split\nno\\where.jpg,cat,train\n1.jpg,dog,train\n0.jpg,cat,test\n"))


# Numbers.


@pytest.mark.parametrize("digit", ["²", "٣", "१", "①"])
def test_unusual_digits_are_names(folder, digit):
    assert load(write(folder, rows(digit, "x"))).class_names == tuple(sorted([digit, "x"]))
    assert load(write(folder, rows(digit, "1"))).class_names == tuple(sorted([digit, "1"]))


def test_labels_from_1(folder, capsys):
    file = write(folder, rows(1, 2, 3, 4, 5))
    assert load(file).class_names == ("0", "1", "2", "3", "4", "5")
    (line,) = log_of(capsys)
    assert line == (
        f"[lt_jax] table {file}: labels run from 1 to 5: class 0 has no image; if labels start from 1 in your table, "
        "subtract 1 or give config.data.classes"
    )


def test_gaps_in_labels(folder, capsys):
    file = write(folder, rows(0, 1, 5, 9))
    assert len(load(file).class_names) == 10
    (line,) = log_of(capsys)
    assert line == (
        f"[lt_jax] table {file}: labels run from 0 to 9: 6 classes have no image (2, 3, 4, ...); number the classes "
        "without gaps or give config.data.classes"
    )
    load(write(folder, rows(0, 1, 2)))
    assert log_of(capsys) == []


def test_numbers_too_large_for_class_numbers(folder):
    with pytest.raises(errors.BadInput, match="labels run up to 20240001: expected fewer than .* config.data.classes"):
        load(write(folder, rows(0, 20240001)))
    assert load(write(folder, rows("9" * 5000, "1"))).num_classes == 2


def parquet(folder, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


PATHS = ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    "labels", [[0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], np.array([0, 1, 1, 0], np.uint8), ["0", "1", "1", "0"]]
)
def test_parquet_labels(folder, labels):
    dataset = load(parquet(folder, Path=PATHS, LABEL=labels))
    assert dataset.class_names == ("0", "1")


def test_parquet_labels_with_a_class_file(folder):
    classes = write(folder, "10\n20\n", "classes.txt")
    dataset = load(parquet(folder, path=PATHS, label=[10.0, 20.0, 20.0, 10.0]), classes=str(classes))
    assert dataset.class_names == ("10", "20") and dataset.counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([True, False, True, False], r"line 2 of .*: label True is a truth value"),
        ([0.0, 1.5, 0.0, 1.0], r"line 3 of .*: label 1\.5 is no whole number"),
        ([0.0, float("nan"), 0.0, 1.0], r"line 3 of .*: label is missing"),
        ([0, 1, None, 1], r"line 4 of .*: label is missing"),
        (["a", "b", None, "a"], r"line 4 of .*: label is missing"),
        ([float("inf"), 1.0, 0.0, 1.0], r"line 2 of .*: label inf is no whole number"),
        ([-1, 1, 0, 1], r"line 2 of .*: label -1 is below 0"),
    ],
)
def test_invalid_parquet_labels(folder, labels, message):
    with pytest.raises(errors.BadInput, match=message):
        load(parquet(folder, path=PATHS, label=labels))


def test_parquet_of_other_types(folder):
    days = [datetime.date(2024, 1, day) for day in (1, 2, 2, 1)]
    assert load(parquet(folder, path=PATHS, label=days)).class_names == ("2024-01-01", "2024-01-02")
    categories = pyarrow.array(["b", "a", "a", "b"]).dictionary_encode()
    assert load(parquet(folder, path=[p.encode() for p in PATHS], label=categories)).class_names == ("a", "b")
    (folder / " odd .jpg").write_bytes((folder / "0.jpg").read_bytes())
    dataset = load(parquet(folder, path=[" odd .jpg", " 1.jpg", "2.jpg ", "3.jpg"], label=["a ", " b", "b", "a"]))
    assert dataset.class_names == ("a", "b")
    with pytest.raises(errors.BadInput, match="line 3 of .*: path is missing"):
        load(parquet(folder, path=["0.jpg", None, "2.jpg", "3.jpg"], label=[0, 1, 1, 0]))


def test_whole_numbers_written_as_floats(folder):
    assert load(write(folder, rows("0.0", "1.0", "2.0"))).class_names == ("0", "1", "2")
    classes = write(folder, "10\n20\n", "classes.txt")
    assert load(write(folder, rows("10.0", "20.0")), classes=str(classes)).class_names == ("10", "20")


# Lists, features, prepare.


def test_digits_and_byte_order_marks_in_lists(tmp_path):
    file = write(
        tmp_path, b"\xef\xbb\xbftrain/a/0.jpg 0\r\n  train/b/x y.jpg\t1 \r\ntrain/b/caf\xe9.jpg 1\n", "list.txt"
    )
    assert lists.read_list(file, 2) == [
        ("train/a/0.jpg", 0, 1), ("train/b/x y.jpg", 1, 2), ("train/b/caf\udce9.jpg", 1, 3)
    ]  # fmt: skip
    for digit in ("²", "٣"):
        with pytest.raises(errors.BadInput, match=r"line 1 of .*: expected `path label`"):
            lists.read_list(write(tmp_path, f"a.jpg {digit}\n", "list.txt"), 2)


def test_gaps_in_labels_of_features(tmp_path, capsys):
    config = common.data("features", largest=0, imbalance_factor=1.0)
    config.update(profile="all", list=str(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", features=np.ones((4, 2)), labels=[1, 1, 2, 2], test_features=np.ones((1, 2)),
             test_labels=[2])  # fmt: skip
    data.load(config)
    assert log_of(capsys) == [
        f"[lt_jax] features {tmp_path / 'x.npz'}: labels run from 1 to 2: class 0 has no image; if labels start from 1 "
        "in your file, subtract 1"
    ]


def test_prepare_reads_tables(folder):
    file = write(folder, rows("Straße", "b").replace(",", ";").encode("latin-1"))
    words = ["prepare", "--name=table", f"--list={file}", f"--out={folder / 'out'}", "--workers=1"]
    assert prepare.main(words) == 0
