"""Builds encoders by name, and networks of an encoder and a head.

All flax modules of image networks are in this package. Images float32 (b, h, w, c) in [0, 1] -> features (b, d).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lt_jax.core import errors
from lt_jax.models import convnext, convolution, efficientnet, initializers, projectors, resnet, vit, weights

_CLIP = functools.partial(vit.ViT, heads=12, norm_before=True, epsilon=1e-5)
ENCODERS = {
    "resnet_small": functools.partial(
        resnet.ResNet, stages=(1, 1, 1), block=functools.partial(resnet.BasicBlock, convolve=convolution.unfolded)
    ),
    "resnet18": functools.partial(resnet.ResNet, stages=(2, 2, 2, 2)),
    "resnet34": functools.partial(resnet.ResNet, stages=(3, 4, 6, 3)),
    "resnet32": functools.partial(resnet.ResNet, stages=(5, 5, 5), shortcut="pad"),
    "resnet50": functools.partial(resnet.ResNet, stages=(3, 4, 6, 3), block=resnet.Bottleneck),
    "resnet152": functools.partial(resnet.ResNet, stages=(3, 8, 36, 3), block=resnet.Bottleneck),
    "resnext50": functools.partial(
        resnet.ResNet, stages=(3, 4, 6, 3), block=functools.partial(resnet.Bottleneck, groups=32, inner=2.0)
    ),
    "vit_small": functools.partial(vit.ViT, heads=6),  # and DeiT-S
    "vit_base": functools.partial(vit.ViT, heads=12),  # and DeiT-B
    "dinov2_small": functools.partial(vit.ViT, heads=6, patch=14, scaled=True),
    "dinov2_base": functools.partial(vit.ViT, heads=12, patch=14, scaled=True),
    "dinov2_small_registers": functools.partial(vit.ViT, heads=6, patch=14, scaled=True, registers=4),
    "dinov2_base_registers": functools.partial(vit.ViT, heads=12, patch=14, scaled=True, registers=4),
    "clip_base16": functools.partial(_CLIP, patch=16, gelu="quick"),
    "clip_base32": functools.partial(_CLIP, patch=32, gelu="quick"),
    "openclip_base16": functools.partial(_CLIP, patch=16),
    "openclip_base32": functools.partial(_CLIP, patch=32),
    "convnext_tiny": convnext.ConvNeXt,
    "efficientnet_lite0": efficientnet.EfficientNet,
    "efficientnet_lite1": functools.partial(efficientnet.EfficientNet, deeper=1.1),
    "efficientnet_lite2": functools.partial(efficientnet.EfficientNet, wider=1.1, deeper=1.2),
}
_TRANSFORMERS = ("vit", "dinov2", "clip", "openclip", "convnext")  # without BatchNorm, by truncated normals
_SHAPE = ("width", "stem", "stem_stride")
_OF_ONE_SHAPE = (
    "dinov2",
    "clip",
    "openclip",
    "convnext",
    "efficientnet",
)  # they have no other width or stem than the published one
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(config: Any, dtype: str, experts: int = 1) -> nn.Module:
    """The encoder named by `config.encoder`, with this many experts.

    Raises:
      BadInput: the name is unknown, or PyTorch's initialisation or experts are set for a network that
        has neither.
    """
    if config.name not in ENCODERS:
        raise errors.BadInput(f"config.encoder.name: expected one of {', '.join(ENCODERS)}, found {config.name!r}")
    if config.get("init", "he") == "torch" and config.name.startswith(_TRANSFORMERS):
        raise errors.BadInput(
            f"config.encoder.init: expected he for {config.name}, found torch, which is not available for transformers"
        )
    is_of_one_shape = config.name.startswith(_OF_ONE_SHAPE)
    options = {} if is_of_one_shape else {key: config[key] for key in _SHAPE}
    if experts > 1:
        if config.name.startswith((*_TRANSFORMERS, *_OF_ONE_SHAPE)):
            raise errors.BadInput(f"config.baseline.experts: expected 1 for {config.name}, found {experts}")
        options["experts"] = experts
    return ENCODERS[config.name](**options, remat=config.remat, dtype=DTYPES[dtype])


def contrastive(config: Any, widths: tuple[int, ...], dtype: str) -> projectors.Network:
    """Network of encoder and projector: images -> l2-normalised embeddings (b, widths[-1])."""
    return _network(config, dtype, projectors.Projector(tuple(widths), DTYPES[dtype]))


def classifier(config: Any, num_classes: int, dtype: str, head: str = "linear", experts: int = 1) -> projectors.Network:
    """Network of encoder and head, "linear" or "cosine": images -> logits (b, num_classes), means over the experts."""
    top = projectors.HEADS[head](num_classes) if experts == 1 else projectors.Experts(num_classes, experts, head)
    return _network(config, dtype, top, experts)


def trainable(network: projectors.Network, choice: str) -> tuple[str, ...]:
    """The parameters that "all", "last_block" or "head" names, as `lt_jax.train.state.create` takes them."""
    if choice != "last_block":
        return (choice,)
    return (*(f"encoder/{name}" for name in network.encoder.last_block), "head")


def _network(config: Any, dtype: str, top: Any, experts: int = 1) -> projectors.Network:
    return projectors.Network(
        build(config, dtype, experts),
        top,
        tuple(config.mean) or (0.0,),
        tuple(config.std) or (1.0,),
        config.get("init", "he"),
        config.get("input_size", 0),
        config.get("resample", "") or "bilinear",
    )


def initialise(
    network: projectors.Network, key: jax.Array, image_shape: tuple[int, ...], file: str = ""
) -> dict[str, Any]:
    """New variables of encoder and head; the encoder is loaded from `file` if given, see `weights.load`.

    Raises:
      BadInput: the file does not contain the weights of this encoder.
    """
    k_encoder, k_head = jax.random.split(key)
    encoder = _initialise(network.encoder, k_encoder, (1, *network.input_shape(image_shape)), network.initializer)
    if file and not isinstance(key, jax.core.Tracer):
        encoder = weights.load(file, encoder)
    return {
        "params": {"encoder": encoder["params"], "head": initialise_head(network, k_head, image_shape)},
        "batch_stats": {"encoder": encoder.get("batch_stats", {})},  # a transformer has none
    }


def initialise_head(network: projectors.Network, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """New parameters of the head."""
    images = jax.ShapeDtypeStruct((1, *network.input_shape(image_shape)), jnp.float32)
    features, _ = jax.eval_shape(network.encoder.init_with_output, key, images)
    return _initialise(network.head, key, features.shape, network.initializer)["params"]


def _initialise(module: Any, key: jax.Array, shape: tuple[Any, ...], init: str) -> dict[str, Any]:
    if isinstance(key, jax.core.Tracer):  # only shapes are needed
        return module.init(key, jnp.zeros(shape, jnp.float32))
    return _compiled_init(module, shape, init)(key)


def _fresh(module: Any, shape: tuple[Any, ...], init: str, key: jax.Array) -> dict[str, Any]:
    if init == "he":
        return module.init(key, jnp.zeros(shape, jnp.float32))
    k_module, k_layers = jax.random.split(key)
    variables = module.init(k_module, jnp.zeros(shape, jnp.float32))
    return {**variables, "params": initializers.torch_default(k_layers, variables["params"])}


@functools.cache
def _compiled_init(module: nn.Module, shape: tuple[int, ...], init: str) -> Callable[..., Any]:
    """Compiled and cached initialisation: op by op it takes seconds, and so does compiling again.

    It runs once, so compiler optimisation is switched off on a CPU, which is ten times faster.
    """
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(functools.partial(_fresh, module, shape, init), compiler_options=options)
