"""Packages that only some users need. Where one is missing, one line says how to install it."""

import importlib
import os
from typing import Any

from etils import epath

from lt_jax.core import errors


def load(module: str, extra: str, purpose: str) -> Any:
    """The module `module`, imported now.

    Args:
      extra: the extra of lt_jax that installs it.
      purpose: what needs it, for the error: "config.data.list: reading Parquet".

    Raises:
      BadInput: its package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (error.name or package).startswith(package):  # the package is there, and lacks one of its own
            raise
        raise errors.BadInput(_line(package, extra, purpose)) from error


def check_bucket(path: str | os.PathLike, key: str) -> None:
    """Checks that the package for `gs://` paths is installed; other paths need none.

    Args:
      key: the flag or config key that holds the path, for the error.

    Raises:
      BadInput: gcsfs is not installed.
    """
    if not os.fspath(path).startswith(("gs://", "gcs://")):
        return
    try:
        epath.Path(path).exists()  # etils chooses what reaches the bucket, at the first access
    except ImportError as error:
        raise errors.BadInput(_line("gcsfs", "bucket", f"{key}: {os.fspath(path)}")) from error


def _line(package: str, extra: str, purpose: str) -> str:
    return f"{purpose} needs {package}: pip install 'lt_jax[{extra}]'"
