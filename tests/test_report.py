"""Each figure plots what the files say, and the page stands alone."""

import base64
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from lt_jax.report import figures


@pytest.fixture(scope="module")
def result(finished):
    return json.loads((finished / "result.json").read_text())


@pytest.fixture(scope="module")
def lines(finished):
    return [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]


def axes_of(figure):
    (axes,) = figure.axes
    return axes


def test_class_counts(result):
    axes = axes_of(figures.class_counts(result, "light"))
    assert [bar.get_height() for bar in axes.patches] == [120, 83, 58, 41, 28, 20, 14, 9, 6, 4]


def test_accuracy_by_class_size(result):
    axes = axes_of(figures.accuracy_by_class_size(result, "light"))
    final = {line.get_label(): line for line in axes.lines}["BNS + IP-DPP"]
    np.testing.assert_array_equal(final.get_xdata(), result["dataset"]["counts"])
    predictions = result["test"]["per_class"]
    np.testing.assert_allclose(final.get_ydata(), predictions)


def test_by_class_size_bins_and_leaves_out_what_is_not_known():
    counts, accuracy = list(range(1, 41)), [c / 40 for c in range(1, 41)]
    accuracy[0], counts[1] = None, 0
    x, y = figures.by_class_size(counts, accuracy)
    assert len(x) == 10 and x[0] == 38.5 and y[0] == pytest.approx(38.5 / 40)  # the four largest classes: 40 .. 37
    assert x[-1] == pytest.approx(np.mean([3, 4, 5]))


def test_group_bars(result):
    axes = axes_of(figures.group_bars(result, "dark"))
    found = {c.get_label(): [bar.get_height() for bar in c] for c in axes.containers}
    assert found["BNS + IP-DPP"] == [result["test"][g] for g in ("many", "medium", "few")]
    assert found["cross-entropy"] == [result["baseline"]["cross_entropy"][g] for g in ("many", "medium", "few")]
    assert found["linear probe"][2] == result["probe"]["plain"]["few"]


def test_a_group_without_classes_says_so(result):
    changed = json.loads(json.dumps(result))
    changed["test"]["few"] = None
    texts = [t.get_text() for t in axes_of(figures.group_bars(changed, "light")).texts]
    assert texts.count("n/a") == 1


def test_curves(result, lines):
    keys = {"intra_class_distance": "within", "inter_class_distance": "between"}
    axes = axes_of(figures.training_curve(lines, "pretrain", keys, "light"))
    wanted = [line for line in lines if line["stage"] == "pretrain"]
    plotted = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(plotted["between"].get_ydata(), [line["inter_class_distance"] for line in wanted])
    np.testing.assert_array_equal(plotted["within"].get_xdata(), [line["epoch"] for line in wanted])


def test_page_stands_alone(finished, result):
    page = (finished / "report.html").read_text()
    assert not re.search(r"(https?:)?//\w", page)
    assert f"{100 * result['test']['few']:.1f}" in page
    images = re.findall(r'"data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(images) == 2 * 7  # seven figures, light and dark
    for image in images:
        assert ElementTree.fromstring(base64.b64decode(image)).tag.endswith("svg")


def test_same_files_give_the_same_page(copied, run_main, tiny):
    before = (copied / "report.html").read_bytes()
    (copied / "report.html").unlink()
    (copied / "stages/report.json").unlink()
    assert run_main(*tiny, f"--workdir={copied}", "--stage=report") == 0
    assert (copied / "report.html").read_bytes() == before
