"""`python -m lt_jax.compare`: what is shared, what is selected, which differences are real, and how it ends."""

import csv
import json
import multiprocessing
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from scipy import stats

import lt_jax
from configs import digits_lt, dlsa_features
from lt_jax import methods, statistics
from lt_jax.compare import __main__ as compare
from lt_jax.compare import plan, workers
from lt_jax.core import errors
from lt_jax.sampling import folds


def run_compare(*words):
    return compare.main(["lt_jax.compare", *map(str, words)])


def test_folds_are_stratified():
    labels = np.repeat([0, 1, 2, 3], [20, 7, 2, 1])
    fold = folds.stratified(labels, 5, seed=0)
    counts = np.array([[((labels == c) & (fold == f)).sum() for f in range(5)] for c in range(4)])
    assert (counts[0] == 4).all() and counts[1].max() - counts[1].min() == 1 and counts[1].sum() == 7
    assert sorted(counts[2]) == [0, 0, 0, 1, 1]
    assert fold[labels == 3].tolist() == [-1]  # the only image of a class is always trained on
    assert not np.array_equal(fold, folds.stratified(labels, 5, seed=1))


def test_a_fold_is_the_validation_split(tiny_config):
    from lt_jax import data

    config = tiny_config.data
    whole = data.load(config)
    config.update(folds=2, fold=1)
    parts = data.load(config)
    assert len(parts.train.labels) + len(parts.validation.labels) == len(whole.train.labels)
    assert len(parts.test.labels) == len(whole.test.labels)
    assert (np.bincount(parts.validation.labels, minlength=10) > 0).all()


@pytest.fixture
def tiny_config():
    return digits_lt.get_config("smoke").copy_and_resolve_references()


def test_paired_differences_are_those_of_scipy():
    ours, reference = [0.5, 0.6, 0.8, 0.7], [0.4, 0.55, 0.6, 0.68]
    difference = statistics.paired(ours, reference)
    expected = stats.ttest_rel(ours, reference)
    low, high = expected.confidence_interval(0.95)
    assert difference["p"] == pytest.approx(expected.pvalue)
    assert difference["mean"] - difference["half_width"] == pytest.approx(low)
    assert difference["mean"] + difference["half_width"] == pytest.approx(high)
    assert statistics.paired([0.5], [0.4]) is None
    wider = statistics.paired(ours, reference, test_error=0.05)
    error = np.hypot(np.std(np.subtract(ours, reference), ddof=1) / 2, 0.05)
    freedom = error**4 / ((error**2 - 0.05**2) ** 2 / 3)  # Welch and Satterthwaite
    assert wider["half_width"] == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    fixed = statistics.paired([0.6, 0.6], [0.5, 0.5], test_error=0.05)  # equal seeds: only the test images vary
    assert fixed["half_width"] == pytest.approx(1.959964 * 0.05, rel=1e-5)
    assert statistics.paired([0.5, 0.6], [0.5, 0.6]) == {"mean": 0.0, "half_width": 0.0, "p": 1.0}


def test_sampling_error_by_hand():
    """Two classes with equal weights: variances 1/3 of four images and 1/2 of two."""
    differences, labels = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 0, 1, 1])
    error = statistics.sampling_error(differences, labels, np.array([0.5, 0.5]))
    assert error == pytest.approx(np.sqrt(0.25 * (1 / 3) / 4 + 0.25 * 0.5 / 2))


def test_classes_of_one_image_are_as_uncertain_as_the_others():
    """The standard deviation of a mean over 100 classes, half of them with one image, in 2,000 draws."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), [1] * 50 + [4] * 50)
    weights = np.full(100, 0.01)
    draws = (rng.random((2000, len(labels))) < 0.7).astype(float)
    means = np.array([np.bincount(labels, draw) / np.bincount(labels) for draw in draws]).mean(axis=1)
    errors_of_draws = [statistics.sampling_error(draw, labels, weights) for draw in draws]
    assert np.mean(errors_of_draws) == pytest.approx(means.std(), rel=0.05)
    alone = [statistics.sampling_error(draw[:50], np.arange(50), np.full(50, 0.02)) for draw in draws]
    assert np.mean(alone) == pytest.approx(draws[:, :50].mean(axis=1).std(), rel=0.05)
    assert statistics.sampling_error(np.array([1.0]), np.array([0]), np.array([1.0])) == 0.0


def test_holm_by_hand():
    """Thresholds .05/3, .05/2, .05: the second smallest fails, and so does everything after it."""
    assert statistics.holm({"a": 0.001, "b": 0.03, "c": 0.04}) == {"a": True, "b": False, "c": False}
    assert statistics.holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a": True, "b": True, "c": True}
    assert statistics.holm({}) == {}
    assert statistics.holm({"a": float("nan"), "b": 0.01, "c": 0.5}) == {"a": False, "b": True, "c": False}


def test_differences_in_words():
    assert statistics.in_words(None, False) == "one seed: no interval"
    assert statistics.in_words({"mean": 0.1}, False) == "within noise"
    assert [statistics.in_words({"mean": x}, True) for x in (0.1, -0.1)] == ["better", "worse"]


def test_the_first_within_one_standard_error_is_selected():
    folds = [[{"balanced": 0.6, "balanced_error": 0.03}, {"balanced": 0.8, "balanced_error": 0.04}]] * 3
    pooled = statistics.pooled(folds)
    assert pooled == {"mean": pytest.approx(0.7), "standard_error": pytest.approx(0.025)}  # a half of .05
    validation = {"a": {"mean": 0.66, "standard_error": 0.1}, "b": {"mean": 0.68, "standard_error": 0.1}, "c": pooled}
    assert statistics.select(validation) == "b"
    validation["b"]["mean"] = 0.67
    assert statistics.select(validation) == "c"


def test_equal_stages_are_trained_once(tiny_config):
    names = ["cross_entropy", "focal", "crt", "bns_ipdpp", "bns_uniform"]
    jobs = plan.jobs(tiny_config, names, range(2), folds=2)
    members = {job.folder: job.members for job in jobs}
    assert len(jobs) == 2 * 3 * 5  # two baselines, a pretraining, two retrainings; seeds; all images and two folds
    assert sorted(members.values()).count(("cross_entropy", "crt")) == 6
    assert {job.config.heads for job in jobs if job.members == ("focal",)} == {()}  # which no method needs
    position = {job.folder: number for number, job in enumerate(jobs)}
    assert all(position[job.before.folder] < position[job.folder] for job in jobs if job.before)
    assert plan.jobs(tiny_config, names, range(2), folds=2)[3].folder == jobs[3].folder  # so that it resumes


def test_a_head_on_another_baseline_shares_its_training(tiny_config):
    jobs = plan.jobs(tiny_config, ["crt", "ride", "bce3s", "unit_bce"], range(1), folds=0)
    assert [job.members for job in jobs] == [("crt",), ("ride",), ("bce3s", "unit_bce")]
    assert [job.config.heads for job in jobs] == [("crt",), (), ("unit_bce",)]
    assert [plan.method_in(jobs[2], name) for name in ("bce3s", "unit_bce")] == ["bce3s", "unit_bce"]


def test_a_setting_is_varied_one_value_at_a_time(tiny_config):
    changes = {f"retrain.k={k}": {"retrain.k": k} for k in (3, tiny_config.retrain.k)}
    changes["baseline.weight_decay=0.5"] = {"baseline.weight_decay": 0.5}
    names = plan.varied(tiny_config, ["cross_entropy", "crt", "bns_ipdpp"], changes)
    assert names == [
        "cross_entropy", "cross_entropy, baseline.weight_decay=0.5", "crt", "crt, baseline.weight_decay=0.5",
        "bns_ipdpp", "bns_ipdpp, retrain.k=3",
    ]  # fmt: skip
    jobs = {job.members: job for job in plan.jobs(tiny_config, names, range(1), 0, changes)}
    assert list(jobs) == [
        ("cross_entropy", "crt"),
        ("cross_entropy, baseline.weight_decay=0.5", "crt, baseline.weight_decay=0.5"),
        (),
        ("bns_ipdpp",),
        ("bns_ipdpp, retrain.k=3",),
    ]
    changed = jobs["bns_ipdpp, retrain.k=3",]
    assert changed.config.retrain.k == 3 and changed.before == jobs[()]
    assert plan.method_in(changed, "bns_ipdpp, retrain.k=3") == "bns_ipdpp"
    assert plan.title_of("crt, baseline.weight_decay=0.5") == "cRT, baseline.weight_decay=0.5"
    with pytest.raises(errors.BadInput, match="--vary: retrain.k changes nothing in crt"):
        plan.varied(tiny_config, ["crt"], {"retrain.k=3": {"retrain.k": 3}})


def test_equal_runs_are_one_row(tiny_config):
    changes = {"baseline.loss=focal": {"baseline.loss": "focal"}}
    names = plan.varied(tiny_config, ["cross_entropy", "balanced_softmax"], changes)
    assert names == ["cross_entropy", "cross_entropy, baseline.loss=focal", "balanced_softmax"]


def test_a_change_comes_after_the_recipe(tiny_config):
    changes = {"retrain.method=uniform": {"retrain.method": "uniform"}}
    names = plan.varied(tiny_config, ["bns_ipdpp"], changes)
    assert plan.jobs(tiny_config, names, range(1), 0, changes)[-1].config.retrain.method == "uniform"


def test_all_takes_what_the_config_can_run(tiny_config):
    names = plan.names_of("all", tiny_config)
    assert "dlsa" not in names and set(names) == set(methods.RECIPES) - {"dlsa"}
    assert plan.names_of("contrastive", tiny_config) == [
        "bcl", "paco", "proco", "bns_joint", "tsc", "bns_ipdpp", "bns_uniform"
    ]  # fmt: skip
    assert "bns_ipdpp" not in plan.names_of("losses", tiny_config)
    assert plan.names_of("crt, cross_entropy", tiny_config) == ["cross_entropy", "crt"]
    with pytest.raises(errors.BadInput, match="this config has no block config.baseline"):
        plan.names_of("crt", dlsa_features.get_config())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods=crtt"], "--methods: expected one of .*, found 'crtt'; did you mean crt?"),
        ([], "--methods: expected some of cross_entropy"),
        (["--methods=crt", "--seeds=0"], "--seeds: expected a whole number, at least 1, found '0'"),
        (["--methods=crt", "--folds=1"], "--folds: expected a whole number, 0 or at least 2, found '1'"),
        (["--methods=crt", "--config=configs/digits.py"], "did you mean configs/digits_lt.py?"),
        (["--methods=crt", "--vary=retrain.kk=3"], "config.retrain.kk is no key of this config"),
        (
            ["--methods=crt", "--vary=retrain.k"],
            "--vary: expected KEY=VALUE,VALUE, as .*, found 'retrain.k'",
        ),
        (["--methods=crt", "--vary=retrain.k=30"], "--vary: retrain.k changes nothing in crt"),
    ],
)
def test_wrong_input_is_one_line(words, message, capsys, tmp_path):
    assert run_compare(*words, f"--workdir={tmp_path / 'x'}") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and not (tmp_path / "x").exists()
    import re

    assert re.search(message, lines[0])


@pytest.mark.slow
def test_a_comparison_of_heads(tmp_path, tiny, capsys):
    words = (*tiny, "--methods=cross_entropy,crt,nearest_class_mean", "--folds=2", "--config.baseline.epochs=1")
    assert run_compare(*words, f"--workdir={tmp_path}") == 0
    printed = capsys.readouterr().err
    assert "3 methods, 1 seeds, 2 folds: 3 runs" in printed and "* selected by balanced accuracy" in printed
    compared = json.loads((tmp_path / "compare.json").read_text())
    selected = compared["selected"]
    assert selected == statistics.select({name: x["validation"] for name, x in compared["methods"].items()})
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [row["method"] for row in rows] == list(compared["methods"])
    for row in rows:
        assert float(row["overall"]) == compared["methods"][row["method"]]["test"][0]["overall"]
    page = (tmp_path / "compare.html").read_text()
    assert "Nearest class mean" in page and "<small>selected</small>" in page and "https://" not in page
    images = np.zeros((1, 8, 8, 3), np.uint8)
    chosen = lt_jax.load(tmp_path).predict(images)
    np.testing.assert_array_equal(chosen, lt_jax.load(tmp_path, method=selected).predict(images))
    assert run_compare(*words, f"--workdir={tmp_path}") == 0
    assert "baseline: complete" in capsys.readouterr().err


def test_a_comparison_without_folds_selects_nothing(tmp_path, tiny, capsys):
    words = (*tiny, "--methods=cross_entropy,crt", "--folds=0", "--config.baseline.epochs=1", f"--workdir={tmp_path}")
    assert run_compare(*words, "--vary=baseline.augment.flip=0.0,1.0") == 0
    assert "4 methods, 1 seeds, no folds: 2 runs" in capsys.readouterr().err
    compared = json.loads((tmp_path / "compare.json").read_text())
    assert compared["methods"]["crt, baseline.augment.flip=1.0"]["title"] == "cRT, baseline.augment.flip=1.0"
    assert compared["selected"] is None and compared["methods"]["crt"]["validation"] is None
    assert "nothing was selected" in (tmp_path / "compare.html").read_text()
    assert lt_jax.load(tmp_path, method="crt").predict(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 10)


@pytest.mark.slow
def test_a_method_that_fails_does_not_stop_the_others(tmp_path, tiny, capsys, monkeypatch):
    overrides = {**methods.RECIPES["focal"].overrides, "baseline.base_learning_rate": 1e30}
    monkeypatch.setitem(methods.RECIPES, "focal", methods.Recipe("Diverging", "", overrides=overrides))
    words = (*tiny, "--methods=cross_entropy,focal,bns_uniform", "--folds=0", "--seeds=2")
    short = ("--config.baseline.epochs=1", "--config.pretrain.epochs=1", "--config.retrain.epochs=1")
    assert run_compare(*words, *short, f"--workdir={tmp_path}") == 0
    compared = json.loads((tmp_path / "compare.json").read_text())
    assert compared["methods"]["focal"]["status"] == "failed" and compared["selected"] is None
    assert "not finite" in compared["methods"]["focal"]["reason"]
    difference = compared["methods"]["bns_uniform"]["difference"]["balanced"]
    assert difference["half_width"] > 0 and difference["words"] in ("better", "worse", "within noise")
    assert "Diverging" in capsys.readouterr().err
    with pytest.raises(errors.BadInput, match="focal has failed: baseline: loss or gradient is not finite"):
        lt_jax.load(tmp_path, method="focal")
    assert lt_jax.load(tmp_path, method="bns_uniform").predict(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 10)


def test_runs_that_start_from_a_failed_one_have_failed(monkeypatch):
    def started():
        ours, theirs = multiprocessing.Pipe()
        theirs.send((1, "diverged"))
        process = types.SimpleNamespace(is_alive=lambda: True, join=lambda: None, other_end=theirs)
        return workers._Worker(process, ours)

    monkeypatch.setattr(workers, "_started", started)
    tasks = [workers.Task("first", None), workers.Task("second", None, before="first")]
    assert workers.run_all(tasks, 2) == {"first": "diverged", "second": "diverged"}


@pytest.mark.slow
def test_runs_beside_each_other(tmp_path, tiny, capsys, monkeypatch):
    overrides = {**methods.RECIPES["focal"].overrides, "baseline.base_learning_rate": 1e30}
    monkeypatch.setitem(methods.RECIPES, "focal", methods.Recipe("Diverging", "", overrides=overrides))
    words = (*tiny, "--methods=cross_entropy,focal,bns_uniform", "--folds=0")
    short = ("--config.baseline.epochs=1", "--config.pretrain.epochs=1", "--config.retrain.epochs=1")
    assert run_compare(*words, *short, "--jobs=2", f"--workdir={tmp_path / 'beside'}") == 0
    assert "run 4 of 4" in capsys.readouterr().err
    assert run_compare(*words, *short, f"--workdir={tmp_path / 'turn'}") == 0
    beside, turn = (json.loads((tmp_path / name / "compare.json").read_text()) for name in ("beside", "turn"))
    assert "not finite" in beside["methods"]["focal"]["reason"]
    for name in ("cross_entropy", "bns_uniform"):
        overall = [x["methods"][name]["test"][0]["overall"] for x in (beside, turn)]
        assert overall[0] == pytest.approx(overall[1], abs=0.02)  # last bits may differ
    logs = list((tmp_path / "beside").rglob("log.txt"))
    assert len(logs) == 4 and sum("lt_jax: baseline: loss or gradient" in path.read_text() for path in logs) == 1


@pytest.mark.slow
def test_a_stop_ends_the_runs_beside_each_other(tmp_path, tiny):
    words = ("--methods=cross_entropy,focal", "--folds=0", "--jobs=2", "--config.baseline.epochs=2000")
    command = [sys.executable, "-m", "lt_jax.compare", *tiny, *words, f"--workdir={tmp_path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 300
            while len(list(tmp_path.rglob("metrics.jsonl"))) < 2:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.5)
            process.terminate()
            _, stderr = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 75 and "stopped by a signal" in stderr
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert len(logs) == 2 and all("and saved; run the same command again to resume" in text for text in logs)
    assert len(list(tmp_path.rglob("checkpoints/baseline/*/variables"))) >= 2


@pytest.fixture
def on_features(tmp_path):
    """The words of a config that trains no network: heads on features of random weights from a file."""
    from lt_jax import models
    from lt_jax.models import weights

    config = digits_lt.get_config("smoke")
    network = models.build(config.encoder, "float32")
    variables = network.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    tensors = {}
    for path, x in jax.tree_util.tree_flatten_with_path(variables)[0]:
        turn = {4: (3, 2, 0, 1), 2: (1, 0)}.get(x.ndim, range(x.ndim))
        tensors[weights.theirs("/".join(str(key.key) for key in path[1:]))] = np.transpose(x, tuple(turn))
    np.savez(tmp_path / "w.npz", **tensors)
    return (
        "--config=configs/digits_lt.py:smoke",
        f"--config.encoder.weights={tmp_path / 'w.npz'}",
        "--config.stages=('features','heads','evaluate','report')",
        "--config.heads=('linear','nearest_class_mean','balanced_linear(steps=20)')",
    )


def test_heads_on_features_share_one_pass_over_the_images(on_features, tmp_path, capsys):
    words = (*on_features, "--methods=linear,nearest_class_mean,balanced_linear", "--seeds=2")
    assert run_compare(*words, f"--workdir={tmp_path / 'out'}") == 0
    assert "3 runs" in capsys.readouterr().err
    compared = json.loads((tmp_path / "out" / "compare.json").read_text())
    names = ("linear", "balanced_linear", "nearest_class_mean")
    assert list(compared["methods"]) == [name for name in methods.HEADS if name in names]
    assert compared["folds"] == 5 and compared["selected"] in compared["methods"]
    assert all(len(method["test"]) == 2 and method["validation"] for method in compared["methods"].values())
    passes = list((tmp_path / "out" / "runs").rglob("train.features.npy"))
    assert len(passes) == 3 and len({path.stat().st_ino for path in passes}) == 1  # one file, linked
    probabilities = lt_jax.load(tmp_path / "out").predict(np.zeros((2, 8, 8, 3), np.uint8))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_a_config_without_training_has_heads_alone(on_features, tmp_path, capsys):
    for name, message in (
        ("focal", "focal trains a network, and this config trains none"),
        ("crtt", "did you mean crt"),
    ):
        assert run_compare(*on_features, f"--methods={name}", f"--workdir={tmp_path / 'x'}") == 2
        assert message in capsys.readouterr().err


def test_dlsa_on_your_own_features_needs_no_baseline():
    config = dlsa_features.get_config("smoke")
    (job,) = plan.jobs(config, plan.names_of("dlsa", config), range(1), 0)
    assert job.folder.startswith("runs/seed0/all/dlsa-") and "report" not in job.config.stages
    assert plan.method_in(job, "dlsa") == "dlsa"


def test_files_are_not_varied(tiny_config):
    changes = {"encoder.weights=a.npz": {"encoder.weights": "a.npz"}}
    with pytest.raises(errors.BadInput, match="all methods of a comparison share encoder.weights"):
        plan.varied(tiny_config, ["cross_entropy"], changes)


def test_a_head_that_does_not_fit_the_varied_network_is_left_out(tiny_config, capsys):
    changes = {"baseline.head=cosine": {"baseline.head": "cosine"}}
    names = plan.varied(tiny_config, ["cross_entropy", "logit_adjustment", "crt"], changes)
    assert names == [
        "cross_entropy", "cross_entropy, baseline.head=cosine", "logit_adjustment", "crt", "crt, baseline.head=cosine",
    ]  # fmt: skip
    assert "logit_adjustment, baseline.head=cosine: left out" in capsys.readouterr().err


def test_any_error_of_one_run_leaves_the_others(monkeypatch, capsys):
    def run(config, folder):
        if folder == "first":
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        if folder == "refused":
            raise errors.BadInput("unknown")

    monkeypatch.setattr(workers, "_run", run)
    tasks = [workers.Task(name, None) for name in ("first", "second")]
    assert workers.run_all(tasks, 1) == {"first": "RuntimeError: RESOURCE_EXHAUSTED: out of memory"}
    with pytest.raises(errors.BadInput, match="unknown"):
        workers.run_all([workers.Task("refused", None)], 1)
