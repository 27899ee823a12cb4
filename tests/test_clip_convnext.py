"""CLIP's image tower and ConvNeXt compared with timm for equal weights; names of the other libraries."""

import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from lt_jax import models
from lt_jax.core import errors
from lt_jax.models import convnext, vit, weights
from lt_jax.models.weights import formats, network

CONVNEXT = convnext.ConvNeXt((1, 1, 2, 1), (8, 16, 24, 32))
CLIP = {gelu: vit.ViT(2, depth=2, width=8, patch=8, norm_before=True, epsilon=1e-5, gelu=gelu) for gelu in vit._GELU}


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [  # as timm 1.0.31 counts them, without the classifier
        ("convnext_tiny", 27_820_128, 768),
        ("clip_base16", 85_799_424, 768),
        ("openclip_base32", 87_456_000, 768),
    ],
)
def test_parameter_counts(name, parameters, features):
    network = models.build(common.encoder(name, 64), "float32")
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    out, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    assert out.shape == (2, features)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters


def shapes_of(network, side):
    return jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def tensors_of(variables):
    """Weights under timm's names, each drawn from the normal distribution (0, .3) by its name."""
    tensors = {}
    for path, like in jax.tree_util.tree_flatten_with_path(variables)[0]:
        name = weights.theirs("/".join(str(key.key) for key in path[1:]))
        turn = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(like.shape), range(len(like.shape)))
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        tensors[name] = generator.normal(0, 0.3, [like.shape[i] for i in turn]).astype(np.float32)
    return tensors


# Features in timm 1.0.31 with PyTorch 2.13 on a CPU for the same weights and image: the first four, their sum, and the
# sum of their squares. Sides of 75 pixels do not fill the last patches.
REFERENCE = {
    ("convnext", 64): (0.321651, -0.085119, 0.278943, -0.056943, 2.243169, 5.4317229),
    ("convnext", 75): (0.326165, -0.086001, 0.27965, -0.064139, 2.2518849, 5.4526238),
    ("quick", 40): (0.484532, -0.141588, -0.614313, -0.436895, -0.1722371, 2.1970551),
    ("exact", 40): (0.485058, -0.140873, -0.614999, -0.436948, -0.1674652, 2.1961949),
}


@pytest.mark.parametrize(("name", "side"), REFERENCE)
def test_features_for_equal_weights(name, side, tmp_path, fixed_image):
    network = CONVNEXT if name == "convnext" else CLIP[name]
    variables = shapes_of(network, side)
    np.savez(tmp_path / "w.npz", **tensors_of(variables))
    features = jax.jit(network.apply)(weights.load(str(tmp_path / "w.npz"), variables), fixed_image(side))[0]
    *first, total, squares = REFERENCE[name, side]
    np.testing.assert_allclose(features[:4], first, rtol=1e-4, atol=1e-5)
    assert float(features.sum()) == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert float((features**2).sum()) == pytest.approx(squares, rel=1e-4)


# Names of timm -> those of another library, in order; and what that library has besides.
CONVNEXT_NAMES = {
    "torchvision": (
        {
            r"stem\.(\d)": r"features.0.\1", "conv_dw": "block.0", r"\.norm\.": ".block.2.",
            r"stages\.(\d)\.downsample\.(\d)": lambda m: f"features.{2 * int(m[1])}.{m[2]}",
            r"stages\.(\d)\.blocks": lambda m: f"features.{2 * int(m[1]) + 1}",
            r"mlp\.fc1": "block.3", r"mlp\.fc2": "block.5", "gamma": "layer_scale", r"head\.block\.2": "classifier.0",
        },
        {"classifier.2.weight": np.zeros((5, 32), np.float32), "classifier.2.bias": np.zeros(5, np.float32)},
    ),
    "hugging_face": (
        {
            r"^stem\.0": "embeddings.patch_embeddings", r"^stem\.1": "embeddings.layernorm",
            r"downsample\.": "downsampling_layer.", r"^stages": "encoder.stages", "blocks": "layers",
            "conv_dw": "dwconv", r"^head\.norm": "layernorm", r"\.norm\.": ".layernorm.", r"mlp\.fc": "pwconv",
            "gamma": "layer_scale_parameter", "^": "convnext.",
        },
        {"classifier.weight": np.zeros((5, 32), np.float32), "classifier.bias": np.zeros(5, np.float32)},
    ),
    "released": (
        {
            r"^stem": "downsample_layers.0", r"^stages\.(\d)\.downsample": r"downsample_layers.\1", r"blocks\.": "",
            "conv_dw": "dwconv", r"^head\.": "", r"mlp\.fc": "pwconv",
        },
        {"head.weight": np.zeros((5, 32), np.float32), "head.bias": np.zeros(5, np.float32)},
    ),
}  # fmt: skip
CLIP_NAMES = {
    "openclip": (
        {
            "^cls_token": "class_embedding", "^pos_embed": "positional_embedding", r"^patch_embed\.proj": "conv1",
            "^norm_pre": "ln_pre", r"^norm\.": "ln_post.", "^blocks": "transformer.resblocks",
            r"attn\.qkv\.": "attn.in_proj_", r"attn\.proj": "attn.out_proj", r"\.norm(\d)": r".ln_\1",
            r"mlp\.fc1": "mlp.c_fc", r"mlp\.fc2": "mlp.c_proj", "^": "visual.",
        },
        {"visual.proj": np.zeros((16, 10), np.float32), "logit_scale": np.float32(1)[None]},
    ),
    "hugging_face": (
        {
            "^cls_token": "embeddings.class_embedding", "^pos_embed": "embeddings.position_embedding.weight",
            r"^patch_embed\.proj": "embeddings.patch_embedding", "^norm_pre": "pre_layrnorm",
            r"^norm\.": "post_layernorm.", "^blocks": "encoder.layers", r"attn\.proj": "self_attn.out_proj",
            r"\.norm(\d)": r".layer_norm\1", "^": "vision_model.",
        },
        {"vision_model.embeddings.position_ids": np.arange(26)[None], "text_model.final_layer_norm.bias": np.zeros(16)},
    ),
}  # fmt: skip


def renamed(tensors, patterns):
    new = {}
    for name, x in tensors.items():
        for old, theirs in patterns.items():
            name = re.sub(old, theirs, name)
        new[name] = x
    return new


@pytest.mark.parametrize("library", CONVNEXT_NAMES)
def test_names_of_convnext(library, tmp_path):
    variables = shapes_of(CONVNEXT, 64)
    tensors = tensors_of(variables)
    patterns, extra = CONVNEXT_NAMES[library]
    theirs = renamed(tensors, patterns)
    if library == "torchvision":
        theirs = {name: x[:, None, None] if name.endswith("layer_scale") else x for name, x in theirs.items()}
    assert not set(theirs) & set(tensors)
    np.savez(tmp_path / "w.npz", **tensors)
    np.savez(tmp_path / "theirs.npz", **theirs, **extra)
    loaded = [weights.load(str(tmp_path / file), variables) for file in ("w.npz", "theirs.npz")]
    jax.tree.map(np.testing.assert_array_equal, *loaded)


@pytest.mark.parametrize("library", CLIP_NAMES)
def test_names_of_clip(library, tmp_path):
    variables = shapes_of(CLIP["quick"], 40)
    tensors = tensors_of(variables)
    patterns, extra = CLIP_NAMES[library]
    flat = {**tensors, "cls_token": tensors["cls_token"].ravel(), "pos_embed": tensors["pos_embed"][0]}
    theirs = renamed(flat, patterns)
    if library == "hugging_face":
        for name in [name for name in theirs if "attn.qkv" in name]:
            for part, x in zip("qkv", np.split(theirs[name], 3), strict=True):
                theirs[name.replace("attn.qkv", f"self_attn.{part}_proj")] = x
            del theirs[name]
    np.savez(tmp_path / "w.npz", **tensors)
    np.savez(tmp_path / "theirs.npz", **theirs, **extra)
    loaded = [weights.load(str(tmp_path / file), variables) for file in ("w.npz", "theirs.npz")]
    jax.tree.map(np.testing.assert_array_equal, *loaded)


@pytest.mark.parametrize("name", ["convnext_tiny", "clip_base16"])
def test_torch_initialisation_and_experts_are_refused(name):
    config = common.encoder(name, 64)
    with pytest.raises(errors.BadInput, match=f"config.baseline.experts: expected 1 for {name}"):
        models.build(config, "float32", experts=3)
    config.init = "torch"
    with pytest.raises(errors.BadInput, match=f"config.encoder.init: expected he for {name}"):
        models.build(config, "float32")


@pytest.mark.parametrize(
    ("file", "encoder", "expected"),
    [
        ("w.npz", "convnext_tiny", "convnext_tiny"),
        ("openai.npz", "clip_base32", "clip_base32"),
        ("laion2b.npz", "clip_base16", "openclip_base16"),
    ],
)
@pytest.mark.parametrize("library", ["timm", "hugging_face"])
def test_the_network_follows_from_the_tensors(file, encoder, expected, library, tmp_path, monkeypatch):
    variables = shapes_of(models.build(common.encoder(encoder, 64), "float32"), 224)
    tensors = {}
    for path, like in jax.tree_util.tree_flatten_with_path(variables)[0]:
        turn = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(like.shape), range(len(like.shape)))
        shape = [like.shape[i] for i in turn]
        tensors[weights.theirs("/".join(str(key.key) for key in path[1:]))] = np.broadcast_to(np.float32(0), shape)
    if library == "hugging_face":
        patterns = (CONVNEXT_NAMES if "convnext" in encoder else CLIP_NAMES)[library][0]
        tensors = renamed(tensors, patterns)
    (tmp_path / file).touch()
    monkeypatch.setattr(formats, "read", lambda path: tensors)
    assert network.of_file(str(tmp_path / file)) == {"name": expected}
