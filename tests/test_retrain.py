"""The subsets of a retraining: drawn every R epochs, read after a kill, never taken from other settings."""

import types

import jax
import ml_collections
import numpy as np
import pytest
from etils import epath

from lt_jax.core import errors
from lt_jax.stages import retrain

LABELS = np.repeat([0, 1, 2], [9, 5, 2])
LOG_P = np.log(np.linspace(0.2, 0.9, 16)).astype(np.float32)
CURRENT = types.SimpleNamespace(averaged=lambda: "trained")


def rounds_of(workdir, networks_used, **changes):
    """The rounds of a run, three epochs each, whose networks give LOG_P; `networks_used` collects them."""
    settings = {"k": 4, "method": "uniform", "scale_power": 1, "redraw_every": 3, **changes}
    experiment = types.SimpleNamespace(
        config=ml_collections.ConfigDict({"retrain": settings}),
        workdir=epath.Path(workdir),
        dataset=types.SimpleNamespace(train=types.SimpleNamespace(labels=LABELS)),
        stream=lambda name: jax.random.key(3),
    )
    rounds = retrain.Rounds(experiment)
    rounds._first_outputs = lambda: networks_used.append("first") or (None, LOG_P)
    rounds._outputs = lambda variables: networks_used.append(variables) or (None, LOG_P - np.float32(0.1))
    return rounds


def test_a_subset_is_drawn_once_a_round_and_read_after_a_kill(tmp_path):
    networks_used, used, progress = [], [], {}
    rounds = rounds_of(tmp_path, networks_used)
    for epoch in range(5):
        progress = rounds.at_epoch(CURRENT, epoch, progress, used.append)
    assert networks_used == ["first", "trained"] and len(used) == 2 and progress["round"] == 1
    assert [np.bincount(LABELS[indices]).tolist() for indices in used] == [[4, 4, 2]] * 2
    assert not np.array_equal(*used)
    resumed = rounds_of(tmp_path, networks_used).at_epoch(CURRENT, 4, progress, used.append)
    assert resumed == progress and networks_used == ["first", "trained"]
    np.testing.assert_array_equal(used[2], used[1])


@pytest.mark.parametrize("changes", [{}, {"k": 3}, {"method": "herding"}, {"scale_power": 2}])
def test_a_resumed_run_refuses_a_missing_subset_and_one_of_other_settings(tmp_path, changes):
    progress = rounds_of(tmp_path, []).at_epoch(CURRENT, 0, {}, lambda indices: None)
    if not changes:
        (tmp_path / "subsets" / "0.npz").unlink()
    with pytest.raises(errors.RunFailed, match="0.npz is missing or was drawn with other settings"):
        rounds_of(tmp_path, [], **changes).at_epoch(CURRENT, 1, progress, lambda indices: None)
