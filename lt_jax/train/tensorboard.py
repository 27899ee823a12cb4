"""The lines of metrics.jsonl as TensorBoard events, for those who watch runs there. Needs no TensorFlow."""

import os
from typing import Any

from etils import epath

from lt_jax.core import distributed, extras


class Events:
    """Event files of one stage. A resumed run replaces what a killed one has written after its last save.

    Args:
      folder: of the stage, as DIR/tensorboard/pretrain; on a local disk.
      start: step that training starts after.

    Raises:
      BadInput: the package is not installed.
    """

    def __init__(self, folder: epath.Path, start: int):
        tensorboard = extras.load("tensorboardX", "tensorboard", "config.log.tensorboard")
        self._writer = None
        if distributed.is_main():
            options = {"purge_step": start + 1, "filename_suffix": f".{start}"}  # names otherwise differ by seconds
            self._writer = tensorboard.SummaryWriter(os.fspath(folder), **options)

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Adds the numbers among the values of a step."""
        for name, value in values.items():
            if self._writer is not None and isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
