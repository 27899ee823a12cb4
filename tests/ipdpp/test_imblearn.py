"""IPDPPUnderSampler: the estimator checks of imbalanced-learn, and its behaviour on tables and text labels."""

import pathlib
import re

import numpy as np
import pytest

pytest.importorskip("imblearn", reason="imbalanced-learn is not installed")
from imblearn.utils.estimator_checks import parametrize_with_checks
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from lt_jax.ipdpp.imblearn import IPDPPUnderSampler


@pytest.fixture(autouse=True)
def strict_promotion():
    """Turns strict promotion off: scikit-learn's checks use types of their own."""


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([IPDPPUnderSampler(random_state=0)])
def test_checks_of_imbalanced_learn(estimator, check):
    check(estimator)


def three_classes():
    return make_classification(400, n_features=6, n_informative=4, n_classes=3, weights=[0.7, 0.2, 0.1], random_state=0)


def test_hard_items_are_preferred_and_the_draw_is_reproducible():
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


def table():
    """Returns a DataFrame of 60 and 12 rows with a text index and a text column, and its labels."""
    pandas = pytest.importorskip("pandas")
    y = np.repeat([0, 1], [60, 12])
    x = np.random.default_rng(0).normal(size=(72, 2)) + y[:, None]
    index = [f"row {i}" for i in range(72)]
    frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "text": np.where(x[:, 0] > 0, "high", "low")}, index)
    return frame, pandas.Series(y, index, name="label")


def test_a_table_keeps_its_index_and_columns():
    frame, y = table()
    sampler = IPDPPUnderSampler(random_state=0)
    x_small, y_small = sampler.fit_resample(frame[["a", "b"]], y)
    assert list(x_small.index) == list(y_small.index) == [f"row {i}" for i in sampler.sample_indices_]
    assert (x_small == frame[["a", "b"]].loc[x_small.index]).all(axis=None)
    assert (y_small == y.loc[y_small.index]).all() and y_small.name == "label"


def test_text_and_missing_values_reach_an_estimator_that_supports_them():
    frame, y = table()
    frame.loc["row 3", "a"] = np.nan
    columns = make_column_transformer((OneHotEncoder(), ["text"]), (SimpleImputer(), ["a", "b"]))
    sampler = IPDPPUnderSampler(make_pipeline(columns, LogisticRegression()), random_state=0)
    x_small, y_small = sampler.fit_resample(frame, y)
    assert (x_small.dtypes == frame.dtypes).all() and x_small.equals(frame.loc[x_small.index])
    assert y_small.value_counts().to_dict() == {0: 12, 1: 12}
    numbers = frame[["a", "b"]].to_numpy()
    forest = IPDPPUnderSampler(HistGradientBoostingClassifier(), random_state=0)
    assert len(forest.fit_resample(numbers, y.to_numpy())[1]) == 24
    with pytest.raises(ValueError, match="NaN"):
        IPDPPUnderSampler(random_state=0).fit_resample(numbers, y.to_numpy())


def test_every_snippet_of_the_documentation_runs():
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "ipdpp.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    for snippet in snippets:
        exec(snippet, names)
    assert len(snippets) == 2 and len(set(np.bincount(names["y_small"]))) == 1


def test_one_item_beside_one_large_class():
    x, y = np.arange(21.0)[:, None], np.array([0] * 20 + [1])
    sampler = IPDPPUnderSampler(random_state=0)
    _, resampled = sampler.fit_resample(x, y)
    assert np.bincount(resampled).tolist() == [1, 1] and sampler.probabilities_[20] == 0
