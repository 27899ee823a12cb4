"""Each figure plots what the files say, and the page stands alone."""

import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from lt_jax import ipdpp
from lt_jax.core import files
from lt_jax.report import embedding, figures, page, predictions, selection, story, svg


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
    axes = axes_of(figures.class_counts(result))
    assert [bar.get_height() for bar in axes.patches] == [120, 83, 58, 41, 28, 20, 14, 9, 6, 4]


def test_many_classes_are_an_outline(result):
    counts = list(range(200, 0, -1))
    groups = {"many": list(range(100)), "medium": list(range(100, 181)), "few": list(range(181, 200))}
    many = {"dataset": {**result["dataset"], "counts": counts, "num_classes": 200, "groups": groups}}
    axes = axes_of(figures.class_counts(many))
    assert len(axes.patches) == 0 and len(axes.collections) == 3
    ends = [collection.get_paths()[0].get_extents() for collection in axes.collections]
    assert [end.y1 for end in ends] == [200, 100, 19] and ends[2].x1 == 200


def test_the_table_has_every_yardstick_in_its_place(result, finished):
    text = (finished / "report.html").read_text()
    table = text[text.index("All numbers") :]
    rows = re.findall(r'<th scope="row">(.*?)</th>((?:<td>.*?</td>)+)', table)
    titles = [result["methods"][name]["title"] for name in result["methods"]]
    assert [name for name, _ in rows] == titles and titles[-1] == "BNS + IP-DPP" and "cRT" in titles
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows}
    assert cells["cRT"][0] == f"{100 * result['methods']['crt']['test']['overall']:.1f}"
    ece = result["methods"]["nearest_class_mean"]["test"]["ece"]
    assert float(cells["Nearest class mean"][-1]) == pytest.approx(ece, abs=6e-4)


def test_accuracy_by_class_size(result):
    axes = axes_of(figures.accuracy_by_class_size(result))
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
    axes = axes_of(figures.group_bars(result))
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in axes.containers}
    assert heights["BNS + IP-DPP"] == [result["test"][g] for g in ("many", "medium", "few")]
    assert heights["Cross-entropy"] == [result["baseline"]["cross_entropy"][g] for g in ("many", "medium", "few")]
    assert heights["Linear probe"][2] == result["probe"]["plain"]["few"]


def test_every_method_has_a_row_of_points(result):
    axes = axes_of(figures.all_methods(result))
    titles = [label.get_text() for label in axes.get_yticklabels()]
    tests = {x["title"]: x["test"] for x in result["methods"].values()}
    assert sorted(titles) == sorted(tests)
    points = {line.get_label(): line.get_xdata().tolist() for line in axes.lines}
    assert points["overall"] == sorted(points["overall"]) == [tests[title]["overall"] for title in titles]
    assert points["few"] == [tests[title]["few"] for title in titles]


def test_the_headline_goes_from_cross_entropy_to_the_method_that_is_handed_out(result):
    text = page.summary(result)
    assert "This run hands out BNS + IP-DPP, its final method: there are no validation images" in text
    chosen = json.loads(json.dumps(result)) | {"selected": "nearest_class_mean"}
    measures = chosen["methods"]["nearest_class_mean"]
    measures["validation"] = measures["test"]
    text = page.summary(chosen)
    assert f"hands out Nearest class mean, chosen on validation images among {len(chosen['methods'])} methods" in text
    before, after = chosen["baseline"]["cross_entropy"]["few"], measures["test"]["few"]
    assert f"<span>{100 * before:.1f} %</span>" in text and f"<b>{100 * after:.1f} %</b>" in text


def test_the_headline_ends_with_the_baseline_where_it_is_selected(result):
    changed = {**result, "selected": "cross_entropy", "selection": {"on": "validation"}}
    assert list(figures.methods(changed)) == ["Linear probe", "Cross-entropy"]
    assert "hands out Cross-entropy" in page.summary(changed)


def test_names_with_dollar_signs_are_no_formulas(result):
    names = ["a$b_$", "$5 to $10", *"23456789"]
    content = svg.text(figures.class_counts({**result, "dataset": {**result["dataset"], "class_names": names}}))
    assert "a$b_$" in content and "$5 to $10" in content


def test_a_group_without_classes_says_so(result):
    changed = json.loads(json.dumps(result))
    changed["methods"][changed["final"]]["test"]["few"] = None
    texts = [t.get_text() for t in axes_of(figures.group_bars(changed)).texts]
    assert texts.count("n/a") == 1


def test_curves(result, lines):
    keys = {"intra_class_distance": "within", "inter_class_distance": "between"}
    axes = axes_of(figures.training_curve(lines, "pretrain", keys))
    logged = [line for line in lines if line["stage"] == "pretrain"]
    plotted = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(plotted["between"].get_ydata(), [line["inter_class_distance"] for line in logged])
    np.testing.assert_array_equal(plotted["within"].get_xdata(), [line["epoch"] for line in logged])


def test_confusion_by_hand():
    which, names = predictions.bins_of_classes([5, 50, 5])  # the largest class comes first
    assert which.tolist() == [1, 0, 2] and names == ["50", "5", "5"]
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    assert predictions.confusion(labels, predicted, which).tolist() == [[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]]


def test_many_classes_share_a_bin():
    which, names = predictions.bins_of_classes(list(range(1, 41)))
    assert np.bincount(which).tolist() == [4] * 10 and which[39] == 0 and names[0] == "40–37"


def test_reliability_by_hand():
    confidence = np.repeat([0.95, 0.55, 0.2], (10, 6, 4))  # four images say too little
    right = np.r_[np.ones(9), 0, np.ones(3), np.zeros(3), np.ones(4)]
    x, y, images = predictions.reliability(np.zeros(20), 1 - right, confidence)
    np.testing.assert_allclose(x, [0.55, 0.95])
    np.testing.assert_allclose(y, [0.5, 0.9])
    assert images.tolist() == [6, 10]


def test_answers_are_those_of_the_result(finished, result):
    content = files.read_npz(finished / "predictions.npz")
    answers = predictions.by_method(content, result)
    assert list(answers) == ["Cross-entropy", "BNS + IP-DPP"]
    for name, expected in (("Cross-entropy", result["baseline"]["cross_entropy"]), ("BNS + IP-DPP", result["test"])):
        predicted, confidence = answers[name]
        assert (predicted == content["labels"]).mean() == pytest.approx(expected["overall"])
        assert ((confidence > 0.1 - 1e-6) & (confidence <= 1)).all()


def test_histogram_by_hand():
    """Class 0 of four images is cut to two, class 1 is kept whole and does not count."""
    labels = np.array([0, 0, 0, 0, 1])
    log_p = -np.log(2.0) * np.array([8.0, 4.0, 2.0, 1.0, 100.0])
    shares = selection.histogram([{"k": 2, "log_p": log_p, "indices": np.array([0, 1, 4])}], labels)
    np.testing.assert_allclose(shares["means"], [6.0, 1.5, 3.75])
    np.testing.assert_allclose([shares[name].sum() for name in ("kept", "left", "uniform")], 1.0)
    assert shares["kept"][-1] == pytest.approx(0.5) and shares["left"][0] == pytest.approx(0.5)


def test_inclusion_is_that_of_the_sampler(finished, result):
    inclusion = files.read_npz(finished / "inclusion.npz")
    last = files.read_npz(finished / "subsets" / "1.npz")
    assert inclusion["round"] == 1
    np.testing.assert_array_equal(np.flatnonzero(inclusion["chosen"]), last["indices"])
    members = inclusion["labels"] == 0
    expected = ipdpp.inclusion_probabilities(None, 10, log_probabilities=last["log_p"][members])
    np.testing.assert_allclose(inclusion["inclusion"][members], expected, rtol=1e-5)
    assert (inclusion["inclusion"][inclusion["labels"] == 9] == 1).all()
    axes = axes_of(selection.inclusion_figure(inclusion, result))
    plotted = axes.lines[0].get_xydata()
    assert len(plotted) == 120  # under the most that a figure shows
    np.testing.assert_allclose(np.sort(plotted[:, 1]), np.sort(expected), rtol=1e-5)
    assert "0: 10 of 120" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("easiest", [-1.0, -1e-2, -1e-4, -1e-9])
def test_ticks_of_the_chances_leave_room(finished, result, easiest):
    inclusion = files.read_npz(finished / "inclusion.npz")
    for hardest in (-1.5, -6.0):
        log_p = np.linspace(hardest, easiest, len(inclusion["log_p"]))
        figure = selection.inclusion_figure({**inclusion, "log_p": log_p}, result)
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
        assert boxes and all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_thumbnails_are_the_training_images_by_information(finished):
    thumbnails, last = files.read_npz(finished / "thumbnails.npz"), files.read_npz(finished / "subsets" / "1.npz")
    assert thumbnails["images"].shape[1:] == (8, 8, 3) and len(thumbnails["images"]) == len(thumbnails["positions"])
    np.testing.assert_array_equal(thumbnails["chosen"], np.isin(thumbnails["positions"], last["indices"]))
    np.testing.assert_array_equal(thumbnails["log_p"], last["log_p"][thumbnails["positions"]])
    largest = (thumbnails["labels"] == 0) & thumbnails["chosen"]
    assert largest.sum() == 10 and (np.diff(thumbnails["log_p"][largest]) >= 0).all()
    assert ((thumbnails["labels"] == 9) & ~thumbnails["chosen"]).sum() == 0


def test_features_of_three_encoders(finished):
    shown = files.read_npz(finished / "features" / "shown.npz")
    np.testing.assert_array_equal(shown["probe"], np.load(finished / "features/test.features.npy")[shown["positions"]])
    assert shown["random"].shape == shown["final"].shape == shown["probe"].shape == (500, 16)
    assert not np.allclose(shown["random"], shown["probe"]) and not np.allclose(shown["final"], shown["probe"])


def test_plane_keeps_clusters_apart_and_is_the_same_again():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    features = (generator.normal(size=(60, 5)) + 20 * labels[:, None]).astype(np.float32)
    points, reversed_points = embedding.planes([features, features[::-1]])
    assert points.shape == (60, 2) and np.abs(points).max() == pytest.approx(1.0)
    assert embedding.separation(points, labels) == 1.0 == embedding.separation(features, labels)
    np.testing.assert_array_equal(points, embedding.planes([features])[0])  # the same beside others and alone
    np.testing.assert_array_equal(reversed_points, embedding.planes([features[::-1]])[0])
    assert embedding.separation(features[[0, 30]], np.array([0, 1])) == 0.0


class Page(html.parser.HTMLParser):
    """Tags that are open, pictures without a text, headings in their order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.unsaid, self.headings, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values_by_name = dict(attributes)
        self.tags.append((tag, values_by_name))
        if (tag == "img" and "alt" not in values_by_name) or (tag == "svg" and not values_by_name.get("aria-label")):
            self.unsaid.append(values_by_name)
        if tag not in ("img", "meta", "br", "use", "path", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h3":
            self.headings.append(data)


def test_page_stands_alone(finished, result):
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and page.unsaid == []
    ids = [values_by_name["id"] for _, values_by_name in page.tags if "id" in values_by_name]
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'(?:url\(|xlink:href=")#([^)"]+)', text)) <= set(ids)
    for tag, values_by_name in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href", "xlink:href", "srcset"):
            assert values_by_name.get(name, "#").startswith(("#", "data:image/")), (tag, values_by_name)
    assert not re.search(r"url\((?!#)|@import", text)
    assert f"{100 * result['test']['few']:.1f}" in text
    assert len(text) < 1_000_000


def test_page_tells_its_story_in_order(finished):
    headings = Page((finished / "report.html").read_text()).headings
    assert headings == [
        "The long tail", "Accuracy against class size", "Many, medium and few",
        "Every method of this run", "Can its confidence be trusted?",
        "Who is taken for whom", "Features of the encoder", "Distances of embeddings", "Pretraining loss",
        "What was kept and what was left", "How much information stays", "The chance that an image is kept",
        "Retraining loss", "Baseline",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pretraining", "text"),
    [
        ({"loss": "bns", "title": "BNS"}, "Balanced Negative Sampling pretrains the encoder: every class"),
        ({"loss": "supcon", "title": "SupCon"}, "The contrastive objective SupCon pretrains the encoder."),
        (None, "The features of an image are what the last layer of the network sees"),
    ],
)
def test_the_page_says_what_trained_the_encoder(result, pretraining, text):
    assert story._encoder({**result, "pretraining": pretraining}).startswith(text)


@pytest.mark.parametrize(("title", "is_ipdpp"), [("IP-DPP", True), ("Uniform subset", False), (None, False)])
def test_only_ipdpp_is_said_to_prefer_hard_images(title, is_ipdpp):
    assert ("IP-DPP prefers" in story._balanced_set(title and {"title": np.array(title)})) == is_ipdpp


def test_page_leaves_out_what_has_no_file(copied, run_main, tiny):
    for name in ("inclusion.npz", "predictions.npz", "features/shown.npz", "metrics.jsonl", "stages/report.json"):
        (copied / name).unlink()
    assert run_main(*tiny, f"--workdir={copied}", "--stage=report") == 0
    headings = Page((copied / "report.html").read_text()).headings
    assert headings == [
        "The long tail", "Accuracy against class size", "Many, medium and few", "Every method of this run"
    ]  # fmt: skip


def test_figures_take_their_colors_from_the_page(result):
    content = svg.text(figures.class_counts(result))
    assert ElementTree.fromstring(content).tag.endswith("svg")
    page = svg.inline(content, 'a "b" & c')
    assert 'aria-label="a &quot;b&quot; &amp; c"' in page and "var(--few)" in page
    assert not re.search(r"#[0-9a-f]{6}", page)
    assert "120" in page  # the text is text
    for theme in (0, 1):
        assert "--few: #" in svg.variables(theme)


def test_same_files_give_the_same_page(copied, run_main, tiny):
    before = (copied / "report.html").read_bytes()
    (copied / "report.html").unlink()
    (copied / "stages/report.json").unlink()
    assert run_main(*tiny, f"--workdir={copied}", "--stage=report") == 0
    assert (copied / "report.html").read_bytes() == before
