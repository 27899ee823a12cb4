"""Comparison of runs: labels of their differences, mean and spread over seeds, and the page."""

import json
import math

import numpy as np
import pytest

from lt_jax import statistics
from lt_jax.core import errors
from lt_jax.report import __main__ as command
from lt_jax.report import compare


def run(seed, overall, few=0.5, **config):
    measures = {"overall": overall, "many": 0.9, "medium": None, "few": few, "balanced": overall, "worst_class": 0.1}
    measures |= {"macro_f1": 0.5, "mcc": 0.5, "nmi": 0.5, "ece": 0.1, "per_class": [0.9, few]}
    result = {"seed": seed, "test": measures, "dataset": {"name": "digits", "num_classes": 2, "counts": [9, 3]}}
    return {"seed": seed, "method": "m", "retrain.k": 10, "report.title": str(seed), **config}, result


def test_runs_that_differ_by_the_seed_share_a_row():
    rows = compare.grouped([run(0, 0.5), run(1, 0.7), run(0, 0.6, **{"retrain.k": 5}), run(2, 0.6, young=1)])
    assert [row.label for row in rows] == ["retrain.k=10", "retrain.k=5"]
    assert rows[0].seeds == [0, 1, 2] and rows[1].seeds == [0]
    assert compare.grouped([run(0, 0.5), run(1, 0.7)])[0].label == "this experiment"


def test_mean_and_spread_by_hand():
    both = {"mean": pytest.approx(0.6), "std": pytest.approx(math.sqrt(0.02))}
    assert statistics.spread(np.array([0.5, 0.7, np.nan])) == both
    assert statistics.spread([0.5, None, 0.7]) == both
    assert statistics.spread([0.5]) == {"mean": 0.5, "std": 0.0}
    assert statistics.spread(np.array([np.nan])) is None


def test_difference_is_paired_by_seed():
    runs = [run(0, 0.5), run(1, 0.7), run(2, 0.1)] + [run(s, x, **{"retrain.k": 5}) for s, x in ((1, 0.8), (0, 0.5))]
    first, other = compare.grouped(runs)
    mean, half, pairs = compare.difference(first, other, "overall")
    assert (mean, pairs) == (pytest.approx(0.05), 2)
    assert half == pytest.approx(12.706 * 0.1 / math.sqrt(2) / math.sqrt(2), rel=1e-3)  # t of one degree of freedom
    assert compare.difference(first, compare.grouped([run(0, 0.5)])[0], "overall") is None


def test_equal_seeds_and_different_data_are_refused():
    with pytest.raises(errors.BadInput, match="two runs of this experiment have the seed 0"):
        compare.grouped([run(0, 0.5), run(0, 0.5)])
    other = run(1, 0.5)
    other[1]["dataset"] = {"name": "cifar10", "num_classes": 10}
    with pytest.raises(errors.BadInput, match="different data sets"):
        compare.grouped([run(0, 0.5), other])


def test_figures_plot_means_and_seeds():
    rows = compare.grouped([run(0, 0.5), run(1, 0.7), run(0, 0.6, **{"retrain.k": 5})])
    (axes,) = compare.by_group(rows).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["overall", "many", "few"]  # no run has medium classes
    np.testing.assert_allclose(axes.containers[0][0].get_xydata()[:, 1], [0.6, 0.9, 0.5])
    assert axes.lines[0].get_xydata()[:, 1].tolist() == [0.5, 0.7]
    (axes,) = compare.by_class_size(rows).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[9, 0.9], [3, 0.5]])


def test_page_of_two_seeds(finished, copied, tmp_path, capsys):
    for name in ("config.json", "result.json"):
        content = json.loads((copied / name).read_text())
        (copied / name).write_text(json.dumps({**content, "seed": 1}))
    out = tmp_path / "both.html"
    assert command.main([str(finished), str(copied), f"--out={out}"]) == 0
    text, test = out.read_text(), json.loads((finished / "result.json").read_text())["test"]
    assert "seeds 0, 1" in text and f"{100 * test['overall']:.1f}" in text
    assert "//" not in text.replace("http://www.w3.org", "")
    assert str(out) in capsys.readouterr().err


BAD = {
    "no run": (["nowhere"], "no finished run in nowhere"),
    "no folder": (["--out=x.html"], "expected at least one work directory"),
    "flag": (["--ot=x.html"], "unknown flag --ot=x.html"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_invalid_input_is_a_one_line_error(words, message, capsys):
    assert command.main(words) == 2
    error_lines = capsys.readouterr().err.strip().splitlines()
    assert len(error_lines) == 1 and message in error_lines[0]


def test_help(capsys):
    assert command.main(["--help"]) == 0
    assert "python -m lt_jax.report DIR DIR" in capsys.readouterr().out
