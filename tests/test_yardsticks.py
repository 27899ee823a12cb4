"""Yardsticks on a network whose features and logits are given, against the formulas and scikit-learn."""

import types

import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from configs import digits_lt
from lt_jax import losses
from lt_jax.stages import fit_heads as yardsticks


@pytest.fixture(scope="module")
def example():
    """A long-tailed training set of three clusters, a balanced test set, and its features and logits."""
    rng = np.random.default_rng(0)
    centres = np.array([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])

    def draw(counts):
        labels = np.repeat(np.arange(3), counts)
        return (centres[labels] + rng.normal(size=(len(labels), 4))).astype(np.float32), labels

    counts = np.array([300, 60, 10])
    (train, labels), (test, test_labels) = draw(counts), draw([200] * 3)
    train_split = types.SimpleNamespace(images="the training images", labels=labels)
    dataset = types.SimpleNamespace(train=train_split, counts=counts, num_classes=3)
    logits = rng.normal(size=(600, 3)).astype(np.float32)

    def extract(variables, images):
        assert images == "the training images"
        return train, None

    config = digits_lt.get_config()
    return types.SimpleNamespace(
        config=config, dataset=dataset, extract=extract, stream=lambda name: jax.random.key(0)
    ), (test, logits, test_labels, train)


def test_yardsticks(example):
    experiment, (test, logits, labels, train) = example
    found = yardsticks.logits(experiment, {}, test, logits)
    share = np.array([300, 60, 10]) / 370
    np.testing.assert_allclose(found["logit_adjustment"], logits - np.log(share), atol=1e-6)
    few = labels == 2
    hits = {name: (x.argmax(1) == labels)[few].mean() for name, x in found.items()}
    assert hits["crt"] > 0.6 and hits["nearest_class_mean"] > 0.6  # a plain fit reaches about .4 here
    centroid = NearestCentroid().fit(train, experiment.dataset.train.labels).predict(test)
    assert (found["nearest_class_mean"].argmax(1) == centroid).mean() > 0.8


def test_logits_of_the_balanced_softmax_are_not_adjusted_again(example):
    experiment, (test, logits, *_) = example
    config = experiment.config.copy_and_resolve_references()
    config.baseline.loss = "balanced_softmax"
    changed = types.SimpleNamespace(**{**vars(experiment), "config": config})
    assert set(yardsticks.logits(changed, {}, test, logits)) == {"crt", "nearest_class_mean"}


def test_a_class_without_images_has_a_finite_prior():
    np.testing.assert_allclose(losses.log_prior(np.array([8, 0])), np.log([1, 1 / 16]), atol=1e-7)
