"""Measures compared with hand-worked numbers."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from lt_jax import metrics
from lt_jax.data import longtail

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 2, 2])
LOGITS = np.log(np.full((8, 3), 0.1) + 0.7 * np.eye(3)[PREDICTED])
GROUPS = longtail.shot_groups(np.array([500, 50, 40]))


def test_by_hand():
    measures = metrics.measures(LABELS, LOGITS, GROUPS)
    assert measures["per_class"] == [0.75, 0.5, 1.0]
    assert measures["overall"] == 0.75
    assert measures["many"] == 0.75 and measures["medium"] == 0.75
    assert measures["few"] is None  # no class is that small: None, not 0
    assert measures["balanced"] == 0.75 and measures["worst_class"] == 0.5
    assert measures["macro_f1"] == pytest.approx((0.75 + 0.5 + 1.0) / 3)
    # Confidence is .8 / (.8 + .1 + .1) everywhere, accuracy .75: one bin.
    assert measures["ece"] == pytest.approx(0.05)
    assert 0 < measures["mcc"] < 1 and 0 < measures["nmi"] < 1


def test_perfect_and_class_without_test_images():
    measures = metrics.measures(np.array([0, 2]), np.eye(3)[[0, 2]] * 50, GROUPS)
    assert measures["per_class"] == [1.0, None, 1.0]
    assert measures["overall"] == measures["balanced"] == measures["mcc"] == measures["macro_f1"] == 1.0


def test_calibration_of_a_fair_coin():
    logits = np.zeros((1000, 2))
    labels = np.arange(1000) % 2
    assert metrics.expected_calibration_error(labels, logits) == pytest.approx(0.0, abs=1e-12)
    assert metrics.expected_calibration_error(labels, np.tile([100.0, 0.0], (1000, 1))) == pytest.approx(0.5)


def test_means_of_class_accuracies_against_scipy():
    measures = metrics.measures(LABELS, LOGITS, GROUPS)
    assert measures["harmonic_mean"] == pytest.approx(stats.hmean([0.75, 0.5, 1.0]))
    assert measures["geometric_mean"] == pytest.approx(stats.gmean([0.75, 0.5, 1.0]))
    zero = metrics.measures(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]), {})
    assert zero["harmonic_mean"] == zero["geometric_mean"] == 0.0
    assert metrics.balanced_accuracy(LABELS, PREDICTED, 4)["balanced"] == balanced_accuracy_score(LABELS, PREDICTED)


def test_calibration_of_groups_by_hand():
    """Confidence is .8; 3 of 4 of the large class are right, and 1 of 2 and 2 of 2 of the small ones: 3 of 4."""
    groups = {"many": np.array([True, False, False]), "few": np.array([False, True, False]), "none": np.zeros(3, bool)}
    measured = metrics.measures(LABELS, LOGITS, groups)["group_ece"]
    assert measured == {"many": pytest.approx(0.05), "few": pytest.approx(0.3), "none": None}
    unseen = metrics.measures(np.array([0, 2]), np.eye(3)[[0, 2]], groups)["group_ece"]
    assert unseen["few"] is None and unseen["many"] is not None


def test_shifted_priors_by_hand():
    """Three classes, factor 4: shares 4/7, 2/7, 1/7 of the classes in the order 1, 0, 2 of their training images."""
    shifts = metrics.shifted([0.5, 1.0, 0.0], np.array([20, 300, 1]), factors=(4, 1))
    assert list(shifts) == ["forward_4", "uniform", "backward_4"]
    assert shifts["forward_4"] == pytest.approx((4 * 1.0 + 2 * 0.5) / 7)
    assert shifts["uniform"] == pytest.approx(0.5)
    assert shifts["backward_4"] == pytest.approx((1 * 1.0 + 2 * 0.5) / 7)
    names = list(metrics.shifted([0.5, 1.0, 0.0], np.array([20, 300, 1])))
    assert names[:5] == ["forward_50", "forward_25", "forward_10", "forward_5", "forward_2"]
    assert names[5:] == ["uniform", "backward_2", "backward_5", "backward_10", "backward_25", "backward_50"]


def test_shifted_priors_against_scikit_learn():
    """The weighted accuracy of single images, each class with its share."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, 500), rng.integers(0, 3, 500)
    counts = np.array([1_000_000, 500, 500, 20, 1, 0])
    per_class = metrics.measures(labels, np.eye(6)[predicted], {})["per_class"]
    for name, sign in (("forward", -1), ("backward", 1)):
        weights = 10.0 ** (sign * np.arange(6) / 5) / np.bincount(labels)
        expected = accuracy_score(labels, predicted, sample_weight=weights[labels])
        assert metrics.shifted(per_class, counts)[f"{name}_10"] == pytest.approx(expected)
    assert metrics.shifted(per_class, counts)["uniform"] == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_shifted_priors_leave_out_classes_without_test_images():
    shifts = metrics.shifted([0.5, None, 0.25], np.array([100, 10, 1]), factors=(4,))
    assert shifts["forward_4"] == pytest.approx((4 * 0.5 + 0.25) / 5) and shifts["uniform"] == pytest.approx(0.375)
    assert metrics.shifted([None], np.array([3]), factors=(2,)) == {
        "forward_2": None,
        "uniform": None,
        "backward_2": None,
    }
    assert metrics.shifted([0.5], np.array([3]), factors=(2,))["forward_2"] == 0.5


def test_a_result_has_shifted_priors_and_calibration_by_group(finished):
    result = json.loads((finished / "result.json").read_text())
    assert list(result["shifted"]) == list(result["methods"])
    for name, shifts in result["shifted"].items():
        test = result["methods"][name]["test"]
        assert shifts["uniform"] == pytest.approx(test["balanced"])
        assert set(test["group_ece"]) == set(result["dataset"]["groups"])
        assert None not in test["group_ece"].values()
