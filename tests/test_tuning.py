"""Options of heads by cross-validation: folds, pooled balanced accuracy, the rule of one standard error."""

import functools

import jax
import numpy as np
import pytest

from lt_jax import heads, losses
from lt_jax.core import errors
from lt_jax.heads import tuning

COUNTS = np.array([40, 10, 5, 1])
LABELS = np.repeat(np.arange(4), COUNTS)
FEATURES = np.stack([LABELS, np.arange(56)], axis=1).astype(np.float32)
CLASSES = losses.Classes.of(COUNTS)


def one_class(features, number):
    return np.tile(np.eye(4)[number], (len(features), 1))


def constant(key, features, labels, classes, *, answer):
    """A head that always says `answer`."""
    return functools.partial(one_class, number=answer)


def test_balanced_accuracy_is_pooled_over_folds_by_hand():
    """Always class 0: accuracies 1, 0, 0 of the three classes that are held out; the class of one item is not."""
    chosen, scores = tuning.choose(constant, jax.random.key(0), FEATURES, LABELS, CLASSES, [{"answer": 0}])
    assert chosen == {"answer": 0}
    assert scores == [{"options": {"answer": 0}, "balanced": pytest.approx(1 / 3), "balanced_error": 0.0}]


def noisy(key, features, labels, classes, *, wrong):
    """A head that is right but for the items whose numbers are below `wrong`."""

    def head(features):
        answers = np.where(features[:, 1] < wrong, 3, features[:, 0]).astype(int)
        return np.eye(4)[answers]

    return head


def test_the_earliest_within_one_standard_error_wins():
    """With 1 of 40 wrong the accuracy is 1 - 1/120, the best is 1 with error 0; at 20 wrong the best has 1 - 19/120."""
    grid = [{"wrong": 1}, {"wrong": 0}, {"wrong": 9}]
    chosen, scores = tuning.choose(noisy, jax.random.key(0), FEATURES, LABELS, CLASSES, grid)
    assert [score["balanced"] for score in scores] == pytest.approx([1 - 1 / 120, 1.0, 1 - 9 / 120])
    assert chosen == {"wrong": 0}  # the best has no error, so nothing else is within it
    chosen, scores = tuning.choose(noisy, jax.random.key(0), FEATURES, LABELS, CLASSES, [{"wrong": 20}, {"wrong": 19}])
    assert scores[1]["balanced_error"] == pytest.approx((19 / 40 * 21 / 40 / 39) ** 0.5 / 3)
    assert chosen == {"wrong": 20}


def test_every_fit_sees_the_other_folds_alone_and_the_same_keys():
    seen = []

    def recorded(key, features, labels, classes, *, answer):
        seen.append((answer, features[:, 1].tolist(), classes.counts.tolist(), jax.random.key_data(key).tolist()))
        return functools.partial(one_class, number=answer)

    tuning.choose(recorded, jax.random.key(3), FEATURES, LABELS, CLASSES, [{"answer": 0}, {"answer": 1}], folds=3)
    assert len(seen) == 6
    assert [x[1:] for x in seen[:3]] == [x[1:] for x in seen[3:]]
    assert len({str(x[3]) for x in seen}) == 3
    held_out = [set(range(56)) - set(map(int, x[1])) for x in seen[:3]]
    assert set.union(*held_out) == set(range(55)) and sum(map(len, held_out)) == 55  # the last item is alone
    for _, numbers, counts, _ in seen:
        assert counts == np.bincount(LABELS[np.array(numbers, int)], minlength=4).tolist()


def test_it_finds_the_option_that_matters():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [200, 40, 8])
    features = (2.5 * np.eye(3, 6)[labels] + rng.normal(size=(len(labels), 6))).astype(np.float32)
    fit = functools.partial(heads.balanced_linear, steps=100)
    grid, classes = [{"tau": 0.0}, {"tau": 1.0}], losses.Classes.of(np.bincount(labels))
    chosen, scores = tuning.choose(fit, jax.random.key(0), features, labels, classes, grid, folds=2)
    assert chosen == {"tau": 1.0} and scores[1]["balanced"] > scores[0]["balanced"] + 0.1


@pytest.mark.parametrize(
    ("labels", "grid", "folds", "message"),
    [
        (LABELS, [], 5, "expected some options and 2 folds or more, found 0 and 5"),
        (LABELS, [{"answer": 0}], 1, "found 1 and 1"),
        (np.arange(4), [{"answer": 0}], 5, "expected a class with two items or more"),
    ],
)
def test_what_cannot_be_validated_is_one_line(labels, grid, folds, message):
    with pytest.raises(errors.BadInput, match=message):
        tuning.choose(constant, jax.random.key(0), FEATURES[: len(labels)], labels, CLASSES, grid, folds)
