"""DINOv2 compared with timm and Hugging Face for equal weights, at the size of its positions and at other sizes."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from lt_jax import models
from lt_jax.core import errors
from lt_jax.models import vit, weights
from lt_jax.models.weights import positions


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [  # as released, for 518 pixels; without the token of masked pretraining
        ("dinov2_small", 22_056_576 - 384, 384),
        ("dinov2_base", 86_580_480 - 768, 768),
        ("dinov2_small_registers", 22_058_112 - 384, 384),
        ("dinov2_base_registers", 86_583_552 - 768, 768),
    ],
)
def test_parameter_counts(name, parameters, features):
    network = models.build(common.encoder(name, 64), "float32")
    images = jax.ShapeDtypeStruct((2, 518, 518, 3), jnp.float32)
    out, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    assert out.shape == (2, features)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters


def tiny(registers, side):
    """A DINOv2 of two blocks and 16 channels, and the shapes of its variables."""
    network = vit.ViT(2, depth=2, width=8, patch=14, scaled=True, registers=registers)
    return network, jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    )


def tensors_of(variables, registers):
    """Weights under timm's names for 5 x 5 patches, each drawn from the normal distribution (0, .3) by its name."""
    tensors = {}
    for path, like in jax.tree_util.tree_flatten_with_path(variables)[0]:
        name = weights.theirs("/".join(str(key.key) for key in path[1:]))
        turn = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(like.shape), range(len(like.shape)))
        shape = [like.shape[i] for i in turn]
        if name == "pos_embed":
            shape = (1, 25 if registers else 26, 16)  # with registers timm has no position for the class token
        tensors[name] = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.3, shape).astype(np.float32)
    return tensors


# Features of the class token in PyTorch 2.13 on a CPU for the same weights and image: the first four, their sum, and
# the sum of their squares. With registers timm 1.0.31, else Hugging Face transformers 5.24.0: they differ in the
# interpolation of positions, and each is what was released. 5 x 5 patches have side 70.
REFERENCE = {
    (0, 70): (-0.424707, -0.130292, -0.625105, -0.440729, -1.2621093, 1.7852852),
    (0, 42): (-0.425336, -0.129843, -0.623611, -0.440005, -1.2772427, 1.7854519),
    (0, 98): (-0.423840, -0.130382, -0.625761, -0.440918, -1.2557123, 1.7841837),
    (4, 70): (-0.382414, -0.155655, -0.609597, -0.447612, -0.8589241, 1.7455039),
    (4, 42): (-0.391967, -0.154819, -0.607960, -0.446915, -0.8989421, 1.7585001),
    (4, 98): (-0.378252, -0.156051, -0.610314, -0.447865, -0.8420925, 1.7400424),
}


@pytest.mark.parametrize(("registers", "side"), REFERENCE)
def test_features_for_equal_weights(registers, side, tmp_path, fixed_image):
    network, variables = tiny(registers, side)
    np.savez(tmp_path / "w.npz", **tensors_of(variables, registers))
    loaded = weights.load(str(tmp_path / "w.npz"), variables)
    features = jax.jit(network.apply)(loaded, fixed_image(side))[0]
    *first, total, squares = REFERENCE[registers, side]
    np.testing.assert_allclose(features[:4], first, rtol=1e-4, atol=1e-5)
    assert float(features.sum()) == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert float((features**2).sum()) == pytest.approx(squares, rel=1e-4)


def dinov2_of_hugging_face(tensors):
    """The tensors as Hugging Face names them, with separate queries, keys and values."""
    renamed = {"embeddings.mask_token": np.zeros((1, 16), np.float32)}
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "reg_token": "embeddings.register_tokens", "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "encoder.layer.", "attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }  # fmt: skip
    for name, x in tensors.items():
        new = f"layernorm.{name[5:]}" if name.startswith("norm.") else name
        for timm, theirs in names.items():
            new = new.replace(timm, theirs)
        if "attn.qkv" not in new:
            renamed[new] = x
            continue
        for part, value in zip(("query", "key", "value"), np.split(x, 3), strict=True):
            renamed[new.replace("attn.qkv", f"attention.attention.{part}")] = value
    return renamed


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("form", ["hugging_face", "released"])
def test_names_of_hugging_face_and_of_the_release(form, registers, tmp_path):
    _, variables = tiny(registers, 70)
    tensors = tensors_of(variables, 0)
    np.savez(tmp_path / "w.npz", **tensors)
    if form == "released":
        theirs = {name.replace("reg_token", "register_tokens"): x for name, x in tensors.items()}
        theirs["mask_token"] = np.zeros((1, 16), np.float32)
    else:
        theirs = dinov2_of_hugging_face(tensors)
    np.savez(tmp_path / "theirs.npz", **theirs)
    loaded = [weights.load(str(tmp_path / file), variables) for file in ("w.npz", "theirs.npz")]
    jax.tree.map(np.testing.assert_array_equal, *loaded)


def test_positions_of_another_grid():
    """A linear function is kept (by PyTorch's cubic with a = -.75 only within .05), and so is the class token."""
    grid = np.arange(8, dtype=np.float32)
    values = np.concatenate([[[9.0]], (grid[:, None] + 0 * grid[None]).reshape(1, -1, 1)[0]])[None].astype(np.float32)
    for antialias, tolerance in ((True, 1e-5), (False, 0.05)):
        np.testing.assert_array_equal(positions.resized(values, 65, antialias), values)
        larger = positions.resized(values, 257, antialias)
        assert larger.shape == (1, 257, 1) and larger[0, 0, 0] == 9.0
        rows = larger[0, 1:, 0].reshape(16, 16)
        np.testing.assert_allclose(rows[4:12, 3], (np.arange(4, 12) + 0.5) / 2 - 0.5, atol=tolerance)
    with pytest.raises(ValueError, match="only square images"):
        positions.resized(values, 60, True)


def test_an_image_that_is_not_square_is_refused_in_one_line(tmp_path):
    network = vit.ViT(2, depth=2, width=8, patch=14, scaled=True)
    images = jax.ShapeDtypeStruct((1, 42, 70, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    np.savez(tmp_path / "w.npz", **tensors_of(variables, 0))
    with pytest.raises(errors.BadInput, match=r"'pos_embed' in .*w.npz: only square images have positions"):
        weights.load(str(tmp_path / "w.npz"), variables)


def test_torch_initialisation_is_refused():
    config = common.encoder("dinov2_small", 64)
    config.init = "torch"
    with pytest.raises(errors.BadInput, match="config.encoder.init: expected he for dinov2_small"):
        models.build(config, "float32")
