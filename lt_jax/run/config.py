"""From a config file to one checked config."""

import difflib
import importlib.util
import os
import pathlib
import re
import sys
import types
from typing import Any

import ml_collections

from lt_jax.core import errors
from lt_jax.run import dependencies, knobs

DEFAULT = "configs/digits_lt.py"

_PATHS = (
    "data.dir",
    "data.list",
    "data.classes",
    "encoder.weights",
    "init_from",
    "host.compile_cache",
    "dlsa.compare_with",
)

CHOICES = {
    "data.on_bad_image": ("error", "skip"),
    "data.splits": ("auto", "folders", "none"),
    "encoder.stem": ("small", "imagenet"),
    "encoder.init": ("he", "torch"),
    "encoder.resample": ("", "bilinear", "bicubic"),
    "pretrain.negatives": ("sampled", "expected"),
    "baseline.trainable": ("all", "last_block", "head", "none"),
    "baseline.head": ("linear", "cosine", "unit_kernel"),
    "baseline.reweight": ("", "effective_number"),
    "retrain.trainable": ("all", "head"),
    "host.distributed": ("auto", "on", "off"),
    "baseline.contrastive_augment.policy": ("", "trivial", "autoaugment"),
    "dtype": ("float32", "bfloat16"),
}
for _stage in ("pretrain", "baseline", "probe", "retrain"):
    CHOICES[f"{_stage}.optimizer"] = ("adamw", "sgd")
    CHOICES[f"{_stage}.schedule"] = ("cosine", "step", "constant")
    CHOICES[f"{_stage}.augment.policy"] = ("", "trivial", "autoaugment")


def builtin_folder() -> pathlib.Path:
    """Where our own configs lie: beside the package in a checkout, inside it once installed."""
    package = pathlib.Path(__file__).resolve().parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "common.py").exists():
            return folder
    raise errors.BadInput(f"no configs beside or inside {package}: the installation is broken")


def find(path: str) -> pathlib.Path:
    """The file that `--config=PATH` means: as it stands, else among our own configs.

    Raises:
      BadInput: there is none; the line names what was looked for and what there is.
    """
    builtin = builtin_folder()
    as_given, ours = pathlib.Path(os.path.expanduser(path)), builtin / pathlib.Path(path).name
    if as_given.is_file():
        return as_given.resolve()
    if ours.is_file() and pathlib.Path(path).parent.name in ("configs", ""):
        return ours
    names = sorted(f"configs/{file.name}" for file in builtin.glob("*.py") if file.stem not in ("common", "__init__"))
    close = difflib.get_close_matches(f"configs/{pathlib.Path(path).name}", names, 1)
    hint = f"did you mean {close[0]}?" if close else "there are " + ", ".join(names)
    raise errors.BadInput(f"no config file {path}: {hint}")


def from_command_line(argv: list[str]) -> tuple[ml_collections.ConfigDict, str, list[str]]:
    """The config that --config names (the default's where none is given), its name, and the other words.

    Raises:
      BadInput: no such file, a token or a `--config.a.b` that means nothing, with what was perhaps meant.
    """
    words = list(argv)
    for i, word in enumerate(words):
        if word in ("--config", "-config") and i + 1 < len(words):
            words[i : i + 2] = [f"--config={words[i + 1]}"]
            break
    config_words = [word for word in words if word.startswith(("--config=", "-config="))]
    path, tokens = split_tokens(config_words[-1].partition("=")[2] if config_words else DEFAULT)
    file = find(path)
    config = _load(file, tokens)
    other_words = [word for word in words if word not in config_words]
    for word in other_words:
        if word.startswith(("--config.", "-config.")):
            _check_key(config, word.partition("=")[0].partition(".")[2])
    return config, file.stem, other_words


def split_tokens(text: str) -> tuple[str, str]:
    """(path, tokens) of what `--config` says: tokens come behind the colon after `.py`; a path may hold colons too."""
    if pathlib.Path(text).is_file():
        return text, ""
    match = re.fullmatch(r"(.*?\.py)(?::(.*))?", text, re.DOTALL)
    path, tokens = match.groups("") if match else text.partition(":")[::2]
    return path, tokens


def _load(file: Any, tokens: str) -> Any:
    _make_importable()
    recipe, tokens = _split_recipe(tokens)
    spec = importlib.util.spec_from_file_location(f"configs.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        config = module.get_config(tokens).lock()
    except Exception as error:  # the file is the user's own program: it may raise anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise errors.BadInput(f"{file.name}: {kind}{error}") from error
    if recipe is not None:
        apply_recipe(config, recipe)
    return config


def _split_recipe(tokens: str) -> tuple[Any, ...]:
    """(name of the recipe in the token `method=NAME` or None, the other tokens)."""
    words = tokens.split(",")
    names = [word.partition("=")[2] for word in words if word.startswith("method=")]
    return (names[-1] if names else None), ",".join(word for word in words if not word.startswith("method="))


def apply_recipe(config: ml_collections.ConfigDict, name: str) -> None:
    """Changes the config to what a recipe of `lt_jax.methods.RECIPES` trains.

    Raises:
      BadInput: an unknown name, or a config without a block that the recipe needs.
    """
    from lt_jax import methods  # here, so that configs without a recipe do not wait for JAX

    recipe = methods.entry("RECIPES", name, "config argument method")
    stages = recipe.stages
    if "pretrain" not in config and "features" in config.stages:  # a frozen encoder takes the place of pretraining
        stages = tuple(stage for stage in stages if stage != "pretrain" or "features" not in stages)
    needed = [stage for stage in ("pretrain", "probe", "baseline", "retrain", "dlsa") if stage in stages]
    missing = next((block for block in needed if block not in config), None)
    if missing is not None:
        hint = (
            "; it trains no network, only heads: a token such as scratch may change that" if not config.method else ""
        )
        raise errors.BadInput(f"config argument method={name}: this config has no block config.{missing}{hint}")
    config.update_from_flattened_dict({"method": name, "stages": stages, **recipe.overrides})


def _check_key(config: Any, dotted: str) -> None:
    at = config
    for i, part in enumerate(dotted.split(".")):
        known = list(at) if isinstance(at, ml_collections.ConfigDict) else []
        if part.partition("[")[0] not in known:
            close = difflib.get_close_matches(part, known, 1)
            prefix = ".".join(["config", *dotted.split(".")[:i]])
            hint = (
                f"did you mean {prefix}.{close[0]}?"
                if close
                else f"{prefix} has {', '.join(sorted(known)) or 'no keys'}"
            )
            raise errors.BadInput(f"config.{dotted} is no key of this config: {hint}")
        at = at[part] if part in known else None


def _make_importable() -> None:
    """Lets a config file anywhere say `from configs import common`, in a checkout and once installed."""
    module = types.ModuleType("configs")
    module.__path__ = [str(builtin_folder())]
    sys.modules["configs"] = module


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises BadInput, naming the key, what was expected and what was found."""
    _make_importable()
    from configs import common

    knobs.check_keys(config, common.every_key())
    for key, choices in CHOICES.items():
        value = get(config, key)
        if value is not None and value not in choices:
            raise errors.BadInput(
                f"config.{key}: expected one of {', '.join(c or repr(c) for c in choices)}, found {value!r}"
            )
    _check_methods(config)
    knobs.check_intervals(config)
    for key in _PATHS:
        for value in _listed(get(config, key)):
            if os.path.expanduser(value).startswith("~"):
                raise errors.BadInput(f"config.{key}: there is no home folder as in {value!r}")
    _check_profile(config.profile.steps)
    _check_stages(config)
    _check_data(config.data)
    _check_accumulation(config)
    _check_baseline(config)


# Keys that name an entry of a table of lt_jax.methods; "" names none.
_ENTRIES = {
    "pretrain.loss": "CONTRASTIVE",
    "baseline.loss": "SUPERVISED",
    "baseline.sampling": "ORDERS",
    "baseline.contrastive": "CONTRASTIVE",
    "baseline.augment.mix": "MIXES",
    "probe.augment.mix": "MIXES",
    "retrain.method": "SELECTORS",
    "retrain.augment.mix": "MIXES",
    "heads": "HEADS",
}


def _check_methods(config: Any) -> None:
    from lt_jax import methods  # here, so that a usage error does not wait for JAX

    for key, table in _ENTRIES.items():
        for text in filter(None, _listed(get(config, key))):
            for each in methods.alternatives(text, f"config.{key}") if _may_choose(config, key) else [text]:
                methods.entry(table, each, f"config.{key}")
    names = [methods.name_of("HEADS", text) for text in _listed(config.heads)]
    for name in names:
        if names.count(name) > 1:
            raise errors.BadInput(f"config.heads: expected each head once, found {name} {names.count(name)} times")
    for key in ("pretrain.augment.mix", "baseline.contrastive_augment.mix"):
        if get(config, key):
            raise errors.BadInput(f"config.{key}: expected '', found {get(config, key)!r}")
    if get(config, "pretrain.loss") and get(config, "pretrain.ring"):
        options = methods.bracketed(config.pretrain.loss, "config.pretrain.loss")
        negatives = options.get("negatives", config.pretrain.negatives)
        chosen = (methods.name_of("CONTRASTIVE", config.pretrain.loss), negatives)
        if chosen != ("bns", "sampled"):
            raise errors.BadInput(
                "config.pretrain.ring: expected pretrain.loss bns and pretrain.negatives sampled, found "
                f"{chosen[0]} and {chosen[1]}"
            )


def _may_choose(config: Any, key: str) -> bool:
    """Whether an option may be a list, of which cross-validation takes one: of heads where they are cross-validated."""
    return key == "heads" and not {"baseline", "retrain", "dlsa"} & set(config.stages)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value or []


def _check_profile(text: str) -> None:
    steps = re.fullmatch(r"(\d+):(\d+)", text)
    if text and (steps is None or int(steps[1]) >= int(steps[2])):
        raise errors.BadInput(f"config.profile.steps: expected FIRST:END such as 10:15, found {text!r}")


def _check_stages(config: Any) -> None:
    unknown = [stage for stage in config.stages if stage not in dependencies.BLOCKS]
    if unknown:
        raise errors.BadInput(f"config.stages: expected some of {', '.join(dependencies.BLOCKS)}, found {unknown[0]!r}")
    stages = set(config.stages)
    if "heads" in stages and not ("baseline" in stages or "features" in stages and not {"retrain", "dlsa"} & stages):
        raise errors.BadInput("config.stages: heads needs baseline before it, or features without retrain and dlsa")
    if "heads" in stages and "baseline" not in stages and not config.heads:
        raise errors.BadInput("config.heads: expected some entries where no network is trained, found none")
    if "evaluate" in stages and not {"baseline", "retrain", "dlsa", "heads"} & stages:
        raise errors.BadInput("config.stages: evaluate needs baseline, retrain, dlsa or heads before it")
    for block in ("pretrain", "probe", "baseline", "retrain", "dlsa"):
        if block in config.stages and block not in config:
            raise errors.BadInput(f"config.stages: {block} needs the settings config.{block}, which are missing")


def _check_data(data: Any) -> None:
    if data.few > data.many:
        raise errors.BadInput(f"config.data.few: expected at most config.data.many={data.many}, found {data.few}")
    if data.folds == 1 or (data.folds and data.fold >= data.folds):
        raise errors.BadInput(
            f"config.data.fold: expected a fold below config.data.folds, which is at least 2; found {data.fold} and "
            f"{data.folds}"
        )
    if data.profile in ("exponential", "step", "pareto") and data.largest < 1:
        raise errors.BadInput(f"config.data.largest: expected at least 1, found {data.largest}")
    if data.counts and data.profile != "counts":
        raise errors.BadInput(
            f"config.data.counts: expected none with config.data.profile={data.profile}; choose profile=counts"
        )


def _check_accumulation(config: Any) -> None:
    if get(config, "pretrain.accumulate") not in (None, 1):
        raise errors.BadInput(
            f"config.pretrain.accumulate: expected 1, found {config.pretrain.accumulate}: parts of a batch would have "
            "other negatives and other BatchNorm statistics; encoder.remat and pretrain.ring save memory"
        )


# What trains the baseline in a way of its own -> other settings that must then have these values.
_ALONE: dict[str, dict[str, Any]] = {
    "contrastive": {"accumulate": 1, "experts": 1},
    "trainable": {"head": "linear", "experts": 1, "contrastive": "", "consistency": 0.0, "tripartite": 0.0},
    "consistency": {
        "loss": "cross_entropy", "accumulate": 1, "experts": 1, "contrastive": "", "reweight": "", "augment.mix": "",
        "tripartite": 0.0,
    },
    "tripartite": {
        "head": "unit_kernel", "accumulate": 1, "experts": 1, "contrastive": "", "reweight": "", "augment.mix": "",
    },
}  # fmt: skip


def _check_baseline(config: Any) -> None:
    if get(config, "baseline.trainable") not in (None, "all") and not config.encoder.weights:
        raise errors.BadInput(
            f"config.baseline.trainable: expected 'all' without config.encoder.weights, found "
            f"{config.baseline.trainable!r}: the frozen part would stay random"
        )
    for cause, needed in _ALONE.items():
        value = get(config, f"baseline.{cause}")
        for key, expected in needed.items() if value and value != "all" else ():
            value = get(config, f"baseline.{key}")
            if value != expected:
                raise errors.BadInput(
                    f"config.baseline.{key}: expected {expected!r} with baseline.{cause}, found {value!r}"
                )


def get(config: ml_collections.ConfigDict, dotted: str) -> Any:
    """The value at `a.b.c`, or None where a part is missing."""
    value: Any = config
    for part in dotted.split("."):
        if not isinstance(value, ml_collections.ConfigDict) or part not in value:
            return None
        value = value[part]
    return value
