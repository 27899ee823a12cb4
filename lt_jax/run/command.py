"""From the words of the command line to a checked config and the other options. Imports nothing that takes long."""

import math
import os
import types
from typing import Any

from absl import flags
from ml_collections import config_flags

from lt_jax.core import errors, log
from lt_jax.run import config as config_lib


def parse(argv: list[str]) -> tuple[Any, types.SimpleNamespace]:
    """The checked config, and the other flags: workdir, stage, images (a list), format, out, method, tau (a number).

    Raises:
      BadInput: an unknown flag or key, a value that means nothing.
    """
    config, name, argv = config_lib.from_command_line(argv)
    values = flags.FlagValues()
    values.set_gnu_getopt()  # flags may follow the files of --images
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    texts = {"workdir": os.path.join("runs", name), "stage": "all", "images": "", "format": "table", "out": ""}
    texts |= {"method": "", "tau": ""}
    defined = {text: flags.DEFINE_string(text, default, "", flag_values=values) for text, default in texts.items()}
    try:
        words = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.BadInput(errors.first_line(error)) from error
    options = types.SimpleNamespace(**{text: flag.value for text, flag in defined.items()})
    if words and options.stage != "predict":
        raise errors.BadInput(f"unexpected argument {words[0]!r}; flags look like --name=value")
    options.images = [*filter(None, [options.images]), *words]
    _check_classifier(options)
    config_lib.validate(config)
    if options.stage not in ("show_data", "predict", "export"):  # which do not look at the encoder of the config
        _settle_images(config)
    if "data" in config and config.data.profile == "all":
        _check_whole(config.data, argv)
    return config, options


def _check_classifier(options: types.SimpleNamespace) -> None:
    """Raises BadInput where --method or --tau is misplaced, or tau is no number; makes tau a number."""
    for flag in ("method", "tau"):
        if getattr(options, flag) and options.stage not in ("predict", "export"):
            hint = "; a recipe to train is a token: --config=configs/NAME.py:method=NAME" if flag == "method" else ""
            raise errors.BadInput(f"--{flag}: expected with --stage=predict or --stage=export alone{hint}")
    try:
        tau = float(options.tau or 0)
    except ValueError as error:
        raise errors.BadInput(f"--tau: expected a number, found {options.tau!r}") from error
    if not math.isfinite(tau):
        raise errors.BadInput(f"--tau: expected a finite number, found {options.tau!r}")
    options.tau = tau


def _settle_images(config: Any) -> None:
    """Sets what the config leaves open of network and images: as the weights were trained, else the defaults."""
    encoder, about = config.get("encoder"), {}
    if encoder is None:
        return
    if encoder.weights:
        from lt_jax.models.weights import known, network  # here, so that a usage error does not wait for JAX

        if not encoder.name:
            encoder.update(network.of_file(encoder.weights))
            log.say(f"config.encoder.name is {encoder.name}, the network of these weights")
        about = known.images_of(encoder, encoder.weights)
    for key, default in (("mean", (0.0,)), ("std", (1.0,))):
        if not encoder[key]:
            encoder[key] = about.get(key, default)
            if encoder.weights:
                known_as = "as the weights were trained" if key in about else "since none is known for these weights"
                log.say(f"config.encoder.{key} is {_short(encoder[key])}, {known_as}")
    if "data" in config:
        _settle_sizes(config, about)


def _settle_sizes(config: Any, about: dict[str, Any]) -> None:
    """The side of images, and the one that smaller images are enlarged to under a frozen encoder."""
    from lt_jax import data

    encoder, is_known = config.encoder, bool(config.data.image_size) or "size" in about
    if not config.data.image_size:
        config.data.image_size = about.get("size", data.IMAGE_SIZE)
    if encoder.weights and is_known and not encoder.input_size:
        from lt_jax.stages import features

        if features.is_frozen(config):
            encoder.input_size = config.data.image_size
    if encoder.input_size and not encoder.resample:
        encoder.resample = about.get("resample", "bilinear")


def _short(numbers: Any) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)


def _check_whole(data: Any, argv: list[Any]) -> None:
    """Profile "all" takes every image: the size of a subset means nothing then, and that is never silent."""
    for key in ("largest", "imbalance_factor"):
        if any(word.lstrip("-").startswith(f"config.data.{key}") for word in argv):
            raise errors.BadInput(
                f"config.data.{key}: expected only with a profile that chooses images, found with "
                "config.data.profile=all, which takes every image; add --config.data.profile=exponential"
            )
    if (data.largest, data.imbalance_factor) != (0, 1.0):
        log.say(
            f"config.data.largest={data.largest} and imbalance_factor={data.imbalance_factor:g} have no effect: "
            "config.data.profile=all takes every image"
        )
