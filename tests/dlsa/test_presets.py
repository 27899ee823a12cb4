"""The command with configs/dlsa_features.py: the released presets, and errors of options."""

import numpy as np
import pytest

from lt_jax.run import config as config_lib

PRESETS = {
    "imagenet_lt": (3, 50, 1024, 2.0, 1.0, 0.02),
    "inat2018": (3, 30, 1024, 1.0, 1.0, 0.02),
    "places_lt": (1, 60, 512, 1.0, 2.0, 0.03),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_released_settings(name):
    config = config_lib.from_command_line(["lt_jax", f"--config=configs/dlsa_features.py:preset={name}"])[0].dlsa
    fit, head = config.filter, config.classifier
    weights = (fit.likelihood_weight, fit.balance_weight, fit.purity_weight)
    assert (config.depth, fit.epochs, fit.batch_size, *weights) == PRESETS[name]
    assert (fit.clusters, fit.blocks, fit.centre_deviation, fit.learning_rate) == (500, 2, 0.05, 0.2)
    assert (fit.class_weight_power, fit.min_purity, fit.min_size, fit.max_size) == (2.0, 0.7, 10, 5000)
    assert (head.epochs, head.batch_size, head.learning_rate, head.momentum, head.weight_decay) == (
        150,
        128,
        0.01,
        0,
        0,
    )
    assert (head.kind, head.loss, head.sampling, head.hidden) == ("linear", "balanced_softmax", "instance", 0)
    assert fit.standardise == head.standardise == "none" and head.unseen == "possible"
    assert (config.share, config.threshold, config.rest_counts) == (0.3, "order_statistic", "all")
    assert (config.share_at, config.last, fit.noise, fit.weight_decay) == ("fitted", "left", 0.0, 0.0)


def test_an_unknown_preset_is_a_one_line_error(run_main, tmp_path, capsys):
    words = ("--config=configs/dlsa_features.py:preset=places", f"--workdir={tmp_path}")
    assert run_main(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "preset" in line]
    assert len(lines) == 1 and "preset=places is unknown: did you mean places_lt?" in lines[0]


@pytest.mark.parametrize("name", PRESETS)
def test_the_smoke_form_of_a_preset_runs(gaussians, run_main, tmp_path, name):
    features, labels, test, test_labels = gaussians
    np.savez(tmp_path / "mine.npz", features=features, labels=labels, test_features=test, test_labels=test_labels)
    words = (f"--config=configs/dlsa_features.py:preset={name},smoke", f"--config.data.list={tmp_path / 'mine.npz'}")
    assert run_main(*words, "--config.stages=('features', 'dlsa')", f"--workdir={tmp_path / 'run'}") == 0
    assert (tmp_path / "run" / "dlsa.json").exists()


def test_a_diverging_filter_ends_the_run_with_a_one_line_error(gaussians, run_main, tmp_path, capsys):
    features, labels, test, test_labels = gaussians
    np.savez(tmp_path / "mine.npz", features=features, labels=labels, test_features=test, test_labels=test_labels)
    words = ("--config=configs/dlsa_features.py:smoke", f"--config.data.list={tmp_path / 'mine.npz'}")
    assert run_main(*words, "--config.dlsa.filter.learning_rate=1e3", f"--workdir={tmp_path / 'run'}") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert len(lines) == 1 and "diverged in epoch 1" in lines[0]
    assert "config.dlsa.filter.learning_rate, found 1000.0" in lines[0]


def test_start_from_backbone_is_refused_for_own_features(gaussians, run_main, tmp_path, capsys):
    features, labels, test, test_labels = gaussians
    np.savez(tmp_path / "mine.npz", features=features, labels=labels, test_features=test, test_labels=test_labels)
    words = ("--config=configs/dlsa_features.py:smoke", f"--config.data.list={tmp_path / 'mine.npz'}")
    assert run_main(*words, "--config.dlsa.classifier.start=backbone", f"--workdir={tmp_path / 'run'}") == 2
    assert "this run has features of your own" in capsys.readouterr().err
