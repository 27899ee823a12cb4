"""Batches are a pure function of (seed, step); partners are uniform within their class."""

import types

import numpy as np
import pytest
from scipy import stats

from lt_jax import methods, optim
from lt_jax.data import batches
from lt_jax.sampling import orders, partners


def test_a_short_subset_repeats_its_first_items():
    """Algorithm 1 as printed may select fewer than k items. Every batch is full and holds only items of the subset."""
    order = orders.Order(np.zeros(10, int), 5, 0)
    subset = orders.Subset(np.array([3, 8, 11, 40, 41, 50, 77]), order)
    seen = np.concatenate([subset(step) for step in range(2)])
    assert seen.tolist() == [[3, 8, 11, 40, 41, 50, 77, 3, 8, 11][i] for i in np.concatenate([order(0), order(1)])]


@pytest.mark.parametrize("n", [10, 12, 14])
def test_an_epoch_holds_every_item_and_a_batch_no_item_twice(n):
    order = orders.Order(np.zeros(n, int), batch_size=5, seed=3)
    steps = -(-n // 5)
    epochs = [[order(epoch * steps + i) for i in range(steps)] for epoch in range(4)]
    for epoch in epochs:
        assert all(len(set(batch.tolist())) == 5 for batch in epoch)
        assert set(np.concatenate(epoch).tolist()) == set(range(n))
        first = np.concatenate(epoch)[: n - n % 5]
        assert len(set(first.tolist())) == len(first)
    assert not np.array_equal(epochs[0][0], epochs[1][0])


def test_an_epoch_that_drops_its_last_batch_holds_no_item_twice():
    order = orders.Order(np.zeros(14, int), batch_size=5, seed=3, drop_last=True)
    for epoch in range(3):
        positions = np.concatenate([order(2 * epoch), order(2 * epoch + 1)])
        assert len(set(positions.tolist())) == 10


def test_a_batch_larger_than_the_set_repeats_items():
    order = orders.Order(np.zeros(3, int), batch_size=8, seed=0)
    assert sorted(np.bincount(order(0)).tolist()) == [2, 3, 3]


def test_order_depends_only_on_seed_and_step():
    first, second = orders.Order(np.zeros(100, int), 8, 1), orders.Order(np.zeros(100, int), 8, 1)
    np.testing.assert_array_equal(first(7), [first(i) for i in range(8)][7])
    np.testing.assert_array_equal(first(7), second(7))
    assert not np.array_equal(first(7), orders.Order(np.zeros(100, int), 8, 2)(7))


def test_two_seeds_share_no_pass():
    """If a pass were seeded with seed + pass, two neighbouring seeds would share all passes but one."""
    passes = {(seed, number): tuple(orders.shuffled(50, seed, number)) for seed in range(4) for number in range(4)}
    assert len(set(passes.values())) == 16


def test_every_position_of_a_pass_is_equally_likely():
    positions = np.array([np.argsort(orders.shuffled(5, 0, number))[[0, 4]] for number in range(2000)])
    for column in positions.T:
        assert stats.chisquare(np.bincount(column, minlength=5)).pvalue > 1e-6


LABELS = np.array([0, 1, 0, 0, 2, 1, 0, 0])


def test_partners_are_other_images_of_the_class():
    anchors = np.arange(8)
    partner_rows = partners.draw(orders.class_index(LABELS), anchors, m=50, seed=0, step=4)
    assert partner_rows.shape == (8, 50)
    assert np.all(LABELS[partner_rows] == LABELS[:, None])
    assert np.all(partner_rows[4] == 4)  # a class of one image repeats itself
    not_alone = np.delete(anchors, 4)
    assert np.all(partner_rows[not_alone] != not_alone[:, None])


def test_partners_are_uniform():
    anchors = np.zeros(4000, int)
    partner_rows = partners.draw(orders.class_index(LABELS), anchors, m=1, seed=5, step=9)[:, 0]
    counts = np.bincount(partner_rows, minlength=8)[[2, 3, 6, 7]]
    assert counts.sum() == 4000
    assert stats.chisquare(counts).pvalue > 1e-6


def test_partner_order_puts_the_anchor_first():
    order = partners.PartnerOrder(LABELS, batch_size=4, m=2, seed=0)
    np.testing.assert_array_equal(order(3)[:, 0], orders.Order(np.zeros(8, int), 4, 0)(3))
    np.testing.assert_array_equal(order(3), partners.PartnerOrder(LABELS, 4, 2, 0)(3))


@pytest.mark.parametrize("n", [1, 5, 6])
def test_padded_batches_cover_every_item_once(n):
    parts = list(batches.padded_batches(n, 3))
    covered = np.concatenate([positions[mask] for positions, mask in parts])
    assert covered.tolist() == list(range(n))
    assert all(len(positions) == 3 for positions, _ in parts)


def test_class_balanced_order_is_uniform_over_classes_and_over_their_items():
    labels = np.array([0] * 90 + [2] * 9 + [3])
    order = orders.Order(labels, 100, seed=1, epoch_order=orders.class_balanced)
    positions = np.concatenate([order(step) for step in range(300)])
    assert stats.chisquare(np.bincount(labels[positions], minlength=4)[[0, 2, 3]]).pvalue > 1e-6
    assert stats.chisquare(np.bincount(positions[labels[positions] == 2], minlength=99)[90:99]).pvalue > 1e-6
    again = orders.Order(labels, 100, seed=1, epoch_order=orders.class_balanced)
    np.testing.assert_array_equal(order(7), again(7))
    assert not np.array_equal(order(7), order(8))


COUNTS = np.array([900, 0, 100, 1])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (orders.square_root, [30 / 41, 0, 10 / 41, 1 / 41]),
        (lambda labels, epoch, seed: orders.progressive(labels, 1, 100 * seed + epoch, epochs=2), "half"),
    ],
    ids=["square_root", "progressive"],
)
def test_classes_are_drawn_with_the_right_probability_and_their_items_uniformly(order, expected):
    if expected == "half":
        expected = (COUNTS / 1001 + np.array([1, 0, 1, 1]) / 3) / 2
    labels = np.repeat(np.arange(4), COUNTS)
    positions = np.concatenate([order(labels, epoch, 5) for epoch in range(20)])
    drawn = np.bincount(labels[positions], minlength=4)
    assert drawn[1] == 0
    present = COUNTS > 0
    assert stats.chisquare(drawn[present], len(positions) * np.array(expected)[present]).pvalue > 1e-6
    assert stats.chisquare(np.bincount(positions, minlength=1001)[900:1000]).pvalue > 1e-6


def test_the_progressive_order_goes_from_the_shares_of_the_classes_to_equal_ones():
    labels = np.repeat(np.arange(4), COUNTS)
    shares = [(labels[orders.progressive(labels, epoch, 0, epochs=10.0)] == 3).mean() for epoch in range(11)]
    assert shares[0] < 0.01 and abs(shares[5] - 1 / 6) < 0.05 and abs(shares[10] - 1 / 3) < 0.05
    after = orders.progressive(labels, 25, 0, epochs=10.0)  # longer than planned: stays equal
    assert abs((labels[after] == 3).mean() - 1 / 3) < 0.05


@pytest.mark.parametrize("order", [orders.square_root, orders.progressive])
def test_drawn_orders_depend_on_seed_and_epoch_alone_and_bear_extreme_counts(order):
    labels = np.append(np.zeros(1_000_000, int), 2)
    first = order(labels, 3, 7)
    np.testing.assert_array_equal(first, order(labels, 3, 7))
    assert not np.array_equal(first, order(labels, 3, 8)) and not np.array_equal(first, order(labels, 4, 7))
    assert len(first) == len(labels) and set(np.unique(labels[first])) <= {0, 2}


def test_a_stage_tells_its_order_how_long_it_trains():
    settings = types.SimpleNamespace(epochs=30.0, steps=0, batch_size=64)
    assert optim.epochs(settings, 100) == 30.0
    settings.steps = 10
    assert optim.epochs(settings, 100) == 5.0  # two batches an epoch
    labels = np.repeat(np.arange(4), COUNTS)
    order = methods.entry("ORDERS", "progressive", "config.baseline.sampling", {"epochs": 4.0})
    np.testing.assert_array_equal(order(labels, 2, 1), orders.progressive(labels, 2, 1, epochs=4.0))
