"""Tokens, validation and digests of configs; every knob is read by a module."""

import importlib
import pathlib
import re

import pytest

from lt_jax.core import errors, files
from lt_jax.run import config as config_lib
from lt_jax.run import dependencies

NAMES = (
    "digits_lt", "digits_lt_eigen", "cifar10_lt", "cifar100_lt", "imagenet_lt", "places_lt", "inat2018", "folder",
)  # fmt: skip
PACKAGE = pathlib.Path(config_lib.__file__).parent.parent


def get(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", [*NAMES[:-1], "folder:scratch", "folder:weights=w.pth", "cifar10_lt:weights=w.pth"])
def test_smoke_changes_only_sizes_and_durations(name):
    name, _, arg = name.partition(":")
    tokens = arg, ",".join(filter(None, (arg, "smoke")))
    whole, smoke = (dependencies.flattened(dependencies.resolved(get(name, arg)), ()) for arg in tokens)
    assert whole.keys() == smoke.keys()
    changed = {path[-1] for path in whole if whole[path] != smoke[path]}
    sizes = {
        "epochs",
        "warmup_epochs",
        "redraw_every",
        "head_epochs",
        "every_steps",
        "largest",
        "width",
        "batch_size",
    }
    assert changed <= sizes | {"k", "per_class", "generated", "image_size", "workers"}
    config_lib.validate(get(name, "smoke"))


def test_tokens():
    config = get("cifar100_lt", "50,encoder=resnet32,epochs=7")
    assert config.data.imbalance_factor == 50 and config.encoder.name == "resnet32"
    assert config.pretrain.epochs == 7.0 and config.retrain.k == 100
    assert get("cifar10_lt").retrain.k == 500


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("smok", "did you mean smoke"),
        ("encodr=x", "did you mean encoder"),
        ("epochs=x", "expected a float"),
        ("zz", "expected a number or"),
    ],
)
def test_unknown_token(token, message):
    with pytest.raises(ValueError, match=message):
        get("cifar10_lt", token)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pretrain.loss", "papr"),
        ("retrain.method", "x"),
        ("retrain.k", 0),
        ("pretrain.n", 0),
        ("dtype", "float16"),
    ],
)
def test_validation_names_the_key(key, value):
    config = get("digits_lt")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.BadInput, match=f"config.{key}: expected .* found"):
        config_lib.validate(config)


def test_quick_form_of_the_digits_is_shorter_and_has_no_probe():
    whole, quick = get("digits_lt"), get("digits_lt", "quick")
    assert [quick[stage].epochs / whole[stage].epochs for stage in ("pretrain", "baseline", "retrain")] == [
        0.2,
        0.2,
        0.5,
    ]
    assert set(whole.stages) - set(quick.stages) == {"probe"}
    assert quick.data == whole.data and quick.encoder == whole.encoder
    assert set(whole.heads) - set(quick.heads) == {"crt"}


def test_digest_depends_on_the_settings_of_the_stage():
    def digest(stage, **changes):
        config = get("digits_lt")
        config.update_from_flattened_dict(changes)
        return files.json_digest(dependencies.of_stage(config, stage))

    assert digest("pretrain") == digest("pretrain", **{"retrain.k": 3, "data.dir": "x", "log.every_steps": 1})
    assert digest("pretrain") != digest("pretrain", **{"pretrain.m": 2})
    assert digest("retrain") != digest("retrain", **{"retrain.k": 3})
    assert digest("retrain") != digest("retrain", **{"pretrain.m": 2})
    assert digest("retrain") == digest("retrain", **{"probe.per_class": 1})


@pytest.mark.parametrize("name", NAMES)
def test_every_knob_is_read_and_commented(name):
    """A knob that no module reads has no effect; one without a comment is undocumented."""
    code = "\n".join(file.read_text() for file in PACKAGE.rglob("*.py") if "configs" not in file.parts)
    defined = "\n".join(file.read_text() for file in config_lib.builtin_folder().glob("*.py"))
    for path in dependencies.flattened(dependencies.resolved(get(name)), ()):
        knob = path[-1]
        assert re.search(rf"\.{knob}\b|\.get\(\"{knob}\"", code), f"no module reads {'.'.join(path)}"
        assert re.search(rf"\.{knob} = .*  # \S", defined), f"{'.'.join(path)} has no comment"


def test_missing_config():
    with pytest.raises(errors.BadInput, match=r"did you mean configs/digits_lt\.py"):
        config_lib.find("configs/digit_lt.py")
