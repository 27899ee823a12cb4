"""benchmarks/accelerator.py: what it packs comes back bit for bit, too much is refused, and finished rows stay."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest

from lt_jax import data

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """Returns the modules of the script: accelerator, accelerator_pack and accelerator_parts."""
    if not (BENCHMARKS / "accelerator.py").exists():
        pytest.skip("needs the benchmarks, which an installed copy does not have")
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    import accelerator
    import accelerator_pack
    import accelerator_parts

    yield types.SimpleNamespace(script=accelerator, packing=accelerator_pack, parts=accelerator_parts)
    sys.path[:] = before


@pytest.fixture(scope="module")
def archive(tmp_path_factory, scripts):
    """Returns a folder with an archive of CIFAR-10 in the official layout: one grey level for each image, and noise."""
    folder = tmp_path_factory.mktemp("archive")
    subfolder, train_files, test_file, label_bytes = scripts.packing.ARCHIVES["cifar10"]
    (folder / subfolder).mkdir()
    generator = np.random.default_rng(0)
    for file in (*train_files, test_file):
        labels = generator.permutation(np.arange(10000) % 10)
        rows = np.zeros((10000, label_bytes + 3072), np.uint8)
        rows[:, 0] = labels
        rows[:, 1:] = generator.integers(0, 256, (10000, 1))
        rows[::500, 1:] = generator.integers(0, 256, (20, 3072))
        (folder / subfolder / file).write_bytes(rows.tobytes())
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory, scripts, archive):
    folder = tmp_path_factory.mktemp("packed")
    words = ("pack", "--data=cifar10_lt", f"--data-dir={archive}", f"--to={folder}")
    assert scripts.script.main(words) == 0
    return folder


@pytest.fixture(scope="module")
def manifest(packed):
    return json.loads((packed / "manifest.json").read_text())


def test_sheets_are_lossless(scripts):
    images = np.random.default_rng(1).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    content = scripts.packing.encode(images)
    assert content[8:12] == b"WEBP"
    np.testing.assert_array_equal(scripts.packing.decode(content, 70), images)


def test_images_and_labels_come_back_in_their_order(scripts, tmp_path):
    generator = np.random.default_rng(2)
    images, test_images = (generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (1030, 3))
    positions, labels, test_labels = generator.permutation(1100)[:1030], generator.integers(0, 10, 1100), [9, 0, 4]
    sheets = scripts.packing.store(tmp_path, images, positions, labels, test_images, test_labels)
    assert sheets == {"train": [1024, 6], "test": [3]}
    train, test = scripts.packing.restore(tmp_path, sheets)
    np.testing.assert_array_equal(train[0][positions], images)
    assert not np.delete(train[0], positions, axis=0).any()
    np.testing.assert_array_equal(train[1], labels)
    np.testing.assert_array_equal(test[0], test_images)
    np.testing.assert_array_equal(test[1], test_labels)


@pytest.mark.slow
def test_the_subset_is_the_same_after_packing(scripts, packed, manifest, tmp_path):
    scripts.packing.unpack(packed, tmp_path)
    dataset = data.load(scripts.packing.settings("cifar10_lt", tmp_path))
    assert len(dataset.train.labels) == 12406 and len(dataset.test.labels) == 10000
    # Of positions, labels and pixels, as lt_jax loaded them from the original archive.
    assert dataset.index_digest == manifest["index_digest"] and dataset.digest == manifest["digest"]


@pytest.mark.slow
def test_a_changed_sheet_is_noticed(scripts, packed, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in packed.glob("*"):
        (changed / file.name).write_bytes(file.read_bytes())
    sheet = changed / "test_00.webp"
    images = scripts.packing.decode(sheet.read_bytes(), 1024)
    images[3, 2, 1, 0] ^= 1
    sheet.write_bytes(scripts.packing.encode(images))
    with pytest.raises(SystemExit, match="digest: expected .* found .*; pack it again"):
        scripts.packing.unpack(changed, tmp_path / "unpacked")


def test_both_cifar_sets_have_a_layout(scripts):
    assert set(scripts.packing.CONFIGS.values()) == set(scripts.packing.ARCHIVES)
    rows = scripts.packing.records(np.full((2, 32, 32, 3), 7, np.uint8), np.array([3, 99]), 2)
    assert rows.shape == (2, 3074) and rows[:, 1].tolist() == [3, 99] and rows[0, 2] == 7


def test_more_than_the_limit_is_refused(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scripts.packing, "pack", lambda name, folder, to, wheels: scripts.packing.check_size(to))
    words = ("pack", "--data=cifar10_lt", f"--data-dir={tmp_path}", f"--to={tmp_path}")
    with (tmp_path / "test_00.webp").open("wb") as sheet:
        sheet.truncate(40 << 20)
    assert scripts.script.main(words) == 0
    (tmp_path / "wheels").mkdir()
    with (tmp_path / "wheels" / "a.whl").open("wb") as wheel:
        wheel.truncate(21 << 20)
    assert scripts.script.main(words) == 2
    assert "expected at most 60 MiB with the repository, found" in capsys.readouterr().err


def test_a_missing_archive_is_named(scripts, tmp_path, capsys):
    words = ("pack", f"--data-dir={tmp_path / 'no'}", f"--to={tmp_path}")
    assert scripts.script.main(words) == 2
    assert "--data-dir: expected a folder" in capsys.readouterr().err


def test_wheels_are_what_the_machine_lacks(scripts):
    missing = scripts.packing.lacking()
    assert {"grain", "tensorflow-datasets", "ml-collections", "array-record"} <= set(missing)
    assert not {"jax", "flax", "numpy", "scikit-learn", "etils"} & set(missing)
    assert "importlib-resources" in missing  # of an extra of etils, which the machine has without it
    assert scripts.packing.lacking({*scripts.packing.packages(), *missing}) == []


@pytest.fixture
def setting(tmp_path):
    return types.SimpleNamespace(
        environment={}, about={"device": "none"}, log=tmp_path / "run.log", work=tmp_path, out=tmp_path
    )


def rows_of(scripts, tmp_path, code):
    """Returns rows that append a letter to a file: one that ends well, one by `code`, one that cannot be run."""
    path = tmp_path / "calls"
    note = f"open({str(path)!r}, 'a').write"
    return [
        scripts.parts.Row("good", (sys.executable, "-c", f"{note}('g')"), 60, lambda: {"summary": "fine"}),
        scripts.parts.Row("bad", (sys.executable, "-c", f"{note}('b'); {code}"), 60, lambda: {}),
        scripts.parts.Row("none", missing="there is no such key"),
    ]


FAR = float("inf")


def test_a_failed_row_stops_no_other_and_is_run_again(scripts, setting, tmp_path, capsys):
    code = "print('\\n'.join(map(str, range(30)))); raise SystemExit(3)"
    rows = rows_of(scripts, tmp_path, code)
    rows = [rows[1], rows[0], rows[2]]
    assert not scripts.script.run_part("x_part", rows, setting, tmp_path, FAR)
    results = json.loads((tmp_path / "x_part.json").read_text())
    assert results["about"] == {"device": "none"}
    assert {name: row["status"] for name, row in results["rows"].items()} == {
        "bad": "failed", "good": "ok", "none": "not available",
    }  # fmt: skip
    assert results["rows"]["bad"]["error"] == [str(i) for i in range(10, 30)]
    good = results["rows"]["good"]
    assert (
        good["result"] == {"summary": "fine"} and good["device"] == "none" and good["command"].startswith("python -c")
    )
    assert {"jax", "commit", "seconds"} <= set(good)
    rows = rows_of(scripts, tmp_path, "pass")
    assert scripts.script.run_part("x_part", rows, setting, tmp_path, FAR)
    assert (tmp_path / "calls").read_text() == "bgb"
    assert "x_part: good: finished before" in capsys.readouterr().out


def test_a_rehearsal_is_no_earlier_call(scripts, setting, tmp_path):
    rows = rows_of(scripts, tmp_path, "pass")[:1]
    for rehearsal in (True, False, False):
        setting.about = {"rehearsal": rehearsal, "data": "cifar10_lt"}
        assert scripts.script.run_part("x_part", rows, setting, tmp_path, FAR)
    assert (tmp_path / "calls").read_text() == "gg"


def test_a_row_without_its_file_has_failed(scripts, setting, tmp_path):
    row = scripts.parts.Row("row", (sys.executable, "-c", ""), 60, lambda: {"text": (tmp_path / "no").read_text()})
    result = scripts.script.run_row(row, setting, FAR)
    assert result["status"] == "failed" and "no result: FileNotFoundError" in result["error"][-1]


@pytest.mark.parametrize(("stops", "status"), [(False, "timeout"), (True, "ok")])
def test_a_row_ends_when_its_time_is_over(scripts, setting, stops, status):
    row = scripts.parts.Row("row", (sys.executable, "-c", "import time; time.sleep(60)"), 0.2, dict, stops=stops)
    result = scripts.script.run_row(row, setting, FAR)
    assert result["status"] == status and result["seconds"] < 10


def test_a_row_is_not_begun_without_time(scripts, setting, tmp_path):
    row = rows_of(scripts, tmp_path, "pass")[0]
    result = scripts.script.run_row(row, setting, 0)
    assert result["status"] == "no time left" and not (tmp_path / "calls").exists()


def test_a_process_that_goes_on_after_a_crash_is_started_again(scripts, setting, tmp_path):
    crash = f"import os, pathlib; p = pathlib.Path({str(tmp_path / 'once')!r}); p.exists() or (p.touch(), os.abort())"
    row = scripts.parts.Row("row", (sys.executable, "-c", crash), 60, dict, tries=3)
    assert scripts.script.run_row(row, setting, FAR)["status"] == "ok"


def test_earlier_results_are_brought(scripts, tmp_path):
    results, out = tmp_path / "results", tmp_path / "out"
    results.mkdir(), out.mkdir()
    (results / "a.json").write_text("old a"), (results / "b.json").write_text("old b")
    (out / "b.json").write_text("new b")
    scripts.script.bring_earlier(results, out)
    assert [(out / name).read_text() for name in ("a.json", "b.json")] == ["old a", "new b"]


def test_an_unknown_part_is_named(scripts, tmp_path, capsys):
    words = ("run", f"--packed={tmp_path}", f"--out={tmp_path}", "--parts=a,z")
    assert scripts.script.main(words) == 2
    assert "--parts: expected letters of a,b,c,d,e, found z" in capsys.readouterr().err


def test_speed_leaves_out_the_first_line(scripts):
    lines = [{"step": 50 * i, "epoch": 50 * i / 12, "images_per_s": rate} for i, rate in ((1, 1), (2, 4096), (3, 8192))]
    result = scripts.parts.speed(lines, 1024)
    assert result["images_per_s"] == 6144 and result["minutes_of_1000_epochs"] == pytest.approx(12000 / 6 / 60)
    with pytest.raises(ValueError, match="at least 2 lines"):
        scripts.parts.speed(lines[:1], 1024)


@pytest.mark.slow
def test_the_rehearsal(scripts, packed, tmp_path):
    """Draws and training on the unpacked images, by the command itself; the longer parts are rehearsed by hand."""
    words = ["run", f"--packed={packed}", f"--out={tmp_path / 'out'}", f"--work={tmp_path / 'work'}", "--rehearse"]
    assert scripts.script.main([*words, "--parts=d,e"]) == 0
    assert json.loads((tmp_path / "out" / "d_ipdpp.json").read_text())["rows"]["draws"]["status"] == "ok"
