"""Selectors that look at features, against plain loops and hand-worked cases."""

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans

from lt_jax import ipdpp, methods
from lt_jax.core import errors
from lt_jax.methods import selectors
from lt_jax.stages import report_data


def herded(x, k):
    """Herding as a plain loop: the item whose addition brings the mean nearest to that of all."""
    chosen = []
    for size in range(1, k + 1):
        distances = [
            np.inf if i in chosen else np.linalg.norm(x.mean(axis=0) - x[[*chosen, i]].sum(axis=0) / size)
            for i in range(len(x))
        ]
        chosen.append(int(np.argmin(distances)))
    return chosen


@pytest.mark.parametrize("k", [1, 7, 30])
def test_herding_is_the_plain_loop(k):
    x = np.random.default_rng(0).normal(size=(100, 5)) + 3.0
    labels = np.arange(100) % 2
    positions = methods.entry("SELECTORS", "herding(scaling='raw')", "k")(jax.random.key(0), None, x, labels, k)
    expected = [2 * np.array(herded(x[::2], k)), 2 * np.array(herded(x[1::2], k)) + 1]
    np.testing.assert_array_equal(positions, np.sort(np.concatenate(expected)))


def test_herding_by_hand():
    """The mean is 2: the nearest item is 3, then 0 of {0, 1, 4} makes 1.5 as 1 makes 2 and 4 makes 3.5: 1 is next."""
    x = np.array([[0.0], [1.0], [3.0], [4.0]])
    select = methods.entry("SELECTORS", "herding(scaling='raw')", "k")
    assert select(jax.random.key(0), None, x, np.zeros(4, int), 2).tolist() == [1, 2]


def test_herding_is_nearer_to_the_class_mean_than_a_uniform_subset():
    x = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    labels, log_p = np.zeros(400, int), np.full(400, -0.5, np.float32)

    def distance(name):
        positions = methods.entry("SELECTORS", name, "k")(jax.random.key(0), log_p, x, labels, 20)
        return np.linalg.norm(x[positions].mean(axis=0) - x.mean(axis=0))

    assert distance("herding(scaling='raw')") < distance("uniform") / 5


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_takes_one_item_of_each_separated_cluster(seed):
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(6), 20))
    x = 100.0 * rng.normal(size=(6, 4))[cluster] + rng.normal(size=(120, 4))
    select = methods.entry("SELECTORS", "kmeans(scaling='raw')", "k")
    positions = select(jax.random.key(seed), None, x, np.zeros(120, int), 6)
    assert sorted(cluster[positions]) == list(range(6))
    for position in positions:  # the nearest to the mean of its cluster
        members = np.flatnonzero(cluster == cluster[position])
        distances = np.linalg.norm(x[members] - x[members].mean(axis=0), axis=1)
        assert members[distances.argmin()] == position


def test_kmeans_is_as_tight_as_that_of_scikit_learn():
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    select = methods.entry("SELECTORS", "kmeans(scaling='raw')", "k")
    positions = select(jax.random.key(0), None, x, np.zeros(300, int), 10)
    centres = KMeans(10, n_init=1, random_state=0).fit(x).cluster_centers_
    items = x[[np.linalg.norm(x - centre, axis=1).argmin() for centre in centres]]

    def inertia(chosen):
        return ((x[:, None] - chosen[None]) ** 2).sum(axis=2).min(axis=1).sum()

    assert inertia(x[positions]) < 1.15 * inertia(items)


@pytest.mark.parametrize("name", ["herding", "kmeans"])
def test_equal_items_small_classes_and_large_values(name):
    """Items are distinct also where all are equal; classes of 0, 1 and k items are whole; 10^6 is no overflow."""
    labels = np.array([0] * 9 + [2] + [3] * 4)
    for x in (np.ones((14, 3)), 1e6 * np.random.default_rng(0).normal(size=(14, 3))):
        positions = methods.SELECTORS[name](jax.random.key(0), None, x, labels, 4)
        assert (np.diff(positions) > 0).all() and positions.dtype == np.int32
        assert np.bincount(labels[positions], minlength=4).tolist() == [4, 0, 1, 4]
    assert len(methods.SELECTORS[name](jax.random.key(0), None, x, labels, 0)) == 0


def test_selectors_say_what_they_miss():
    with pytest.raises(ValueError, match="features: expected"):
        methods.SELECTORS["herding"](jax.random.key(0), None, None, np.zeros(3, int), 2)
    with pytest.raises(errors.BadInput, match="scaling: expected one of raw, standard, unit, found 'norm'"):
        methods.SELECTORS["kmeans"](jax.random.key(0), None, np.ones((3, 2)), np.zeros(3, int), 2, scaling="norm")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["herding", "kmeans(iterations=3)"])
def test_retraining_draws_by_features(name, copied, run_main, tiny):
    words = ("--stage=retrain", f"--config.retrain.method={name}", f"--workdir={copied}")
    assert run_main(*tiny, *words) == 0
    subset = np.load(copied / "subsets" / "0.npz")
    counts = np.bincount(subset["labels"], minlength=10)
    assert (counts <= subset["k"]).all() and counts.max() == subset["k"] and subset["method"] == name


def test_only_exact_draws_have_inclusion_probabilities():
    labels = np.repeat([0, 1], (12, 3))
    log_p = np.log(np.random.default_rng(0).uniform(0.1, 0.9, 15))
    drawn = {"k": 4, "log_p": log_p, "scale_power": 1, "indices": np.array([0, 1, 2, 3, 12, 13, 14])}
    for method in (*methods.SELECTORS, "rank_one(scale_power=2)"):
        chance = report_data.inclusion({**drawn, "method": method}, labels)["inclusion"]
        np.testing.assert_array_equal(chance[12:], 1.0)
        if methods.name_of("SELECTORS", method) in ("uniform", *selectors.EXACT):
            assert chance[:12].sum() == pytest.approx(4, rel=1e-5)
        else:
            assert np.isnan(chance[:12]).all()
        if method == "rank_one(scale_power=2)":
            law = ipdpp.inclusion_probabilities(None, 4, log_probabilities=log_p[:12], scale=1 / 144)
            np.testing.assert_allclose(chance[:12], law, rtol=1e-5)
