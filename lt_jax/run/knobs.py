"""What values a config key may have: the keys that there are, their types, and the interval of every number."""

import difflib
import math
from typing import Any

import ml_collections

from lt_jax.core import errors

_AUGMENT = {
    "crop_scale": "(0, 1]",
    "pad": "[0, inf)",
    "flip": "[0, 1]",
    "strength": "[0, inf)",
    "grey": "[0, 1]",
    "cutout": "[0, 1]",
}
_TRAINING = {
    "epochs": "(0, inf)",
    "steps": "[0, inf)",
    "batch_size": "[1, inf)",
    "accumulate": "[1, inf)",
    "base_learning_rate": "[0, inf)",
    "warmup_epochs": "[0, inf)",
    "decay_epochs": "(0, inf)",
    "decay_factor": "(0, 1]",
    "momentum": "[0, 1)",
    "weight_decay": "[0, inf)",
    "clip_norm": "[0, inf)",
    "ema": "[0, 1)",
    **{f"augment.{key}": interval for key, interval in _AUGMENT.items()},
}
INTERVALS = {
    "seed": "[0, 2147483647]",
    "log.every_steps": "[1, inf)",
    "checkpoint.every_seconds": "[0, inf)",
    "checkpoint.every_steps": "[0, inf)",
    "checkpoint.keep": "[1, inf)",
    "host.heartbeat_seconds": "[1, inf)",
    "host.start_seconds": "[1, inf)",
    "host.steps_per_execution": "[0, inf)",
    "evaluate.batch_size": "[1, inf)",
    "evaluate.every_epochs": "[0, inf)",
    "evaluate.ece_bins": "[1, inf)",
    "data.generated": "[0, inf)",
    "data.image_size": "[0, inf)",
    "data.workers": "[-1, inf)",
    "data.test_share": "(0, 1)",
    "data.validation": "[0, 1)",
    "data.validation_unused": "[0, inf)",
    "data.folds": "[0, inf)",
    "data.fold": "[0, inf)",
    "data.imbalance_factor": "[1, inf)",
    "data.largest": "[0, inf)",
    "data.counts": "[0, inf)",
    "data.seed": "[0, 4294967295]",
    "data.many": "[0, inf)",
    "data.few": "[0, inf)",
    "encoder.width": "[1, inf)",
    "encoder.stem_stride": "[1, inf)",
    "encoder.mean": "(-inf, inf)",
    "encoder.std": "(0, inf)",
    "encoder.input_size": "[0, inf)",
    **{f"{stage}.{key}": x for stage in ("pretrain", "baseline", "probe", "retrain") for key, x in _TRAINING.items()},
    "pretrain.batch_size": "[2, inf)",
    "pretrain.temperature": "(0, inf)",
    "pretrain.m": "[0, inf)",
    "pretrain.n": "[1, inf)",
    "pretrain.projector": "[1, inf)",
    "baseline.reweight_from": "[0, 1]",
    "baseline.experts": "[1, inf)",
    "baseline.diversity": "[0, inf)",
    "baseline.consistency": "[0, inf)",
    "baseline.tripartite": "[0, inf)",
    "baseline.contrastive_weight": "[0, inf)",
    "baseline.contrastive_projector": "[1, inf)",
    **{f"baseline.contrastive_augment.{key}": interval for key, interval in _AUGMENT.items()},
    "probe.per_class": "[0, inf)",
    "retrain.k": "[1, inf)",
    "retrain.scale_power": "[1, inf)",
    "retrain.redraw_every": "[1, inf)",
    "retrain.head_epochs": "(0, inf)",
}
_TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}


def check_keys(config: ml_collections.ConfigDict, known: ml_collections.ConfigDict, path: str = "config") -> None:
    """Raises BadInput for a key that is not known, one that a block lacks, and a value of another type.

    Args:
      known: a config with every key; its values have the right types.
    """
    for key, value in config.items():
        if key not in known:
            close = difflib.get_close_matches(key, list(known), 1)
            hint = f"did you mean {path}.{close[0]}?" if close else f"{path} has {', '.join(sorted(known))}"
            raise errors.BadInput(f"{path}.{key} is no key: {hint}")
        _check_type(f"{path}.{key}", value, known[key])
        if isinstance(value, ml_collections.ConfigDict):
            check_keys(value, known[key], f"{path}.{key}")
    missing = [key for key in known if key not in config and (path != "config" or key not in _OPTIONAL)]
    if missing:
        raise errors.BadInput(f"{path}.{missing[0]} is missing: configs/common.py has a function for each block")


_OPTIONAL = ("pretrain", "baseline", "probe", "retrain", "dlsa", "encoder")


def _check_type(key: str, value: Any, example: Any) -> None:
    if isinstance(example, ml_collections.ConfigDict):
        if not isinstance(value, ml_collections.ConfigDict):
            raise errors.BadInput(f"{key}: expected a block of keys, found {value!r}")
        return
    kind = tuple if isinstance(example, (tuple, list)) else type(example)
    allowed: Any = {float: (float, int), tuple: (tuple, list)}.get(kind, (kind,))
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise errors.BadInput(f"{key}: expected {_TYPES[kind]}, found {value!r}")
    if kind is tuple and len(example):
        for item in value:
            _check_type(key, item, example[0])


def check_intervals(config: ml_collections.ConfigDict) -> None:
    """Raises BadInput for a number outside of its interval, or one that is not finite."""
    for key, interval in INTERVALS.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, ml_collections.ConfigDict) else None
        for number in value if isinstance(value, (tuple, list)) else [value]:
            if number is not None and not _is_inside(number, interval):
                raise errors.BadInput(f"config.{key}: expected {_words(interval)}, found {number}")


def _is_inside(number: float, interval: str) -> bool:
    if not isinstance(number, (int, float)) or not math.isfinite(number):
        return False
    least, most = _ends(interval)
    above = number >= least if interval[0] == "[" else number > least
    below = number <= most if interval[-1] == "]" else number < most
    return above and below


def _ends(interval: str) -> tuple[Any, ...]:
    least, most = interval[1:-1].split(", ")
    return float(least), float(most)


def _words(interval: Any) -> Any:
    """The interval in words, as in "at least 1" for "[1, inf)"."""
    least, most = _ends(interval)
    if math.isinf(most):
        return "a finite number" if math.isinf(least) else f"{_LOWER[interval[0]]} {_number(least)}"
    if interval[0] == "(" and interval[-1] == ")":
        return f"a number between {_number(least)} and {_number(most)}"
    return f"{_LOWER[interval[0]]} {_number(least)} and {_UPPER[interval[-1]]} {_number(most)}"


def _number(end: Any) -> Any:
    return f"{end:.0f}" if end == int(end) else f"{end:g}"


_LOWER = {"[": "at least", "(": "more than"}
_UPPER = {"]": "at most", ")": "less than"}
