"""Class counts, canonical subsets and shot groups compared with the published protocol."""

import numpy as np
import pytest

from configs import common
from lt_jax import data
from lt_jax.core import errors
from lt_jax.data import longtail

TOTALS = {
    ("cifar10", 10): 20431, ("cifar10", 20): 17023, ("cifar10", 50): 13996, ("cifar10", 100): 12406,
    ("cifar10", 200): 11203, ("cifar100", 10): 19573, ("cifar100", 20): 15907, ("cifar100", 50): 12608,
    ("cifar100", 100): 10847, ("cifar100", 200): 9502,
}  # fmt: skip
DIGESTS = {
    ("cifar10", 10): "a17d69f192b1cf6df09676b6c424e2ad5e7d7863ccc4b9ba70ef128885973218",
    ("cifar10", 20): "fed8b23a7a778a4094b8c5301522600105c4441811d1ef239ae7fc72c42f7fe5",
    ("cifar10", 50): "d7edcfaf02772bee1e2310a33be8b6c46232f043641158348b9de3ec731e26ac",
    ("cifar10", 100): "4bf45bff8878d2786e47dccd702f96ff33b2b11d8c7da3b5015f10937290f866",
    ("cifar10", 200): "a88004a1d13610934f4f0b642dab5e5df26f0d0ef20408bd092f25ab81103334",
    ("cifar100", 10): "b4fbf1bf0a7f33381467493f50b953ce21b03a2b6d45b0d5e8da5d95d9ffd736",
    ("cifar100", 20): "1410f105fffda31596c5af26b044a4545124854811b80ec57538a067be3420e4",
    ("cifar100", 50): "561fa940cc7d3551d441643e310c7e439bf84f86b7863a3f7364963522d2984a",
    ("cifar100", 100): "e0d58a4d2700c46062da852554e5d185bbee74d3c612b052ea2a839bdadf939e",
    ("cifar100", 200): "2f00ccd33da379d5e64ce9442512a16e9e1eb3f1bb3a90316aac08c69a441157",
}


@pytest.mark.parametrize(("name", "factor"), TOTALS)
def test_totals_equal_the_published_ones(name, factor):
    classes, largest = (10, 5000) if name == "cifar10" else (100, 500)
    counts = longtail.exponential_counts(largest, classes, factor)
    assert counts.sum() == TOTALS[name, factor]
    assert counts[0] == largest and np.all(np.diff(counts) <= 0)


def test_digits_counts():
    expected = [120, 83, 58, 41, 28, 20, 14, 9, 6, 4]
    assert longtail.exponential_counts(120, 10, 25).tolist() == expected
    groups = longtail.shot_groups(np.array(expected), many=60, few=20)
    assert [int(mask.sum()) for mask in groups.values()] == [2, 4, 4]


def test_step_counts():
    assert longtail.step_counts(500, 5, 100).tolist() == [500, 500, 5, 5, 5]


def test_group_thresholds_are_exclusive_for_many_and_few():
    groups = longtail.shot_groups(np.array([101, 100, 20, 19]))
    assert groups["many"].tolist() == [True, False, False, False]
    assert groups["medium"].tolist() == [False, True, True, False]
    assert groups["few"].tolist() == [False, False, False, True]


def test_canonical_indices_by_hand():
    labels = np.array([1, 0, 1, 0, 0, 1])
    generator = np.random.RandomState(0)
    zeros, ones = np.array([1, 3, 4]), np.array([0, 2, 5])
    generator.shuffle(zeros)
    generator.shuffle(ones)
    chosen = longtail.canonical_indices(labels, np.array([2, 1]))
    assert chosen.tolist() == [*zeros[:2], ones[0]]


def test_the_error_names_a_class_that_is_too_small():
    with pytest.raises(errors.BadInput, match="class 1 has 1 images, but 2 are requested"):
        longtail.canonical_indices(np.array([0, 0, 1]), np.array([2, 2]))


@pytest.mark.parametrize(("name", "factor"), DIGESTS)
def test_index_digests_on_the_real_archive(real_labels, name, factor):
    labels = real_labels[name]
    classes = labels.max() + 1
    counts = longtail.exponential_counts(len(labels) // classes, classes, factor)
    indices = longtail.canonical_indices(labels, counts)
    assert data.index_digest(indices) == DIGESTS[name, factor]


@pytest.fixture(scope="module")
def real_labels(real_data):
    labels = {}
    for name in ("cifar10", "cifar100"):
        config = common.data(name, largest=1, imbalance_factor=1.0)
        config.dir = real_data
        labels[name] = data.sources.SOURCES[name](config).train.labels
    return labels


def test_digits_splits():
    dataset = data.load(common.data("digits", largest=120, imbalance_factor=25, many=60, few=20))
    assert dataset.counts.tolist() == [120, 83, 58, 41, 28, 20, 14, 9, 6, 4]
    assert np.bincount(dataset.test.labels).tolist() == [50] * 10
    train = {image.tobytes() for image in dataset.train.images}
    assert not train & {image.tobytes() for image in dataset.test.images}
    other = common.data("digits", largest=120, imbalance_factor=25, many=60, few=20)
    other.seed = 1
    assert data.load(other).index_digest != dataset.index_digest


def test_an_empty_class_is_logged(capsys):
    dataset = data.load(common.data("digits", largest=20, imbalance_factor=25))
    assert dataset.counts[-1] == 0
    assert "class '9' has no training image" in capsys.readouterr().err
