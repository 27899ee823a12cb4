"""From the words of the command line to a checked config and what is asked of it. Imports nothing that takes long."""

import os
import types
from typing import Any

from absl import flags
from ml_collections import config_flags

from lt_jax import config as config_lib
from lt_jax import errors


def parse(argv: list[str]) -> tuple[Any, types.SimpleNamespace]:
    """The checked config, and the other flags: workdir, stage, images (a list), format, out.

    Raises:
      BadInput: an unknown flag or key, a value that means nothing.
    """
    config, name, argv = config_lib.from_command_line(argv)
    values = flags.FlagValues()
    values.set_gnu_getopt()  # flags may follow the files of --images
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    texts = {"workdir": os.path.join("runs", name), "stage": "all", "images": "", "format": "table", "out": ""}
    found = {text: flags.DEFINE_string(text, default, "", flag_values=values) for text, default in texts.items()}
    try:
        rest = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.BadInput(str(error).strip().splitlines()[0]) from error
    asked = types.SimpleNamespace(**{text: flag.value for text, flag in found.items()})
    if rest and asked.stage != "predict":
        raise errors.BadInput(f"unexpected argument {rest[0]!r}; flags look like --name=value")
    asked.images = [*filter(None, [asked.images]), *rest]
    config_lib.validate(config)
    return config, asked
