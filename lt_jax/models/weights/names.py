"""The names of tensors in files, and ours.

Names of wrappers and of other libraries are first brought to those of torchvision (residual networks) or timm (all
others); `theirs` gives the name of each of our parameters in that form.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from lt_jax.core import errors

# Where checkpoints hold their tensors; averaged weights come first, as in timm.
_NESTED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "teacher")
# What wrappers and enclosing models put before the names of an encoder; what lies beside it is no part of it.
_PREFIXES = (
    "module.", "_orig_mod.", "model.", "timm_model.", "enc.", "backbone.", "resnet.", "vit.", "deit.",
    "dinov2.", "dinov2_with_registers.", "visual.", "vision_model.", "convnext.",
)  # fmt: skip
_HEADS = re.compile(r"(fc|_fc|lin|linear|head|head\.fc|head_dist|classifier|classifier\.2)\.(weight|bias)")
# Counters of BatchNorm, the token of masked pretraining, the layer that Hugging Face puts after a transformer, and the
# projection of CLIP into the space of texts.
_UNUSED = re.compile(r".*\bnum_batches_tracked|mask_token|pooler\.dense\.(weight|bias)|proj|.*position_ids")

_RESNET = (
    (r"stem/kernel", "conv1.weight"),
    (r"stem_norm/(\w+)", r"bn1.\1"),
    (r"stage(\d+)_block(\d+)/conv_shortcut/kernel", r"layer\1.{\2}.downsample.0.weight"),
    (r"stage(\d+)_block(\d+)/norm_shortcut/(\w+)", r"layer\1.{\2}.downsample.1.\3"),
    (r"stage(\d+)_block(\d+)/conv(\d)/kernel", r"layer\1.{\2}.conv\3.weight"),
    (r"stage(\d+)_block(\d+)/norm(\d)/(\w+)", r"layer\1.{\2}.bn\3.\4"),
)
_VIT = (
    (r"token", "cls_token"),
    (r"registers", "reg_token"),
    (r"positions", "pos_embed"),
    (r"patches/(\w+)", r"patch_embed.proj.\1"),
    (r"norm/(\w+)", r"norm.\1"),
    (r"norm_before/(\w+)", r"norm_pre.\1"),
    (r"block(\d+)/(norm\d)/(\w+)", r"blocks.{\1}.\2.\3"),
    (r"block(\d+)/scale(\d)", r"blocks.{\1}.ls\2.gamma"),
    (r"block(\d+)/(qkv|proj)/(\w+)", r"blocks.{\1}.attn.\2.\3"),
    (r"block(\d+)/(fc\d)/(\w+)", r"blocks.{\1}.mlp.\2.\3"),
)
_EFFICIENTNET = (  # the blocks of the first stage widen nothing, so their layers are counted from another one on
    (r"first/kernel", "conv_stem.weight"),
    (r"first_norm/(\w+)", r"bn1.\1"),
    (r"last/kernel", "conv_head.weight"),
    (r"last_norm/(\w+)", r"bn2.\1"),
    (r"stage(\d+)_block(\d+)/depthwise/kernel", r"blocks.{\1}.{\2}.conv_dw.weight"),
    (r"stage1_block(\d+)/depthwise_norm/(\w+)", r"blocks.0.{\1}.bn1.\2"),
    (r"stage1_block(\d+)/project/kernel", r"blocks.0.{\1}.conv_pw.weight"),
    (r"stage1_block(\d+)/project_norm/(\w+)", r"blocks.0.{\1}.bn2.\2"),
    (r"stage(\d+)_block(\d+)/expand/kernel", r"blocks.{\1}.{\2}.conv_pw.weight"),
    (r"stage(\d+)_block(\d+)/expand_norm/(\w+)", r"blocks.{\1}.{\2}.bn1.\3"),
    (r"stage(\d+)_block(\d+)/depthwise_norm/(\w+)", r"blocks.{\1}.{\2}.bn2.\3"),
    (r"stage(\d+)_block(\d+)/project/kernel", r"blocks.{\1}.{\2}.conv_pwl.weight"),
    (r"stage(\d+)_block(\d+)/project_norm/(\w+)", r"blocks.{\1}.{\2}.bn3.\3"),
)
_CONVNEXT = (
    (r"level1_down/(\w+)", r"stem.0.\1"),
    (r"level1_norm/(\w+)", r"stem.1.\1"),
    (r"level(\d+)_norm/(\w+)", r"stages.{\1}.downsample.0.\2"),
    (r"level(\d+)_down/(\w+)", r"stages.{\1}.downsample.1.\2"),
    (r"level(\d+)_block(\d+)/depthwise/(\w+)", r"stages.{\1}.blocks.{\2}.conv_dw.\3"),
    (r"level(\d+)_block(\d+)/norm/(\w+)", r"stages.{\1}.blocks.{\2}.norm.\3"),
    (r"level(\d+)_block(\d+)/(fc\d)/(\w+)", r"stages.{\1}.blocks.{\2}.mlp.\3.\4"),
    (r"level(\d+)_block(\d+)/scale", r"stages.{\1}.blocks.{\2}.gamma"),
    (r"pooled_norm/(\w+)", r"head.norm.\1"),
)
_LAST = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

# Names of other libraries -> names of torchvision or timm.
_RENAMED = (
    (r"(layer\d\.\d+\.)shortcut\.(.*)", r"\1downsample.\2"),  # residual networks of CIFAR experiments
    (r"register_tokens", "reg_token"),  # DINOv2 as released
    (r"embeddings\.cls_token", "cls_token"),  # from here on Hugging Face
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(norm\d|mlp\.fc\d)\.(\w+)", r"blocks.\1.\2.\3"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.([qkv]_proj)\.(\w+)", r"blocks.\1.attn.\2.\3"),  # transformers 5
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.o_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"layers\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"layers\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"layers\.(\d+)\.(mlp\.fc\d)\.(\w+)", r"blocks.\1.\2.\3"),
    (r"class_embedding", "cls_token"),  # CLIP as released, and OpenCLIP
    (r"positional_embedding", "pos_embed"),
    (r"ln_pre\.(\w+)", r"norm_pre.\1"),
    (r"ln_post\.(\w+)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.ln_(\d)\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"embeddings\.class_embedding", "cls_token"),  # CLIP of Hugging Face
    (r"embeddings\.patch_embedding\.weight", "patch_embed.proj.weight"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"pre_layrnorm\.(\w+)", r"norm_pre.\1"),
    (r"post_layernorm\.(\w+)", r"norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv]_proj)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm(\d)\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.(mlp\.fc\d)\.(\w+)", r"blocks.\1.\2.\3"),
    (r"features\.0\.([01])\.(\w+)", r"stem.\1.\2"),  # ConvNeXt of torchvision, whose levels are at 1, 3, 5, 7
    *((rf"features\.{2 * i}\.([01])\.(\w+)", rf"stages.{i}.downsample.\1.\2") for i in (1, 2, 3)),
    *(
        (rf"features\.{2 * i + 1}\.(\d+)\.{theirs}", rf"stages.{i}.blocks.\1.{ours}")
        for i in range(4)
        for theirs, ours in (
            (r"block\.0\.(\w+)", r"conv_dw.\2"),
            (r"block\.2\.(\w+)", r"norm.\2"),
            (r"block\.3\.(\w+)", r"mlp.fc1.\2"),
            (r"block\.5\.(\w+)", r"mlp.fc2.\2"),
            ("layer_scale", "gamma"),
        )
    ),
    (r"classifier\.0\.(\w+)", r"head.norm.\1"),
    (r"downsample_layers\.0\.([01])\.(\w+)", r"stem.\1.\2"),  # ConvNeXt as released
    (r"downsample_layers\.(\d)\.([01])\.(\w+)", r"stages.\1.downsample.\2.\3"),
    (r"embeddings\.patch_embeddings\.(weight|bias)", r"stem.0.\1"),  # ConvNeXt of Hugging Face
    (r"embeddings\.layernorm\.(\w+)", r"stem.1.\1"),
    (r"encoder\.stages\.(\d)\.downsampling_layer\.([01])\.(\w+)", r"stages.\1.downsample.\2.\3"),
    *(
        (rf"(?:encoder\.)?stages\.(\d)\.(?:layers\.)?(\d+)\.{theirs}", rf"stages.\1.blocks.\2.{ours}")
        for theirs, ours in (
            (r"dwconv\.(\w+)", r"conv_dw.\3"),
            (r"(?:layer)?norm\.(\w+)", r"norm.\3"),
            (r"pwconv(\d)\.(\w+)", r"mlp.fc\3.\4"),
            (r"(?:gamma|layer_scale_parameter)", "gamma"),
        )
    ),
    (r"_conv_(stem|head)\.weight", r"conv_\1.weight"),  # efficientnet-pytorch
    (r"_bn0\.(\w+)", r"bn1.\1"),
    (r"_bn1\.(\w+)", r"bn2.\1"),
)
# Layers of a block in efficientnet-pytorch -> timm's: in the first stage, and in all others.
_FLAT_BLOCK = re.compile(r"_blocks\.(\d+)\._(\w+)\.(\w+)")
_FLAT_FIRST = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_FLAT_OTHER = {
    "expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2", "project_conv": "conv_pwl",
    "bn2": "bn3",
}  # fmt: skip


def theirs(ours: str) -> str:
    """Name in the file of our parameter: stage1_block2/norm1/scale -> layer1.1.bn1.weight, counted from 0."""
    for pattern, name in (*_RESNET, *_VIT, *_EFFICIENTNET, *_CONVNEXT):
        match = re.fullmatch(pattern, ours)
        if match:
            *front, last = re.sub(r"\{(\d+)\}", lambda m: str(int(m[1]) - 1), match.expand(name)).split(".")
            return ".".join([*front, _LAST.get(last, last)])
    raise errors.BadInput(f"config.encoder.weights: {ours} has no counterpart under the names of torchvision or timm")


def is_head(name: str) -> bool:
    """Whether this is a tensor of a classifier layer."""
    return _HEADS.fullmatch(name) is not None


def is_unused(name: str) -> bool:
    """Whether a network has this tensor without using it for features."""
    return is_head(name) or _UNUSED.fullmatch(name) is not None


def unwrapped(tree: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """(tensors of the encoder without the names of wrappers, names of the tensors beside it)."""
    tensors, outside = _tensors(tree), []
    while prefix := next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in tensors)), None):
        outside += [name for name in tensors if not name.startswith(prefix)]
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return tensors, outside


def _tensors(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, wherever it holds them."""
    while nested := next((tree[key] for key in _NESTED if isinstance(tree.get(key), dict)), None):
        tree = nested
    return {name: value for name, value in tree.items() if isinstance(value, np.ndarray)}


def classifier_of(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of the classifier layer, "weight" and "bias", in or beside the encoder; {} if there are none."""
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in _tensors(tree).items():
        while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""):
            name = name.removeprefix(prefix)
        if is_head(name):
            layer, _, part = name.rpartition(".")
            by_layer.setdefault(layer, {})[part] = tensor
    complete = (parts for parts in by_layer.values() if parts.keys() == {"weight", "bias"})
    return next(complete, {})


def canonical(tensors: dict[str, np.ndarray], ours: Iterable[str]) -> dict[str, np.ndarray]:
    """Tensors under the names of torchvision or timm; separate queries, keys and values become one tensor.

    Args:
      ours: names of our parameters, which say how many blocks each stage has.
    """
    blocks = sorted({tuple(map(int, match)) for name in ours for match in re.findall(r"stage(\d+)_block(\d+)/", name)})
    renamed = {_renamed(name, blocks): value for name, value in tensors.items()}
    if "norm_pre.weight" in renamed and "conv1.weight" in renamed:  # CLIP; else it is a residual network's
        renamed["patch_embed.proj.weight"] = renamed.pop("conv1.weight")
    if "stem.0.weight" in renamed:  # ConvNeXt, whose last norm has the name of a transformer's
        renamed = {re.sub(r"^norm\.", "head.norm.", name): value for name, value in renamed.items()}
    return _with_joined_attention({name: _in_timm_shape(name, value) for name, value in renamed.items()})


def _in_timm_shape(name: str, value: np.ndarray) -> np.ndarray:
    """A token as (1, 1, d), positions as (1, n, d), factors of channels as (d,)."""
    if name == "cls_token":
        return value.reshape(1, 1, -1)
    if name == "pos_embed" and value.ndim == 2:
        return value[None]
    return value.reshape(-1) if name.endswith(".gamma") else value


def _renamed(name: str, blocks: list[tuple[int, ...]]) -> str:
    flat = _FLAT_BLOCK.fullmatch(name)
    if flat and int(flat[1]) < len(blocks):
        stage, block = blocks[int(flat[1])]
        layer = (_FLAT_FIRST if stage == 1 else _FLAT_OTHER).get(flat[2], flat[2])
        return f"blocks.{stage - 1}.{block - 1}.{layer}.{flat[3]}"
    for pattern, new in _RENAMED:
        if match := re.fullmatch(pattern, name):
            return match.expand(new)
    return name


def _with_joined_attention(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    joined = dict(tensors)
    for first, *following in (("query", "key", "value"), ("q_proj", "k_proj", "v_proj")):
        for name in [name for name in tensors if f".attn.{first}." in name]:
            parts = [name, *(name.replace(f".attn.{first}.", f".attn.{part}.") for part in following)]
            if all(part in tensors for part in parts):
                values = [joined.pop(part) for part in parts]
                joined[name.replace(f".{first}.", ".qkv.")] = np.concatenate(values)
    return joined
