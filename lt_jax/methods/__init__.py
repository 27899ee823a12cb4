"""The tables of methods. To add a method, write one function and add one line here.

Everything that lists methods reads these tables: choices of config keys, display names, rows of a result, legends of
the report, and the tests that run every entry. The first line of a function's docstring is its display name, its
`Source:` line the paper. docs/methods.md has the signatures.

A config names an entry, with options in brackets where they differ from the defaults: `logit_adjustment(tau=2.0)`.
"""

import ast
import difflib
import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

from lt_jax import heads, losses
from lt_jax.augment import mix
from lt_jax.core import errors
from lt_jax.heads.scaling import SCALINGS
from lt_jax.methods import contrastive, selectors, subsets
from lt_jax.methods.contrastive import Objective
from lt_jax.methods.recipes import RECIPES, Recipe
from lt_jax.sampling import orders

SUPERVISED: dict[str, Callable[..., Any]] = {
    "cross_entropy": losses.cross_entropy,
    "focal": losses.focal,
    "ldam": losses.ldam,
    "label_aware_smoothing": losses.label_aware_smoothing,
    "vs": losses.vs,
    "balanced_softmax": losses.balanced_softmax,
    "logit_adjustment": losses.logit_adjustment,
    "sigmoid_bce": losses.sigmoid_bce,
}
CONTRASTIVE: dict[str, Objective] = {
    "bns": Objective(contrastive.bns, one_pass=True),
    "bns_official": Objective(contrastive.bns_official),
    "supcon": Objective(contrastive.supcon),
    "simclr": Objective(contrastive.simclr),
    "tsc": Objective(contrastive.tsc, init_memory=contrastive.tsc_memory),
    "bcl": Objective(contrastive.bcl, init_params=contrastive.bcl_params),
    "paco": Objective(contrastive.paco, init_params=contrastive.paco_params, init_memory=contrastive.paco_memory),
    "proco": Objective(contrastive.proco, init_memory=contrastive.proco_memory),
}
HEADS: dict[str, Callable[..., Any]] = {
    "balanced_linear": heads.balanced_linear,  # first: among heads that are as good, the earliest is selected
    "linear": heads.linear,
    "logit_adjustment": heads.logit_adjustment,
    "tau_norm": heads.tau_norm,
    "lws": heads.lws,
    "crt": heads.crt,
    "nearest_class_mean": heads.nearest_class_mean,
    "whitened_class_mean": heads.whitened_class_mean,
    "cosine_mean": heads.cosine_mean,
    "maxnorm": heads.maxnorm,
    "samn": heads.samn,
    "adapter": heads.adapter,
    "bns_adapter": heads.bns_adapter,
    "unit_bce": heads.unit_bce,
    "rooted_linear": heads.rooted_linear,
    "subset_linear": subsets.subset_linear,
}
ORDERS: dict[str, Callable[..., Any]] = {
    "instance": orders.instance,
    "class_balanced": orders.class_balanced,
    "square_root": orders.square_root,
    "progressive": orders.progressive,
}
SELECTORS: dict[str, Callable[..., Any]] = {
    "rank_one": selectors.rank_one,
    "eigen": selectors.eigen,
    "algorithm1": selectors.algorithm1,
    "uniform": selectors.uniform,
    "herding": selectors.herding,
    "kmeans": selectors.kmeans,
}
MIXES: dict[str, Callable[..., Any]] = {
    "mixup": mix.mixup,
    "cutmix": mix.cutmix,
    "remix": mix.remix,
}

_COUNTS = ("batch_size", "iterations", "k", "n", "steps", "width")  # options of at least one

# Names of version 0.1.
ALIASES = {"paper": {"CONTRASTIVE": "bns", "SELECTORS": "algorithm1"}, "official": {"CONTRASTIVE": "bns_official"},
           "class_aware": {"ORDERS": "class_balanced"}}  # fmt: skip

__all__ = ["CONTRASTIVE", "HEADS", "MIXES", "ORDERS", "RECIPES", "SELECTORS", "SUPERVISED", "Objective", "Recipe"]


def name_of(table: str, text: str) -> str:
    """The name of the entry that `text` names, without its options: `focal(gamma=1.0)` is `focal`."""
    name = text.partition("(")[0].strip()
    return ALIASES.get(name, {}).get(table, name)


def entry(table: str, text: str, key: str, settings: Any = None) -> Any:
    """The entry that `text` names, with the options in its brackets.

    Args:
      table: its name, as "SUPERVISED".
      text: `NAME` or `NAME(option=value, ...)`; values are Python literals.
      key: of the config, for the message.
      settings: a block whose keys of the same name are options too; those in brackets come first.

    Raises:
      BadInput: an unknown name or option, with what was perhaps meant.
    """
    entries, name = globals()[table], name_of(table, text)
    if name not in entries:
        raise errors.BadInput(f"{key}: {_unknown(text, entries)}")
    if table == "RECIPES":
        if text.strip() != name:
            raise errors.BadInput(
                f"{key}: a recipe takes no options in brackets, found {text!r}; set keys of the config"
            )
        return entries[name]
    options, known = bracketed(text, key), options_of(table, name)
    for option, value in options.items():
        if option not in known:
            raise errors.BadInput(f"{key}: {name} has no option {option!r}: {_hint(option, known, name)}")
        if isinstance(value, list) and not isinstance(known[option], tuple):
            raise errors.BadInput(f"{key}: expected one value of {option} in {text!r}, found a list")
        expected = _expected(option, known[option], value)
        if expected:
            raise errors.BadInput(f"{key}: expected {expected} for {option} in {text!r}")
    options = {option: settings[option] for option in known if option in (settings or {})} | options
    if not options:
        return entries[name]
    if table == "CONTRASTIVE":
        return entries[name].with_options(options)
    return functools.partial(entries[name], **options)


def _expected(option: str, default: Any, value: Any) -> str:
    """What an option expects, where the value is something else; "" where the value may be right."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "True or False"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        least = 1 if option in _COUNTS else 0
        return "" if is_number and isinstance(value, int) and value >= least else f"a whole number from {least} on"
    if isinstance(default, float):
        return "" if is_number and math.isfinite(value) else "a finite number"
    if option == "scaling" and value not in SCALINGS:
        return f"one of {', '.join(SCALINGS)}"
    return "text" if isinstance(default, str) and not isinstance(value, str) else ""


def alternatives(text: str, key: str) -> list[str]:
    """What `text` names, one for each choice of the options that are lists: `tau_norm(tau=[1.0, 1.5])` names two.

    The first one has the first value of every list.

    Args:
      text: as for `entry`.
      key: of the config, for the message.
    """
    options = bracketed(text, key)
    lists = {option: value for option, value in options.items() if isinstance(value, list)}
    if not lists:
        return [text]
    if not all(lists.values()):
        raise errors.BadInput(f"{key}: expected some values in each list, found {text!r}")
    name = text.partition("(")[0].strip()
    choices = [options | dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    return [f"{name}({', '.join(f'{option}={value!r}' for option, value in each.items())})" for each in choices]


def options_of(table: str, name: str) -> dict[str, Any]:
    """Option -> default of an entry: the keyword-only parameters of its function that have a plain default."""
    function = globals()[table][name]
    parameters = inspect.signature(getattr(function, "loss", function)).parameters.values()
    plain = (bool, int, float, str, tuple)
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and isinstance(p.default, plain)}


def title(table: str, name: str) -> str:
    """Display name of an entry; an unknown name without its underscores."""
    described = globals()[table].get(name)
    if described is None:
        return name.replace("_", " ")
    if isinstance(described, Recipe):
        return described.title
    return inspect.getdoc(getattr(described, "loss", described)).partition("\n")[0].rstrip(".")  # type: ignore[union-attr]


def source(table: str, name: str) -> str:
    """The paper of an entry, in one line; "" where its docstring names none."""
    described = globals()[table][name]
    if isinstance(described, Recipe):
        return described.paper
    match = re.search(r"Source: (.*?)(?:\n\s*\n|$)", getattr(described, "loss", described).__doc__, re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def bracketed(text: str, key: str) -> dict[str, Any]:
    """{option: value} of the brackets behind a name."""
    if "(" not in text:
        return {}
    try:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (AssertionError, SyntaxError, ValueError) as error:
        raise errors.BadInput(f"{key}: expected NAME or NAME(option=value, ...), found {text!r}") from error


def _unknown(text: str, entries: dict[str, Any]) -> str:
    close = difflib.get_close_matches(text, entries, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"expected one of {', '.join(entries)}, found {text!r}{hint}"


def _hint(option: Any, known: Any, name: str) -> Any:
    close = difflib.get_close_matches(option, known, 1)
    if close:
        return f"did you mean {close[0]}?"
    return f"it has {', '.join(known)}" if known else f"{name} has no options"
