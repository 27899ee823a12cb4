"""IPDPPUnderSampler: imbalanced-learn's own checks, and what it is for."""

import pathlib
import re

import numpy as np
import pytest

pytest.importorskip("imblearn", reason="imbalanced-learn is not installed")
from imblearn.utils.estimator_checks import parametrize_with_checks
from sklearn.datasets import make_classification
from sklearn.naive_bayes import GaussianNB

from lt_jax.ipdpp.imblearn import IPDPPUnderSampler


@pytest.fixture(autouse=True)
def strict_promotion():
    """Nothing to be strict about here, and scikit-learn's checks bring their own types."""


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([IPDPPUnderSampler(random_state=0)])
def test_checks_of_imbalanced_learn(estimator, check):
    check(estimator)


def three_classes():
    return make_classification(400, n_features=6, n_informative=4, n_classes=3, weights=[0.7, 0.2, 0.1], random_state=0)


def test_hard_items_are_kept_and_the_draw_repeats():
    x, y = three_classes()
    sampler = IPDPPUnderSampler(random_state=0)
    _, resampled = sampler.fit_resample(x, y)
    counts = np.bincount(y)
    np.testing.assert_array_equal(np.bincount(resampled), counts.min())
    p, chosen = sampler.probabilities_, sampler.sample_indices_
    assert len(np.unique(chosen)) == len(chosen)
    assert p[chosen[y[chosen] == 0]].mean() < p[y == 0].mean()
    again = IPDPPUnderSampler(random_state=0)
    again.fit_resample(x, y)
    np.testing.assert_array_equal(again.sample_indices_, chosen)


def test_strategy_by_class_and_text_labels():
    x, y = three_classes()
    names = np.array(["common", "seldom", "rare"])[y]
    sampler = IPDPPUnderSampler(GaussianNB(), sampling_strategy={"common": 50}, random_state=1)
    _, resampled = sampler.fit_resample(x, names)
    assert {name: int((resampled == name).sum()) for name in ("common", "seldom")} == {
        "common": 50,
        "seldom": int((names == "seldom").sum()),
    }


def test_a_class_of_one_item():
    x, y = three_classes()
    keep = (y != 2) | (np.arange(len(y)) == np.flatnonzero(y == 2)[0])
    sampler = IPDPPUnderSampler(GaussianNB(), sampling_strategy={0: 30}, random_state=1)
    _, resampled = sampler.fit_resample(x[keep], y[keep])
    assert np.bincount(resampled)[0] == 30 and np.bincount(resampled)[2] == 1


def test_every_snippet_of_the_documentation_runs():
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "ipdpp.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    for snippet in snippets:
        exec(snippet, names)
    assert len(snippets) == 2 and len(set(np.bincount(names["y_small"]))) == 1
