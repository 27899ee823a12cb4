"""The stages of a DLSA run, from a finished pretraining and from a file of features."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

import lt_jax
from lt_jax.core import errors
from lt_jax.dlsa import separate
from lt_jax.run import config as config_lib
from lt_jax.run import dependencies
from lt_jax.stages import dlsa as stages
from lt_jax.stages import features as features_lib

ENCODER = ("--config.encoder.width=4", "--config.pretrain.projector=(16,8)")


@pytest.fixture(scope="module")
def divided(finished, run_main, tmp_path_factory):
    """Returns the work directory of a DLSA run on the features of the tiny encoder."""
    workdir = tmp_path_factory.mktemp("dlsa") / "run"
    words = ("--config=configs/dlsa_digits.py:smoke", *ENCODER, f"--config.init_from={finished}")
    assert run_main(*words, f"--workdir={workdir}") == 0
    return workdir


def read(workdir, name):
    return json.loads((workdir / name).read_text())


def test_result_holds_dlsa_and_every_baseline(divided):
    result = read(divided, "result.json")
    assert result["method"] == "dlsa" and result["status"] == "complete"
    assert set(result["baseline"]) == {"cross_entropy", "balanced_softmax", "cosine", "nearest_class_mean"}
    predictions = np.load(divided / "predictions.npz")
    assert result["test"]["overall"] == pytest.approx(
        (predictions["logits"].argmax(axis=1) == predictions["labels"]).mean()
    )
    assert (divided / "report.html").exists()


def test_loaded_classifier_gives_the_predictions_of_the_run(divided, run_main):
    import jax

    from lt_jax import data
    from lt_jax.run import config
    from lt_jax.serve import export

    words = ["lt_jax", "--config=configs/dlsa_digits.py:smoke", *ENCODER]
    images = data.load(config.from_command_line(words)[0].data).test.images
    model, logits = lt_jax.load(divided), np.load(divided / "predictions.npz")["logits"]
    np.testing.assert_allclose(model.predict(images), jax.nn.softmax(logits, axis=-1), atol=1e-4)
    if importlib.util.find_spec("flatbuffers"):
        assert export.difference(model, export.serialised(model)) < 1e-4


def test_every_test_item_belongs_to_one_depth(divided):
    depths, test = read(divided, "dlsa.json")["depths"], np.load(divided / "dlsa" / "test.npz")
    assert sum(row["test_items"] for row in depths) == 500
    for row in depths:
        assert row["test_items"] == (test["depth"] == row["depth"]).sum()
        assert row["test_items"] == sum(group["test_items"] for group in row["groups"].values())
    assert sum(depths[0]["clusters"]["size"]) == 383
    assert sum(group["train_items"] for row in depths for group in row["groups"].values()) == 383


@pytest.mark.slow
def test_classifiers_start_from_the_head_of_the_probe(divided, finished, run_main, tmp_path):
    import jax
    import ml_collections
    from etils import epath

    workdir = shutil.copytree(divided, tmp_path / "run")
    words = ("--config=configs/dlsa_digits.py:smoke", *ENCODER, f"--config.init_from={finished}")
    options = ("--config.dlsa.classifier.start=backbone", "--config.dlsa.classifier.learning_rate=1e-4")
    assert run_main(*words, *options, f"--workdir={workdir}") == 0
    config = ml_collections.ConfigDict(read(workdir, "config.json"))
    train, labels = features_lib.read(epath.Path(workdir), "train")
    head = stages.backbone_head(config, train, labels, 10)
    log_p = jax.nn.log_softmax(train @ head["kernel"] + head["bias"])[np.arange(len(labels)), labels]
    np.testing.assert_allclose(log_p, np.load(workdir / "features" / "train.log_p.npy"), rtol=1e-4, atol=1e-5)
    part = stages.load(epath.Path(workdir), "linear").rest
    start = head["kernel"] * np.asarray(part.deviation)[:, None]
    np.testing.assert_allclose(part.params["a"], start, atol=0.05)  # two epochs at a rate of 1e-4 change little


def test_confusion_of_groups_by_hand():
    groups = {"many": np.array([1, 0, 0], bool), "medium": np.zeros(3, bool), "few": np.array([0, 1, 1], bool)}
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 2, 2, 2])
    expected = [[0.5, 0, 0.5], [0, 0, 0], [0, 0, 1]]
    assert stages.group_confusion(labels, predicted, groups) == expected


def test_separability_ranks_by_head_against_tail(divided):
    ranked = read(divided, "separability.json")
    assert set(ranked["run"]) == {"purity", "tail_share", "head_tail_auc", "mean_log_likelihood"}
    assert 0 < ranked["run"]["purity"] <= 1


def test_compare_with_changes_only_separability_and_report():
    config, _, _ = config_lib.from_command_line(["lt_jax", "--config=configs/dlsa_digits.py:smoke"])
    before = {stage: dependencies.of_stage(config, stage) for stage in ("dlsa", "separability", "evaluate", "report")}
    config.dlsa.compare_with = ("runs/other",)
    changed = {stage for stage in before if dependencies.of_stage(config, stage) != before[stage]}
    assert changed == {"separability", "report"}


def test_separability_of_a_known_likelihood(monkeypatch):
    """Tail items rank above all head items: area 1. The share of one half is the tail, in two pure clusters."""
    import types

    from lt_jax.dlsa import batches

    likelihood, cluster = np.array([4.0, 3.0, 1.0, 0.0]), np.array([0, 1, 1, 1])
    monkeypatch.setattr(batches, "over_all", lambda *_: (likelihood, cluster))
    fitted = types.SimpleNamespace(flow=types.SimpleNamespace(centres=np.zeros((2, 1))))
    groups = {"many": np.array([1, 0, 0], bool), "few": np.array([0, 1, 1], bool)}
    measured = separate.measures(fitted, np.zeros((4, 1)), np.array([1, 2, 0, 0]), np.array([9, 2, 2]), groups, 0.5)
    assert measured["head_tail_auc"] == 1.0 and measured["purity"] == 1.0 and measured["tail_share"] == 1.0
    assert measured["mean_log_likelihood"] == {"many": 0.5, "few": 3.5}


def test_own_features_from_a_file(gaussians, run_main, tmp_path):
    features, labels, test, test_labels = gaussians
    np.savez(tmp_path / "mine.npz", features=features, labels=labels, test_features=test, test_labels=test_labels)
    words = ("--config=configs/dlsa_features.py:smoke", f"--config.data.list={tmp_path / 'mine.npz'}")
    assert run_main(*words, "--config.dlsa.classifier.epochs=30", f"--workdir={tmp_path / 'run'}") == 0
    result = read(tmp_path / "run", "result.json")
    assert result["dataset"]["counts"] == [120, 40, 20, 8] and result["probe"] is None
    assert result["test"]["overall"] > 0.7 and result["timing"]["pretrain_s"] is None
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(errors.BadInput, match="a run on features, not on images"):
        lt_jax.load(tmp_path / "run")


def test_a_run_refuses_changed_features(gaussians, run_main, tmp_path, capsys):
    features, labels, test, test_labels = gaussians
    names = ("features", "labels", "test_features", "test_labels")
    for name, change in (("first", 0), ("moved", 0), ("other", 1)):
        np.savez(
            tmp_path / f"{name}.npz", **dict(zip(names, (features + change, labels, test, test_labels), strict=True))
        )

    def run(name):
        words = ("--config=configs/dlsa_features.py:smoke", f"--config.data.list={tmp_path / name}.npz")
        return run_main(*words, "--config.stages=('features',)", f"--workdir={tmp_path / 'run'}")

    assert run("first") == 0 and run("moved") == 0
    assert "features: complete" in capsys.readouterr().err
    assert run("other") == 2
    assert "holds a run on other data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("share=1.0", "config.dlsa.share: expected a number between 0 and 1, found 1.0"),
        (
            "filter.clusters=500",
            "config.dlsa.filter.clusters: expected at most the number of training items, 188, found",
        ),
    ],
)
def test_invalid_settings_are_a_one_line_error(gaussians, run_main, tmp_path, capsys, flag, message):
    features, labels, test, test_labels = gaussians
    np.savez(tmp_path / "mine.npz", features=features, labels=labels, test_features=test, test_labels=test_labels)
    words = ("--config=configs/dlsa_features.py:smoke", f"--config.data.list={tmp_path / 'mine.npz'}")
    assert run_main(*words, f"--config.dlsa.{flag}", f"--workdir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err


def test_figures_show_the_numbers_of_the_files(divided):
    from lt_jax.report import dlsa as page

    summary, test = read(divided, "dlsa.json"), np.load(divided / "dlsa" / "test.npz")
    few = np.isin(test["labels"], read(divided, "result.json")["dataset"]["groups"]["few"])
    shares = page.shares(summary)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    assert shares[0, 2] == pytest.approx((test["depth"][few] == 1).mean())
    bars = [bar.get_height() for bar in page.depth_shares(summary).axes[0].patches]
    assert bars[2] == pytest.approx(shares[0, 2])
    dots = page.clusters(summary).axes[0].lines[0].get_xydata()
    np.testing.assert_allclose(dots[:, 0], summary["depths"][0]["clusters"]["size"])
    texts = [t.get_text() for t in page.confusion(summary["confusion"]["dlsa"]).axes[0].texts]
    assert texts[0] == f"{100 * summary['confusion']['dlsa'][0][0]:.1f}"
    accuracy = page.depth_accuracy(summary).axes[0].patches[0].get_height()
    assert accuracy == pytest.approx(summary["depths"][0]["groups"]["many"]["accuracy"] or 0.0)


def test_figure_of_separability_has_a_row_for_each_feature_set(divided):
    from lt_jax.report import dlsa as page

    content = page.read(divided)
    assert "dlsa_separability" in page.plan(content) and list((divided / "figures").glob("dlsa_separability*"))
    ranked = {"best": {"head_tail_auc": 0.9, "purity": 0.4}, "no head": {"head_tail_auc": None, "purity": 0.7}}
    axes = page.separability(ranked).axes[0]
    areas, purities = axes.lines[0].get_xydata(), axes.lines[1].get_xydata()
    np.testing.assert_array_equal(areas, [[0.9, 1], [np.nan, 0]])
    np.testing.assert_array_equal(purities, [[0.4, 1], [0.7, 0]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["best", "no head"]
