"""Random numbers and choices, compared with jax.random and with cumulative sums in float64."""

import jax
import numpy as np
import pytest

from lt_jax.ipdpp import choices


@pytest.mark.parametrize("rows", [2, 4, choices.ROWS, choices.ROWS + 1, 40 * choices.ROWS])
def test_choose(rows):
    """Away from the steps of the float64 cumulative sum, its row is chosen; a row without weight never is."""
    rng = np.random.default_rng(rows)
    weights = (rng.random((rows, 500)) * (rng.random((rows, 500)) < 0.7)).astype(np.float32)
    weights[:, 300:] *= rng.random((rows, 200)) < 3 / rows  # blocks without weight
    weights[rng.integers(rows), :] += 0.1
    uniform = rng.random(500).astype(np.float32)
    uniform[:100], uniform[100:200] = 0, np.nextafter(np.float32(1), np.float32(0))
    row = np.asarray(jax.jit(choices.choose)(uniform, weights))
    assert (weights[row, np.arange(500)] > 0).all()
    running = np.cumsum(weights, axis=0, dtype=np.float64)
    limit = uniform * running[-1]
    clear = (np.abs(running - limit) > 1e-5 * running[-1]).all(axis=0)
    assert clear[200:].mean() > 0.9
    assert (row == (running <= limit).sum(axis=0))[clear].all()


def test_chance_equals_jax_random_uniform():
    """Bit for bit, at any positions."""
    key, number = jax.random.key(7), np.random.default_rng(0).permutation(5000).astype(np.uint32).reshape(50, 100)
    numbers = jax.jit(choices.chance)(jax.random.key_data(key), number)
    np.testing.assert_array_equal(numbers, jax.random.uniform(key, (5000,))[number])
