"""Encoders by name, and the networks made of them.

All flax modules of the image networks live in this folder. Images float32 (b, h, w, c) in [0, 1] -> features (b, d).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lt_jax import errors
from lt_jax.encoder import head, resnet

ENCODERS = {
    "resnet_small": functools.partial(resnet.ResNet, stages=(1, 1, 1)),
    "resnet18": functools.partial(resnet.ResNet, stages=(2, 2, 2, 2)),
    "resnet34": functools.partial(resnet.ResNet, stages=(3, 4, 6, 3)),
    "resnet32": functools.partial(resnet.ResNet, stages=(5, 5, 5), shortcut="pad"),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(config: Any, dtype: str) -> nn.Module:
    """The encoder that `config.encoder` names.

    Raises:
      BadInput: an unknown name.
    """
    if config.name not in ENCODERS:
        raise errors.BadInput(f"config.encoder.name: expected one of {', '.join(ENCODERS)}, found {config.name!r}")
    return ENCODERS[config.name](width=config.width, stem_stride=config.stem_stride, dtype=DTYPES[dtype])


def contrastive(config: Any, widths: tuple[int, ...], dtype: str) -> nn.Module:
    """Encoder with projector: images -> l2-normalised embeddings (b, widths[-1])."""
    return head.Network(build(config, dtype), head.Projector(tuple(widths), DTYPES[dtype]))


def classifier(config: Any, num_classes: int, dtype: str) -> nn.Module:
    """Encoder with a linear head: images -> logits (b, num_classes)."""
    return head.Network(build(config, dtype), head.Linear(num_classes))


def initialise(network: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Fresh variables, under jit: op by op a residual network takes seconds."""
    return jax.jit(lambda key: network.init(key, jnp.zeros((1, *image_shape), jnp.float32)))(key)
