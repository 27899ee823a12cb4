"""What a comparison says of its runs: weights of the classes, paired differences, and what cannot be compared."""

import types

import numpy as np
import pytest
from etils import epath

from configs import digits_lt
from lt_jax.compare import plan, results
from lt_jax.core import errors

LABELS = np.array([0, 0, 0, 0, 1, 1])


def test_weights_of_the_classes_by_hand():
    for measure, expected in (("overall", [2 / 3, 1 / 3]), ("balanced", [0.5, 0.5]), ("few", [0.0, 1.0])):
        np.testing.assert_allclose(results._weights(measure, LABELS, [1]), expected)
    for measure, expected in (("balanced", [0.5, 0.0, 0.5]), ("few", [0.0, 0.0, 1.0])):  # class 1 has no test image
        np.testing.assert_allclose(results._weights(measure, np.array([0, 0, 2]), [1, 2]), expected)


def method(*balanced, few=0.5):
    return {"test": [{"balanced": x, "overall": x, "few": few} for x in balanced]}


def test_a_difference_covers_the_choice_of_test_images():
    """Images differ by 1, 0, 0, 1 and 1, 0: variances 1/3 of four and 1/2 of two; the balanced error is sqrt(1/12)."""
    compared = {"reference": method(0.6, 0.7), "noisy": method(0.8, 0.9), "better": method(0.9, 1.0, few=None)}
    compared["worse"] = method(0.3, 0.4)
    right = {name: np.zeros(6) for name in compared} | {"noisy": np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])}
    results._add_differences("reference", compared, {"right": right, "labels": LABELS, "few": [1]})
    assert "difference" not in compared["reference"]
    noisy = compared["noisy"]["difference"]
    assert noisy["balanced"]["mean"] == pytest.approx(0.2) and noisy["balanced"]["words"] == "within noise"
    assert noisy["balanced"]["half_width"] == pytest.approx(1.959964 * (1 / 12) ** 0.5, rel=1e-5)
    assert noisy["overall"]["half_width"] == pytest.approx(1.959964 * (4 / 9 / 12 + 1 / 9 / 4) ** 0.5, rel=1e-5)
    assert [compared[name]["difference"]["balanced"]["words"] for name in ("better", "worse")] == ["better", "worse"]
    assert "few" not in compared["better"]["difference"]  # one of the two lacks the group


def test_a_comparison_whose_methods_all_failed_gives_the_reasons():
    jobs = [plan.Job("runs/a", None, None, ("focal",)), plan.Job("runs/b", None, None, ("ldam_drw",))]
    with pytest.raises(errors.RunFailed, match="every method has failed: diverged; no memory"):
        results.read(jobs, ["focal", "ldam_drw"], epath.Path("x"), {"runs/a": "no memory", "runs/b": "diverged"})


def test_predictions_of_an_older_version_say_what_to_delete(tmp_path):
    config = types.SimpleNamespace(stages=("features", "heads"))
    job = plan.Job("runs/seed0/all/heads-1", config, None, ("linear",))
    (tmp_path / job.folder).mkdir(parents=True)
    np.savez(tmp_path / job.folder / "predictions.npz", labels=LABELS)
    with pytest.raises(errors.BadInput, match="lacks what this version compares: delete stages/evaluate.json there"):
        results._right_by_image([job], ["linear"], epath.Path(tmp_path))


def test_options_of_a_method_are_refused():
    with pytest.raises(errors.BadInput, match="--methods: a recipe takes no options in brackets"):
        plan.names_of("crt(scaling='unit')", digits_lt.get_config("smoke"))
