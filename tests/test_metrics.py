"""Measures compared with hand-worked numbers."""

import numpy as np
import pytest

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
