"""The variants of benchmarks/evidence.py are valid changes of the config, and its tables are right. Nothing is run."""

import argparse
import pathlib
import sys

import pytest

from lt_jax.run import command
from lt_jax.run import config as config_lib

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def evidence():
    if not BENCHMARKS.exists():
        pytest.skip("needs the benchmarks, which an installed copy does not have")
    sys.path.insert(0, str(BENCHMARKS))
    import evidence

    yield evidence
    sys.path.remove(str(BENCHMARKS))


def options_of(evidence, config="configs/digits_lt.py", **changed):
    values = {"config": config, "stem": "w", "workdir": pathlib.Path("w"), "set": [], "factors": evidence.FACTORS}
    return argparse.Namespace(**{**values, "no_write": True, **changed})


def config_of(evidence, options, run):
    return command.parse(["lt_jax", *evidence.command_words(options, run, seed=3)])[0]


def test_every_variant_changes_the_config(evidence):
    options = options_of(evidence)
    default = command.parse(["lt_jax", "--config=configs/digits_lt.py"])[0]
    folders = {}
    for table in evidence.tables_of(options).values():
        assert len(table) > 1
        for run in table.values():
            config = config_of(evidence, options, run)
            assert tuple(config.stages) == run.stages and config.seed == 3
            before = evidence.pretraining(run)
            assert config.init_from == (str(evidence.folder(options, before, 3)) if before else "")
            assert (before is None) == (run.stages[0] == "baseline")
            assert before is None or config_of(evidence, options, before).init_from == ""
            for flag in run.flags:
                key = flag.partition("=")[0].split(".")
                assert config[key[0]][key[1]] != default[key[0]][key[1]], f"{flag} changes nothing"
            folders.setdefault(evidence.folder(options, run, 3), set()).add((run.stages, run.flags))
    assert len(folders) > 25 and all(len(runs) == 1 for runs in folders.values())


def test_gains_are_paired_over_seeds(evidence, capsys):
    results_by_row = {"first": [dict.fromkeys(evidence.keep.GROUPS, x) for x in (0.5, 0.7)]}
    results_by_row["second"] = [dict.fromkeys(evidence.keep.GROUPS, x) for x in (0.6, 0.8)]
    evidence.report("roads", results_by_row, "abc", options_of(evidence))
    stdout = capsys.readouterr().out
    assert "60.0 ± 14.1" in stdout and "70.0 ± 14.1" in stdout and "10.0 ± 0.0" in stdout


def test_each_imbalance_factor_is_compared_with_its_own_baseline(evidence, capsys):
    def row(*values):
        return [dict.fromkeys(evidence.keep.GROUPS, x) for x in values]

    results_by_row = {"a": row(0.9, 0.9), "b": row(0.9, 0.9), "c": row(0.5, 0.5), "d": row(0.7, 0.7)}
    evidence.report("imbalance", results_by_row, "abc", options_of(evidence))
    gains = [line.split()[3] for line in capsys.readouterr().out.splitlines() if line.startswith("  gain")]
    assert gains == ["0.0", "20.0"]


@pytest.mark.parametrize(
    ("name", "row", "config", "changed"),
    [
        ("redraw", "R = 10", "configs/digits_lt.py", {}),
        ("redraw", "R = 50", "configs/digits_lt.py", {"set": ["retrain.redraw_every=50"]}),
        ("redraw", "R = 10", "configs/cifar100_lt.py:100", None),
        ("imbalance", "BNS + IP-DPP, IF 25", "configs/digits_lt.py", {}),
        ("imbalance", "BNS + IP-DPP, IF 100", "configs/cifar10_lt.py:100", {"factors": (100, 200)}),
        ("imbalance", "BNS + IP-DPP, IF 25", "configs/cifar10_lt.py:100", None),
    ],
)
def test_a_row_is_the_default_run_if_and_only_if_the_config_has_its_value(evidence, name, row, config, changed):
    run = evidence.tables_of(options_of(evidence, config, **(changed or {})))[name][row]
    assert (run == evidence.DEFAULT) == (changed is not None)
    assert bool(run.flags) == (changed is None)


def test_every_ablation_changes_the_config(evidence):
    import ablation

    configs = {name: ablation.config_of(name, 1) for name in ablation.SETTINGS}
    for config in configs.values():
        config_lib.validate(config)
    texts = {name: config.to_json() for name, config in configs.items()}
    assert len(set(texts.values())) == len(texts)


def test_the_gain_of_an_ablation(evidence):
    import ablation

    def run(balanced):
        measures = {"balanced": balanced, "balanced_error": 0.03, "many": 0.9, "medium": 0.5, "few": 0.1}
        method = {"validation": measures, "test": measures, "seconds": 60.0}
        return {"result": {"final": "own", "methods": {"own": method, **dict.fromkeys(ablation.HEADS, method)}}}

    runs = {(ablation.WHOLE, 0): run(0.4), ("no mix", 0): run(0.44)}
    row = ablation.row("no mix", runs)
    assert row["gain"] == {"mean": pytest.approx(0.04), "half_width_95": pytest.approx(1.96 * 0.03 * 2**0.5)}
    runs |= {(ablation.WHOLE, 1): run(0.4), ("no mix", 1): run(0.42)}
    row = ablation.row("no mix", runs)
    assert row["seeds"] == 2 and row["gain"]["mean"] == pytest.approx(0.03)
    assert row["gain"]["half_width_95"] == pytest.approx(12.7062 * 0.01, rel=1e-4)  # t of one degree of freedom
    assert ablation.row(ablation.WHOLE, runs)["gain"] is None
