"""Properties of a draw, invalid input, and select_balanced."""

import functools
import math
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lt_jax.ipdpp import METHODS, inclusion_probabilities, kernel, log_probability, sample, select, select_balanced
from lt_jax.ipdpp.select import padded_size

KEY = jax.random.key(0)


def probabilities(size):
    values = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 1e-30, 0.5]))
    return st.lists(values, min_size=size, max_size=size).map(lambda p: np.array(p, np.float32))


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    st.sampled_from([(1, 1), (6, 2), (8, 3), (13, 12), (40, 7)]).flatmap(
        lambda shape: st.tuples(probabilities(shape[0]), st.just(shape[1]))
    ),
    st.sampled_from(["rank_one", "eigen", "uniform"]),
    st.integers(0, 2**31 - 1),
)
def test_a_draw_is_a_reproducible_sorted_set_of_k_items(problem, method, seed):
    p, k = problem
    key = jax.random.key(seed)
    chosen = np.asarray(sample(key, p, k, method))
    assert chosen.shape == (k,) and chosen.dtype == np.int32
    assert (np.diff(chosen) > 0).all() and chosen.min() >= 0 and chosen.max() < len(p)
    np.testing.assert_array_equal(chosen, sample(key, p, k, method))
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(chosen, sample(key, None, k, method, log_probabilities=np.log(p)))


@pytest.mark.parametrize("method", METHODS)
def test_different_keys_differ(method):
    p = np.random.default_rng(0).random(200).astype(np.float32)
    drawn = {tuple(np.asarray(sample(jax.random.key(seed), p, 20, method)).tolist()) for seed in range(10)}
    assert len(drawn) > 5


def test_permuting_items_permutes_the_law(reference):
    """Draws from permuted items, after the inverse permutation, have the original law."""
    order = np.array([3, 0, 7, 5, 1, 6, 2, 4])

    def draw(keys, log_p, k):
        drawn = np.asarray(reference.draw_rank_one(keys, log_p[order], k))
        return np.sort(order[drawn], axis=1)

    assert reference.enumeration_p_value(draw, reference.random_cases(7, [(8, 3)], 4)) > 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_whole_and_empty(method, n):
    p = np.linspace(0, 1, n)
    np.testing.assert_array_equal(sample(KEY, p, n, method), np.arange(n))
    assert sample(KEY, p, 0, method).shape == (0,)


@pytest.mark.parametrize("p", [np.full(9, 0.3), np.zeros(9), np.ones(9), np.eye(9)[4], np.full(9, 1e-30)])
@pytest.mark.parametrize("k", [0, 1, 8, 9])
def test_extreme_p(p, k):
    for method in ("rank_one", "eigen"):
        chosen = np.asarray(sample(KEY, p, k, method))
        assert len(set(chosen.tolist())) == k and (k == 0 or chosen.min() >= 0 and chosen.max() < 9)
    marginals = np.asarray(inclusion_probabilities(p, k))
    assert marginals.sum() == pytest.approx(k, abs=1e-4) and np.isfinite(marginals).all()
    if p.min() == p.max():
        np.testing.assert_allclose(marginals, k / 9, rtol=1e-5)


def test_algorithm1_may_draw_fewer_items_and_uniform_ignores_p():
    short = np.asarray(sample(KEY, np.linspace(0.5, 0.99, 12), 11, "paper"))
    filled = short[short >= 0]
    assert (np.sort(short) == short).all() and len(set(filled.tolist())) == len(filled)
    assert (short == -1).any()
    one, other = (sample(KEY, p, 5, "uniform") for p in (np.linspace(0, 1, 30), np.full(30, 0.5)))
    np.testing.assert_array_equal(one, other)


BAD = {
    "NaN": ([0.5, np.nan], 1, "item 1 is nan"),
    "negative": ([-0.1, 0.5], 1, "item 0 is -0.1"),
    "above one": ([0.5, 1.1], 1, r"in \[0, 1\]"),
    "empty": ([], 0, "must not be empty"),
    "two axes": ([[0.5, 0.5]], 1, r"one axis, but the shape is \(1, 2\)"),
    "k above N": ([0.5, 0.5], 3, "k must be"),
    "k negative": ([0.5, 0.5], -1, "k must be"),
    "k not an integer": ([0.5, 0.5], 1.5, "k must be an integer"),
    "words": (["a", "b"], 1, "real numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_every_function_refuses_invalid_input(case):
    p, k, message = BAD[case]
    entries = [lambda p, k, m=m: sample(KEY, p, k, m) for m in METHODS] + [inclusion_probabilities]
    if not case.startswith("k"):
        entries += [lambda p, k: kernel(p), lambda p, k: log_probability(p, np.arange(0))]
    if case != "k above N":
        entries.append(lambda p, k: select_balanced(KEY, p, np.zeros(len(p), int), k))
    for entry in entries:
        with pytest.raises(ValueError, match=message):
            entry(np.array(p), k)


def test_invalid_options_are_refused():
    p = np.array([0.5, 0.9, 0.9])
    with pytest.raises(ValueError, match="method must be one of rank_one, eigen, algorithm1, uniform"):
        sample(KEY, p, 1, "exact")
    with pytest.raises(ValueError, match="either probabilities or log_probabilities"):
        sample(KEY, p, 1, log_probabilities=np.log(p))
    with pytest.raises(ValueError, match="either probabilities or log_probabilities"):
        sample(KEY, None, 1)
    with pytest.raises(ValueError, match="log_probabilities must be at most 0"):
        sample(KEY, None, 1, log_probabilities=p)
    for function in (functools.partial(sample, KEY, p, 1), functools.partial(kernel, p)):
        with pytest.raises(ValueError, match=r"scale \* max\(p\) \* sum\(p\) must be at most 1"):
            function(scale=0.5)
    for subset in ([0, 0], [0, 3], [-1], [0.5]):
        with pytest.raises(ValueError, match="subset must"):
            log_probability(p, np.array(subset))
    for labels in (np.zeros(2, int), np.zeros(3), np.array([0, -1, 0])):
        with pytest.raises(ValueError, match="labels must"):
            select_balanced(KEY, p, labels, 1)


@pytest.mark.parametrize("method", METHODS)
def test_under_jit_invalid_p_gives_minus_one(method):
    draw = jax.jit(lambda p: sample(KEY, p, 2, method))
    good = np.array([0.2, 0.5, 0.9, 0.7], np.float32)
    np.testing.assert_array_equal(draw(good), sample(KEY, good, 2, method))
    for bad in (np.nan, -0.5, 1.5, np.inf):
        np.testing.assert_array_equal(draw(np.where(good == 0.5, np.float32(bad), good)), -1)
    scaled = jax.jit(lambda p, scale: sample(KEY, p, 2, "rank_one", scale=scale))
    np.testing.assert_array_equal(scaled(good, 5.0), -1)


def test_raw_keys_and_other_generators():
    p = np.linspace(0.1, 0.9, 12)
    raw = sample(jax.random.PRNGKey(0), p, 4)
    np.testing.assert_array_equal(raw, sample(jax.random.key(0), p, 4))
    labels = np.arange(24) % 2
    key = jax.random.key(0, impl="rbg")
    chosen = select_balanced(key, np.tile(p, 2), labels, 3)
    assert len(chosen) == 6


def long_tail(seed=0):
    """Returns shuffled labels with gaps between class numbers, class sizes 1 .. 150, and log p."""
    rng = np.random.default_rng(seed)
    sizes = {0: 150, 3: 40, 4: 33, 8: 20, 11: 7, 12: 1, 20: 37}
    labels = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    return labels, np.log(rng.beta(1, 1, len(labels))).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_select_balanced_equals_sample_per_class(method):
    """Uses several devices if the test run has them."""
    labels, log_p = long_tail()
    k = 20
    chosen = select_balanced(KEY, None, labels, k, method, log_probabilities=log_p)
    assert (np.diff(chosen) > 0).all() and isinstance(chosen, np.ndarray)
    for c in np.unique(labels):
        items = np.flatnonzero(labels == c)
        if len(items) > k:
            key = jax.random.fold_in(KEY, int(c))
            drawn = np.asarray(sample(key, None, k, method, log_probabilities=log_p[items]))
            items = items[drawn[drawn >= 0]]
        np.testing.assert_array_equal(np.intersect1d(chosen, np.flatnonzero(labels == c)), items)


@pytest.mark.parametrize("method", ["rank_one", "eigen"])
def test_select_balanced_with_the_kernel_of_the_released_code(method):
    """With p_i p_j / N^2 it equals `sample` with that scale per class, and differs from the paper's kernel."""
    labels, log_p = long_tail()
    chosen = select_balanced(KEY, None, labels, 20, method, log_probabilities=log_p, scale_power=2)
    for c in (0, 3, 4):
        items = np.flatnonzero(labels == c)
        key, scale = jax.random.fold_in(KEY, c), 1 / len(items) ** 2
        drawn = sample(key, None, 20, method, log_probabilities=log_p[items], scale=scale)
        np.testing.assert_array_equal(np.intersect1d(chosen, items), items[drawn])
    assert not np.array_equal(chosen, select_balanced(KEY, None, labels, 20, method, log_probabilities=log_p))
    with pytest.raises(ValueError, match="scale_power must be at least 1, but is 0.5"):
        select_balanced(KEY, None, labels, 20, method, log_probabilities=log_p, scale_power=0.5)


def test_select_balanced_does_not_depend_on_devices_or_other_classes(monkeypatch):
    if len(jax.local_devices()) == 1:
        pytest.skip("one device: run with XLA_FLAGS=--xla_force_host_platform_device_count=8")
    sizes = np.random.default_rng(0).integers(21, 64, 30)
    labels = np.repeat(np.arange(30), sizes)
    p = np.random.default_rng(1).random(len(labels))
    several = select_balanced(KEY, p, labels, 20)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    np.testing.assert_array_equal(several, select_balanced(KEY, p, labels, 20))
    some = labels % 3 != 0  # without some classes: other batches, the same draws
    fewer = np.flatnonzero(some)[select_balanced(KEY, p[some], labels[some], 20)]
    np.testing.assert_array_equal(fewer, several[some[several]])


def test_padding_does_not_change_a_draw(reference):
    """More empty slots at the end: the same items for the same key, in one chain and in stages."""
    from lt_jax.ipdpp import rank_one

    log_p = np.log(np.random.default_rng(0).random(23)).astype(np.float32)

    @functools.partial(jax.jit, static_argnames="chosen")
    def draw(keys, chosen):
        size = math.prod(chosen)
        padded = jnp.pad(log_p, (0, size - 23), constant_values=-jnp.inf)
        plan = rank_one.plan(size, 6, chosen)
        return jax.vmap(lambda key: rank_one.draw(key, padded, jnp.int32(23), jnp.float32(1), plan))(keys)

    keys = jax.random.split(KEY, 200)
    np.testing.assert_array_equal(draw(keys, (32,)), draw(keys, (64,)))
    np.testing.assert_array_equal(draw(keys, (4, 2, 4)), draw(keys, (8, 2, 4)))
    bits = jax.random.bits(KEY, (64,))
    np.testing.assert_array_equal(bits[:23], jax.random.bits(KEY, (23,)))


def test_large_classes_equal_sample_per_class():
    """Classes large enough that the windows are narrower than the laws."""
    labels = np.repeat([0, 1], [5000, 3000])
    p = np.random.default_rng(0).random(8000)
    chosen = select_balanced(KEY, p, labels, 500)
    for c, start in ((0, 0), (1, 5000)):
        drawn = start + np.asarray(sample(jax.random.fold_in(KEY, c), p[labels == c], 500))
        np.testing.assert_array_equal(chosen[labels[chosen] == c], drawn)


def test_select_balanced_edges():
    labels = np.array([2, 2, 5])
    np.testing.assert_array_equal(select_balanced(KEY, np.full(3, 0.5), labels, 10), [0, 1, 2])
    assert select_balanced(KEY, np.full(3, 0.5), labels, 0).shape == (0,)
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(lambda p: select_balanced(KEY, p, labels, 1))(np.full(3, 0.5, np.float32))


def test_padded_sizes_of_few_classes_are_shared():
    lengths = {0: 5000, 1: 120, 2: 20, 3: 14}
    assert select._sizes(lengths, 10, "rank_one") == {0: 8192, 1: 256, 2: 256, 3: 256}
    assert select._sizes(lengths, 10, "eigen") == {c: padded_size(n, "eigen") for c, n in lengths.items()}
    many = {c: 2 + c % 999 for c in range(8142)}
    assert select._sizes(many, 20, "rank_one") == {c: padded_size(n, "rank_one") for c, n in many.items()}


def test_there_are_few_padded_sizes():
    assert len({padded_size(n, "rank_one") for n in range(2, 1001)}) <= 10
    assert all(n <= padded_size(n, "eigen") <= max(16, 1.25 * n + 1) for n in range(1, 6000))


def test_import_needs_no_optional_package():
    import subprocess

    code = "import sys, lt_jax.ipdpp; assert not {'imblearn', 'sklearn', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
