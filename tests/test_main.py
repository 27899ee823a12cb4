"""The command line on tiny runs, in this process."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from lt_jax import ipdpp


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def test_result_has_every_measure(finished):
    result = read(finished / "result.json")
    assert result["status"] == "complete" and result["method"] == "bns_ipdpp"
    assert result["protocol"]["epoch_rule"] == "last" and not result["protocol"]["test_time_augmentation"]
    assert result["protocol"]["network"] == "resnet_small" and result["protocol"]["parameters"] > 1000
    assert result["protocol"]["subset_digest"] == result["dataset"]["index_digest"]
    assert result["final"] == result["selected"] == "bns_ipdpp"
    assert result["dataset"]["train_size"] == 383 and result["dataset"]["counts"][0] == 120
    assert {name: len(c) for name, c in result["dataset"]["groups"].items()} == {"many": 2, "medium": 4, "few": 4}
    for measures in (result["test"], result["baseline"]["cross_entropy"], *result["probe"].values()):
        assert 0 <= measures["worst_class"] <= measures["overall"] <= 1 and len(measures["per_class"]) == 10
        assert measures["overall"] == pytest.approx(np.mean(measures["per_class"]))
        assert measures["few"] == pytest.approx(np.mean(measures["per_class"][6:]))
    heads = read(finished / "config.json")["heads"]
    assert list(result["methods"]) == ["cross_entropy", *heads, "linear_probe", "linear_probe_official", "bns_ipdpp"]
    assert result["timing"]["pretrain_s"] > 0 and result["timing"]["select_s"] > 0


def test_files_of_the_work_directory(finished):
    predictions = np.load(finished / "predictions.npz")
    accuracy = (predictions["logits"].argmax(1) == predictions["labels"]).mean()
    assert accuracy == pytest.approx(read(finished / "result.json")["test"]["overall"])
    features = np.load(finished / "features/train.features.npy", mmap_mode="r")
    log_p = np.load(finished / "features/train.log_p.npy")
    assert features.shape == (383, 16) and log_p.shape == (383,) and log_p.max() <= 0
    stages = {path.stem: read(path)["status"] for path in (finished / "stages").iterdir()}
    assert stages == dict.fromkeys(
        ("pretrain", "probe", "baseline", "heads", "retrain", "evaluate", "report"), "complete"
    )
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {"pretrain", "baseline", "probe", "retrain"} == {line["stage"] for line in lines}
    for line in lines:
        assert {"step", "epoch", "loss", "learning_rate", "images_per_s"} <= line.keys()
    assert "commit" in read(finished / "run.json") and read(finished / "config.json")["retrain"]["k"] == 10


def test_subset_files_hold_what_reproduces_the_draw(finished):
    counts = read(finished / "result.json")["dataset"]["counts"]
    rounds = sorted((finished / "subsets").iterdir())
    assert [path.name for path in rounds] == ["0.npz", "1.npz"]
    labels = np.load(finished / "features/train.labels.npy")
    for path in rounds:
        subset = dict(np.load(path))
        key = jax.random.wrap_key_data(subset["key"])
        again = ipdpp.select_balanced(key, None, labels, int(subset["k"]), log_probabilities=subset["log_p"])
        np.testing.assert_array_equal(subset["indices"], again)
        np.testing.assert_array_equal(subset["labels"], labels[subset["indices"]])
        assert np.bincount(subset["labels"]).tolist() == np.minimum(counts, 10).tolist()
    assert not np.array_equal(*(np.load(path)["indices"] for path in rounds))


def test_a_second_call_logs_that_all_is_complete(copied, run_main, tiny, capsys):
    before = (copied / "result.json").read_bytes()
    assert run_main(*tiny, f"--workdir={copied}") == 0
    stderr = capsys.readouterr().err
    assert all(f"{stage}: complete" in stderr for stage in ("pretrain", "probe", "baseline", "retrain", "evaluate"))
    assert (copied / "result.json").read_bytes() == before


def test_changed_retraining_reruns_only_later_stages(copied, run_main, tiny, capsys):
    assert run_main(*tiny, f"--workdir={copied}", "--config.retrain.k=5", "--config.retrain.method=uniform") == 0
    stderr = capsys.readouterr().err
    assert "retrain: retrain.k (was 10, now 5) (and 1 more) changed" in stderr
    assert "evaluate: retrain.k" in stderr and "pretrain: complete" in stderr and "baseline: complete" in stderr
    assert int(np.load(copied / "subsets/0.npz")["k"]) == 5


def test_changed_pretraining_over_a_finished_one_is_refused(finished, run_main, tiny, capsys):
    assert run_main(*tiny, f"--workdir={finished}", "--config.pretrain.m=3") == 2
    error_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "pretrain.m (was 1, now 3)" in error_line and "--workdir" in error_line


def test_another_recipe_in_the_same_folder_shows_nothing_of_the_first(copied, run_main, tiny):
    recipe = f"{tiny[0]},method=cross_entropy"
    assert run_main(recipe, *tiny[1:], f"--workdir={copied}", "--config.pretrain.m=3") == 0
    result = read(copied / "result.json")
    assert not {"linear_probe", "linear_probe_official", "bns_ipdpp"} & set(result["methods"])
    assert result["probe"] is None and result["pretraining"] is None and set(result["timing"].values()) == {None}
    assert not (copied / "inclusion.npz").exists() and (copied / "checkpoints/pretrain").exists()
    page = (copied / "report.html").read_text()
    assert "Training loss of the baseline" in page
    for text in ("Balanced Negative Sampling", "Pretraining loss", "Retraining loss", "A balanced set to train on"):
        assert text not in page, text
    # The first recipe finds its pretraining again.
    assert run_main(*tiny, f"--workdir={copied}") == 0
    assert "linear_probe" in read(copied / "result.json")["methods"]


@pytest.mark.slow
def test_eigen_runs_with_the_pretraining_of_another_run(finished, tmp_path, run_main, tiny, capsys):
    words = ["--config=configs/digits_lt_eigen.py:smoke", *tiny[1:], f"--config.init_from={finished}"]
    assert run_main(*words, "--config.seed=7", f"--workdir={tmp_path}") == 0
    result = read(tmp_path / "result.json")
    assert result["seed"] == 7 and result["test"]["overall"] > 0
    assert not (tmp_path / "checkpoints/pretrain").exists()
    assert str(np.load(tmp_path / "subsets/0.npz")["method"]) == "eigen"
    assert run_main(*words, "--config.encoder.width=5", f"--workdir={tmp_path / 'other'}") == 2
    assert "config.encoder.width: the pretraining in" in capsys.readouterr().err


@pytest.mark.slow
def test_official_loss_and_head_only_retraining(tmp_path, run_main, tiny):
    words = (
        "--config.pretrain.loss=official",
        "--config.retrain.trainable=head",
        "--config.stages=('pretrain','retrain','evaluate')",
    )
    assert run_main(*tiny, *words, "--config.pretrain.epochs=1", f"--workdir={tmp_path}") == 0
    result = read(tmp_path / "result.json")
    assert result["baseline"] is None and result["probe"] is None and result["test"]["overall"] > 0


BAD = {
    "unknown key": (["--config.retrain.methd=3"], "config.retrain.methd is no key of this config: did you mean config"),
    "unknown key at the top": (["--config.sed=3"], "did you mean config.seed"),
    "key below a value": (["--config.seed.x=3"], "config.seed has no keys"),
    "wrong type": (["--config.retrain.k=x"], "retrain.k"),
    "wrong value": (["--config.retrain.method=egen"], "config.retrain.method: expected one of rank_one, eigen"),
    "unknown token": (["--config=configs/digits_lt.py:smok"], "did you mean smoke"),
    "no such config": (["--config=configs/digit_lt.py"], "did you mean configs/digits_lt.py"),
    "unknown flag": (["--wrkdir=x"], "wrkdir"),
    "unknown stage": (["--stage=trainn"], "--stage: expected one of all, pretrain"),
    "stray word": (["evaluate"], "unexpected argument 'evaluate'"),
    "unknown encoder": (["--config.encoder.name=resnet"], "config.encoder.name: expected one of"),
    "unknown data": (["--config.data.name=mnist"], "config.data.name: expected one of"),
    "no data": (["--config=configs/cifar10_lt.py", "--config.data.dir=nowhere"], "nowhere is not there"),
    "no pretraining": (["--stage=retrain"], "no finished pretrain in"),
    "no result": (["--stage=report"], "run --stage=evaluate first"),
    "init_from nothing": (["--config.init_from=nowhere"], "no finished pretraining in nowhere"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_invalid_input_is_a_one_line_error(words, message, tmp_path, run_main, capsys):
    assert run_main(*words, f"--workdir={tmp_path}") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lt_jax: ")]
    assert len(lines) == 1 and message in lines[0], lines


def test_work_directory_that_cannot_be_written(tmp_path, run_main, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert run_main(f"--workdir={file}/run") == 2
    assert f"cannot write {file}/run" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_with_status_1(copied, run_main, tiny, capsys):
    shutil.rmtree(copied / "checkpoints/baseline")
    (copied / "stages/baseline.json").unlink()
    words = ("--stage=baseline", "--config.baseline.base_learning_rate=1e30", "--config.baseline.epochs=5")
    assert run_main(*tiny, *words, f"--workdir={copied}") == 1
    assert "baseline: loss or gradient is not finite at step" in capsys.readouterr().err


def test_help_describes_the_flags(run_main, capsys):
    assert run_main("--help") == 0
    assert "--config=configs/NAME.py[:arg]" in capsys.readouterr().out


def test_help_does_not_import_heavy_libraries():
    code = "import sys; from lt_jax import main; main.main(['x', '--help']); print({'jax', 'grain'} & set(sys.modules))"
    stdout = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert stdout.strip().endswith("set()")
