"""Runs without any training of a network: heads on features, cross-validated, measured, and handed out."""

import json
import pathlib
import shutil
import types

import jax
import numpy as np
import pytest
from etils import epath

import lt_jax
from configs import common
from lt_jax import heads as head_kinds
from lt_jax import losses, methods, models
from lt_jax.compare import __main__ as compare
from lt_jax.core import errors
from lt_jax.models import weights
from lt_jax.run import config as config_lib
from lt_jax.stages import heads
from lt_jax.train import cache

STAGES = "--config.stages=('features','heads','evaluate','report')"
HEADS = (
    "crt(scaling='unit')", "logit_adjustment", "balanced_linear(steps=50)", "linear(scaling='unit')", "tau_norm", "lws",
    "nearest_class_mean", "cosine_mean(steps=50)",
)  # fmt: skip


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def saved_encoder(path):
    """Writes random weights of the smallest encoder."""
    network = models.classifier(common.encoder("resnet_small", 4), 10, "float32")
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    tensors = {}
    for kind in ("params", "batch_stats"):
        for key_path, x in jax.tree_util.tree_flatten_with_path(variables[kind]["encoder"])[0]:
            name = weights.theirs("/".join(str(key.key) for key in key_path))
            tensors[name] = np.transpose(x, (3, 2, 0, 1)) if x.ndim == 4 else np.asarray(x)
    np.savez(path, **tensors)


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny):
    """The flags of a run of heads on the features of a frozen encoder, whose weights are in a file."""
    file = tmp_path_factory.mktemp("weights") / "w.npz"
    saved_encoder(file)
    return (*tiny, STAGES, f"--config.encoder.weights={file}", f"--config.heads={HEADS!r}", "--config.method=")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory, run_main, words):
    """The work directory of such a run. Tests must not change it."""
    workdir = tmp_path_factory.mktemp("frozen") / "run"
    assert run_main(*words, f"--workdir={workdir}") == 0
    return workdir


def test_the_result_has_every_head_with_its_cross_validation(frozen):
    result = read(frozen / "result.json")
    expected = [name for name in methods.HEADS if name in {methods.name_of("HEADS", text) for text in HEADS}]
    assert list(result["methods"]) == expected and result["frozen"]
    assert result["final"] == result["selected"] == result["method"]
    validation = {name: x["validation"] for name, x in result["methods"].items()}
    best = max(validation.values(), key=lambda x: x["balanced"])
    least = best["balanced"] - best["balanced_error"]
    assert result["selected"] == next(name for name, x in validation.items() if x["balanced"] >= least)
    assert result["selection"]["folds"] == 5 and result["selection"]["images"] == result["dataset"]["counts"]
    assert result["test"] == result["methods"][result["final"]]["test"] and result["baseline"].keys() <= {"linear"}
    assert all(0 <= measures["ece"] <= 1 for measures in validation.values())
    assert result["protocol"]["input"] == [8, 8, 3]


def test_heads_see_the_mirrored_training_images_too(tmp_path, run_main, words, frozen):
    small = ("--config.encoder.flips=True", "--config.heads=('nearest_class_mean',)")
    without_heads = [word for word in words if not word.startswith("--config.heads")]
    assert run_main(*without_heads, *small, f"--workdir={tmp_path}") == 0
    folder = tmp_path / "features"
    plain, mirrored = (np.load(folder / f"{name}.features.npy") for name in ("train", "train_mirrored"))
    np.testing.assert_array_equal(plain, np.load(frozen / "features" / "train.features.npy"))
    assert plain.shape == mirrored.shape and not np.allclose(plain, mirrored)
    labels = np.load(folder / "train.labels.npy")
    both = np.concatenate([plain, mirrored]).astype(np.float32)
    classes = losses.Classes.of(np.bincount(labels))
    by_hand = head_kinds.nearest_class_mean(jax.random.key(0), both, np.tile(labels, 2), classes)
    saved = heads.load(epath.Path(tmp_path), "features", "nearest_class_mean")
    np.testing.assert_allclose(saved(both[:5]), by_hand(both[:5]), rtol=1e-5, atol=1e-6)
    assert read(tmp_path / "result.json")["selection"]["images"] == np.bincount(labels).tolist()  # each image once


def test_the_mirrored_network_is_that_of_mirror_images():
    network = models.classifier(common.encoder("resnet_small", 4), 3, "float32")
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    expected = network.apply(variables, images[:, :, ::-1], method="features")
    np.testing.assert_allclose(network.clone(mirrored=True).apply(variables, images, method="features"), expected)


def test_nothing_is_trained_but_heads(frozen):
    assert not (frozen / "checkpoints").exists() and not (frozen / "metrics.jsonl").exists()
    assert sorted(path.stem for path in (frozen / "stages").iterdir()) == ["evaluate", "features", "heads", "report"]


def test_the_page_says_how_the_head_was_selected(frozen):
    page = (frozen / "report.html").read_text()
    assert "by cross-validation: by balanced accuracy on 5 folds of the training images" in page
    assert ">validation</th>" in page and " *</th>" in page and "is frozen" in page
    assert "Balanced Negative Sampling" not in page and "frozen encoder:" in page


def test_the_table_marks_the_selected_head(frozen, words, run_main, tmp_path, capsys):
    frozen = pathlib.Path(shutil.copytree(frozen, tmp_path / "run"))
    (frozen / "stages" / "evaluate.json").unlink()
    assert run_main(*words, f"--workdir={frozen}") == 0
    printed = capsys.readouterr().err
    assert "features: complete" in printed and "heads: complete" in printed
    title = read(frozen / "result.json")["methods"][read(frozen / "result.json")["selected"]]["title"]
    assert f"{title} *" in printed and "* selected by balanced accuracy on 5 folds of the training images" in printed


def test_the_classifier_needs_neither_weights_nor_data(frozen, words, run_main, capsys, tmp_path):
    result, predictions = read(frozen / "result.json"), np.load(frozen / "predictions.npz")
    config = config_lib.from_command_line(["lt_jax", *words[:3]])[0]
    frozen = pathlib.Path(shutil.copytree(frozen, tmp_path / "run"))
    from lt_jax import data

    images = data.load(config.data).test.images
    (file,) = [word.partition("=")[2] for word in words if "encoder.weights" in word]
    pathlib.Path(file).rename(file + ".away")
    try:
        model = lt_jax.load(frozen)
        expected = np.asarray(jax.nn.softmax(predictions["logits"], axis=-1))
        difference = np.abs(model.predict(images) - expected)  # features on disk are float16
        assert difference.max() < 0.03 and difference.mean() < 1e-3
        assert model.method == result["selected"]
        other = lt_jax.load(frozen, method="linear")
        accuracy = (other.predict(images).argmax(axis=1) == predictions["labels"]).mean()
        assert accuracy == pytest.approx(result["methods"]["linear"]["test"]["overall"], abs=0.01)
        rare = np.argmin(result["dataset"]["counts"])
        assert (
            lt_jax.load(frozen, "linear", tau=1.0).predict(images)[:, rare].mean()
            > other.predict(images)[:, rare].mean()
        )
        assert run_main(f"--workdir={frozen}", "--stage=export", "--method=crt") == 0
        assert read(frozen / "export" / "classifier.json")["method"] == "crt"
        with pytest.raises(errors.BadInput, match="has no method 'ctr': did you mean crt?"):
            lt_jax.load(frozen, method="ctr")
    finally:
        pathlib.Path(file + ".away").rename(file)


@pytest.fixture
def own_features(tmp_path):
    """A file of features: clusters of four classes in ten dimensions."""
    rng = np.random.default_rng(0)
    labels, test_labels = np.repeat(np.arange(4), (60, 25, 10, 1)), np.repeat(np.arange(4), 20)
    made = {name: 3 * np.eye(4, 10)[y] + rng.normal(size=(len(y), 10)) for name, y in
            (("features", labels), ("test_features", test_labels))}  # fmt: skip
    np.savez(tmp_path / "x.npz", labels=labels, test_labels=test_labels, **made)
    return f"--config.data.list={tmp_path / 'x.npz'}"


def test_heads_on_your_own_features(own_features, run_main, tiny, tmp_path, capsys):
    names = ("balanced_linear(steps=50)", "tau_norm(tau=[0.0, 1.0])", "nearest_class_mean")
    words = ("--config=configs/dlsa_features.py:smoke", own_features, tiny[-1], STAGES, f"--config.heads={names!r}")
    assert run_main(*words, f"--workdir={tmp_path / 'run'}") == 0
    result = read(tmp_path / "run/result.json")
    assert list(result["methods"]) == ["balanced_linear", "tau_norm", "nearest_class_mean"]
    assert result["selection"]["images"] == [60, 25, 10, 0]  # the only image of a class is never held out
    alternatives = result["selection"]["alternatives"]
    assert list(alternatives) == ["tau_norm(tau=0.0)", "tau_norm(tau=1.0)"]
    assert result["selection"]["heads"]["tau_norm"] in alternatives
    assert result["methods"]["balanced_linear"]["validation"]["per_class"][3] is None
    assert result["methods"]["balanced_linear"]["test"]["balanced"] > 0.7
    assert (tmp_path / "run/report.html").exists()

    words = (*words, "--config.data.validation=0.3", f"--workdir={tmp_path / 'held'}")
    assert run_main(*words) == 0
    result = read(tmp_path / "held/result.json")
    assert result["selection"]["on"] == "validation" and result["selection"]["folds"] == 0
    assert result["selection"]["images"][0] == 18
    assert "* selected by balanced accuracy on the validation images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("x.npy", np.zeros((2, 2)), "expected a file of features in .npz, .h5 or .hdf5"),
        ("x.npz", np.array([["1", "2"], ["3", "4"]]), "training features: expected numbers, found <U1"),
        ("x.npz", np.array([[1.0, 2.0], [1e39, 0.0]]), "row 1 holds a value that is not finite in float32"),
    ],
)
def test_a_file_that_holds_no_features_is_one_line(name, features, message, run_main, tmp_path, capsys):
    file = tmp_path / name
    if name == "x.npy":
        np.save(file, features)
    else:
        np.savez(file, features=features, labels=[0, 1])
    words = ("--config=configs/dlsa_features.py:smoke", f"--config.data.list={file}", f"--workdir={tmp_path / 'run'}")
    assert run_main(*words) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_heads_on_your_own_features_are_compared(own_features, tiny, tmp_path, capsys):
    words = ("--config=configs/dlsa_features.py:smoke", own_features, tiny[-1], STAGES, f"--workdir={tmp_path / 'out'}")
    assert compare.main(["lt_jax.compare", *words, "--methods=nearest_class_mean,tau_norm", "--seeds=1"]) == 0
    assert "Nearest class mean" in capsys.readouterr().err
    assert "none: features of your own" in (tmp_path / "out" / "compare.html").read_text()


def nearest(key, features, labels, classes, *, initial=None, right=True):
    """The class of the nearest training item: always right on what it was fitted on; or the class after it."""

    def head(x):
        own = labels[np.abs(x[:, None] - features[None]).sum(axis=-1).argmin(axis=1)]
        return np.eye(len(classes.counts))[own if right else (own + 1) % len(classes.counts)]

    return head


def fake_experiment(labels, **config):
    counts = np.bincount(labels)
    dataset = types.SimpleNamespace(
        train=types.SimpleNamespace(labels=labels), validation=None, num_classes=len(counts), groups={}
    )
    settings = types.SimpleNamespace(evaluate=types.SimpleNamespace(ece_bins=15), **config)
    return types.SimpleNamespace(
        config=settings, dataset=dataset, classes=losses.Classes.of(counts), stream=lambda name: jax.random.key(0),
        number=lambda name: 0,
    )  # fmt: skip


def test_a_head_never_sees_the_images_that_it_is_measured_on(monkeypatch):
    """Labels that features say nothing about: right on training items, chance on the others."""
    monkeypatch.setitem(methods.HEADS, "nearest", nearest)
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    features = rng.normal(size=(400, 3)).astype(np.float32)
    scored, logits = heads._out_of_fold(fake_experiment(labels), ["nearest", "nearest(right=False)"], features[None])
    accuracy = {text: (x.argmax(axis=1) == scored).mean() for text, x in logits.items()}
    assert 0.35 < accuracy["nearest"] < 0.65
    assert accuracy["nearest"] + accuracy["nearest(right=False)"] == pytest.approx(1.0)
    assert (
        nearest(None, features, labels, losses.Classes.of(np.array([200, 200])))(features).argmax(1) == labels
    ).all()


def test_a_head_on_a_subset_sees_at_most_k_items_of_a_class(monkeypatch):
    """Beside it the same head on all items: with k as large as the largest class both are equal."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (60, 30, 4))
    features = (2 * np.eye(3, 5)[labels] + rng.normal(size=(94, 5))).astype(np.float32)
    classes = losses.Classes.of(np.bincount(labels))
    initial = methods.HEADS["linear"](jax.random.key(0), features, labels, classes, settings=head_kinds.Settings(5))
    seen = []
    own = head_kinds.balanced_linear

    def watched(key, x, y, of_classes, **options):
        seen.append((np.bincount(y).tolist(), np.asarray(of_classes.counts).tolist()))
        return own(key, x, y, of_classes, **options)

    monkeypatch.setattr(head_kinds, "balanced_linear", watched)
    for selector in ("herding", "rank_one", "kmeans(iterations=2)", "uniform"):
        head = methods.HEADS["subset_linear"](
            jax.random.key(1), features, labels, classes, initial=initial, selector=selector, k=10, steps=20
        )
        assert np.isfinite(head(features)).all()
    assert seen == [([10, 10, 4], [10, 10, 4])] * 4
    with pytest.raises(errors.BadInput, match="selector: expected one of rank_one, .*did you mean herding"):
        methods.HEADS["subset_linear"](
            jax.random.key(1), features, labels, classes, initial=initial, selector="herdin", k=10
        )


def test_alternatives_of_an_option():
    text = "tau_norm(tau=[1.0, 1.5])"
    assert methods.alternatives(text, "k") == ["tau_norm(tau=1.0)", "tau_norm(tau=1.5)"]
    assert methods.alternatives("crt", "k") == ["crt"]
    assert len(methods.alternatives("adapter(width=[8, 16], tau=[0.5, 1.0], steps=3)", "k")) == 4
    with pytest.raises(errors.BadInput, match="k: expected some values in each list"):
        methods.alternatives("tau_norm(tau=[])", "k")
    with pytest.raises(errors.BadInput, match="k: expected one value of tau in .*, found a list"):
        methods.entry("HEADS", text, "k")


def test_a_choice_of_options_needs_cross_validation(run_main, tmp_path, capsys):
    words = ("--config.heads=('tau_norm(tau=[1.0, 1.5])',)", f"--workdir={tmp_path}")
    assert run_main(*words) == 2
    assert "config.heads: expected one value of tau" in capsys.readouterr().err
    assert run_main("--config.heads=('crt','crt(scaling=\"unit\")')", f"--workdir={tmp_path}") == 2
    assert "config.heads: expected each head once, found crt 2 times" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("('heads','evaluate')", "heads needs baseline before it, or features without retrain and dlsa"),
        ("('features','heads','dlsa','evaluate')", "heads needs baseline before it, or features without"),
        ("('features','evaluate')", "evaluate needs baseline, retrain, dlsa or heads before it"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, message, run_main, tmp_path, capsys):
    words = ("--config=configs/dlsa_features.py:smoke", f"--config.stages={stages}", f"--workdir={tmp_path}")
    assert run_main(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["logit_adjustment", "tau_norm", "lws"])
def test_heads_that_change_one_on_unit_features_keep_its_scaling(name):
    """On features that are of unit length and centred already both forms give the same."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (30, 20, 10))
    features = rng.normal(size=(60, 4)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    kernel, bias = rng.normal(size=(4, 3)).astype(np.float32), np.ones(3, np.float32)
    classes = losses.Classes.of(np.bincount(labels))
    made = [
        methods.HEADS[name](jax.random.key(0), features, labels, classes, initial=initial)
        for initial in (head_kinds.Linear(kernel, bias), head_kinds.UnitLinear(kernel, bias, np.zeros(4, np.float32)))
    ]
    assert isinstance(made[1], head_kinds.UnitLinear)
    np.testing.assert_allclose(made[1](features), made[0](features), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(made[1](7.0 * features), made[1](features), rtol=1e-3, atol=1e-3)


def test_a_run_that_failed_in_the_feature_pass_resumes(frozen, words, run_main, tmp_path, monkeypatch, capsys):
    """Its features are those of the unbroken run."""
    monkeypatch.setattr(cache, "PART", 100)
    write, written = cache.files.write_npy, []

    def write_two(path, array):
        if len(written) == 2:
            raise errors.RunFailed("no space left")
        written.append(path)
        write(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(cache.files, "write_npy", write_two)
        assert run_main(*words, f"--workdir={tmp_path / 'run'}", "--stage=features") == 1
    assert run_main(*words, f"--workdir={tmp_path / 'run'}", "--stage=features") == 0
    assert "features of train: 200 of 383 images are on disk already" in capsys.readouterr().err
    for name in ("train", "test"):
        ours, unbroken = (np.load(folder / f"features/{name}.features.npy") for folder in (tmp_path / "run", frozen))
        np.testing.assert_allclose(ours.astype(np.float32), unbroken.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_heads_are_validated_from_the_chosen_linear_head(monkeypatch, tmp_path):
    """The second alternative of `linear` is right, so that a head which returns its start is right too."""

    def linear(key, features, labels, classes, *, initial=None, scaling="standard"):
        return nearest(key, features, labels, classes, right=scaling == "unit")

    def start(key, features, labels, classes, *, initial):
        return initial

    monkeypatch.setitem(methods.HEADS, "linear", linear)
    monkeypatch.setitem(methods.HEADS, "tau_norm", start)
    labels = np.repeat([0, 1], 40)
    features = (labels[:, None] * 9.0 + np.random.default_rng(0).normal(size=(80, 3))).astype(np.float32)
    experiment = fake_experiment(
        labels, heads=("linear(scaling=['standard','unit'])", "tau_norm"), stages=("features", "heads"),
        encoder=types.SimpleNamespace(flips=False),
    )  # fmt: skip
    experiment.workdir = epath.Path(tmp_path)
    monkeypatch.setattr(heads.features_lib, "read", lambda *_: (features, labels))
    monkeypatch.setattr(heads.features_lib, "check_same_data", lambda *_: None)
    monkeypatch.setattr(heads.features_lib, "has_mirrored", lambda *_: False)
    monkeypatch.setattr(heads, "save", lambda *_: None)
    heads.run(experiment)
    about = read(tmp_path / "heads/features/validation.json")
    assert about["heads"]["linear"] == "linear(scaling='unit')"
    assert about["measures"]["tau_norm"]["balanced"] == about["measures"]["linear"]["balanced"] == 1.0
