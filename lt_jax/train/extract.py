"""One pass over a split: features and log-probabilities on clean images in evaluation mode."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import linen as nn

from lt_jax import data
from lt_jax.core import files, interrupt
from lt_jax.data import batches
from lt_jax.train import sharding, steps


@functools.cache
def _compiled(network: nn.Module) -> Callable[..., Any]:
    return jax.jit(steps.infer(network))


class Extractor:
    """Called for each split and each state of a network; compiled once a program."""

    def __init__(self, network: nn.Module, batch_size: int):
        self._batch_size = sharding.divisible(batch_size)
        self._mesh = sharding.mesh(self._batch_size)
        self._infer = _compiled(network)

    def __call__(self, variables: dict[str, Any], images: Any) -> tuple[np.ndarray, np.ndarray]:
        """Images of a split, in memory or not -> features (n, d) and logits (n, C), float32."""
        features, logits = zip(*self.batches(variables, images), strict=True)
        return np.concatenate(features), np.concatenate(logits)

    def batches(self, variables: dict[str, Any], images: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same in order, one batch at a time."""
        variables = sharding.put_replicated(variables, self._mesh)
        is_local = not isinstance(images, np.ndarray)
        for batch, mask in batches.clean_batches(images, self._batch_size, **sharding.host()):
            interrupt.stop_if_requested()
            batch = sharding.put_batch(batch, self._mesh, is_local)
            features, logits = (sharding.fetch(x)[mask] for x in self._infer(variables, batch))
            yield features, logits


def true_log_probabilities(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p(i): what the classifier gives to the true label, (n,) float32. Logs, since a fine-tuned p rounds to 1."""
    log_p = np.asarray(jax.nn.log_softmax(np.asarray(logits, np.float32), axis=-1))
    # Rounding can leave a log-probability a hair above zero.
    return np.minimum(log_p[np.arange(len(labels)), labels], 0.0)


def write(workdir: epath.Path, name: str, features: np.ndarray, logits: np.ndarray, split: data.Split) -> None:
    """`features/{name}.{features,labels,log_p}.npy`."""
    log_p = true_log_probabilities(logits, split.labels)
    for kind, array in (("features", features), ("labels", split.labels), ("log_p", log_p)):
        files.write_npy(workdir / "features" / f"{name}.{kind}.npy", array)
