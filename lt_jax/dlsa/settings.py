"""Checks the `dlsa` block of a config."""

import math
from collections.abc import Callable
from typing import Any

from lt_jax.core import errors
from lt_jax.dlsa import classifiers, heads, sampling, scaling, share

_CHOICES = {
    "rest_counts": ("all", "left"),
    "share_at": share.FORMS,
    "threshold": share.THRESHOLDS,
    "last": ("left", "everything"),
    "filter.standardise": scaling.FORMS,
    "classifier.standardise": scaling.FORMS,
    "classifier.kind": heads.KINDS,
    "classifier.loss": classifiers.LOSSES,
    "classifier.sampling": sampling.FORMS,
    "classifier.start": ("random", "backbone"),
    "classifier.unseen": classifiers.UNSEEN,
}
_WHOLE_AT_LEAST = {
    "depth": 1, "folds": 2, "min_items": 0, "filter.components": 0, "filter.clusters": 1, "filter.blocks": 1,
    "filter.epochs": 1, "filter.batch_size": 2, "classifier.epochs": 1, "classifier.batch_size": 1,
    "classifier.hidden": 0,
}  # fmt: skip
_FROM_ZERO = (
    "filter.centre_deviation", "filter.learning_rate", "filter.likelihood_weight", "filter.balance_weight",
    "filter.purity_weight", "filter.class_weight_power", "filter.noise", "filter.weight_decay",
    "classifier.learning_rate", "classifier.weight_decay",
)  # fmt: skip
_BELOW_ONE = ("classifier.momentum", "classifier.label_smoothing")


def check(config: Any) -> None:
    """Raises BadInput for the first invalid setting; missing keys have defaults."""
    for key, choices in _CHOICES.items():
        _require(config, key, f"one of {', '.join(choices)}", lambda x, c=choices: x in c)
    _require(config, "share", "a number between 0 and 1", lambda x: 0.0 < x < 1.0)
    for key, least in _WHOLE_AT_LEAST.items():
        _require(config, key, f"a whole number, at least {least}", lambda x, n=least: x >= n and float(x).is_integer())
    for key in _FROM_ZERO:
        _require(config, key, "a number, at least 0", lambda x: 0.0 <= x < math.inf)
    for key in _BELOW_ONE:
        _require(config, key, "a number from 0 to below 1", lambda x: 0.0 <= x < 1.0)
    head = config.classifier
    if head.get("start", "random") == "backbone" and head.get("hidden", 0):
        raise errors.BadInput(
            f"config.dlsa.classifier.hidden: expected 0 with start='backbone', found {head.hidden}: "
            "a linear head has no hidden units"
        )
    standardise = head.get("standardise", "coordinates")
    if head.get("start", "random") == "backbone" and standardise in ("unit", "sphere"):
        raise errors.BadInput(
            "config.dlsa.classifier.standardise: expected coordinates or none with start='backbone', "
            f"found {standardise!r}"
        )


def _require(config: Any, key: str, expected: str, is_valid: Callable[..., Any]) -> None:
    *above, name = key.split(".")
    for part in above:
        config = config[part]
    if name in config and not is_valid(config[name]):
        raise errors.BadInput(f"config.dlsa.{key}: expected {expected}, found {config[name]!r}")
