"""Encoders compared with their published definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import common
from lt_jax import models as encoder
from lt_jax.core import errors
from lt_jax.models import convolution, resnet, vit, weights


def options(name, width=64, stem="small"):
    return common.encoder(name, width, stem)


def shapes(config, side=32):
    network = encoder.build(config, "float32")
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("name", "width", "parameters", "features"),
    [
        # Counts of torchvision with a 3x3 stem instead of 7x7, without the last layer: 11,689,512 - 513,000 - 7,680.
        ("resnet18", 64, 11_168_832, 512),
        ("resnet34", 64, 21_276_992, 512),  # 21,797,672 - 513,000 - 7,680
        ("resnet32", 16, 463_504, 64),  # 464,154 in the CIFAR experiments, minus a last layer of 650
    ],
)
def test_parameter_counts(name, width, parameters, features):
    out, variables = shapes(options(name, width))
    assert out.shape == (2, features)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [  # counts of torchvision and timm, minus the last layer of 1000 classes
        ("resnet34", 21_797_672 - 513_000, 512),
        ("resnet50", 25_557_032 - 2_049_000, 2048),
        ("resnet152", 60_192_808 - 2_049_000, 2048),
        ("resnext50", 25_028_904 - 2_049_000, 2048),
        ("vit_small", 22_050_664 - 385_000, 384),
        ("vit_base", 86_567_656 - 769_000, 768),
    ],
)
def test_parameter_counts_of_large_encoders(name, parameters, features):
    out, variables = shapes(options(name, stem="imagenet"), 224)
    assert out.shape == (2, features)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters


def test_unknown_name():
    with pytest.raises(errors.BadInput, match=r"config.encoder.name: expected one of .*resnet18.* found 'resnet19'"):
        encoder.build(options("resnet19"), "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_networks_give_float32_and_unit_embeddings(dtype):
    network = encoder.contrastive(options("resnet_small", 4), (16, 8), dtype)
    variables = encoder.initialise(network, jax.random.key(0), (8, 8, 3))
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8, 3))
    out = jax.jit(network.apply)(variables, images)
    assert out.dtype == jnp.float32 and out.shape == (5, 8)
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=1), 1.0, rtol=1e-5)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))


def test_initialise_gives_the_shapes_of_flax():
    network = encoder.classifier(options("resnet_small", 4), 3, "float32")
    variables = encoder.initialise(network, jax.random.key(0), (8, 8, 3))
    whole = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda x: x.shape, whole)
    features = network.apply(variables, jnp.ones((2, 8, 8, 3)), method="features")
    assert features.shape == (2, 16)


# Reference blocks in NumPy, as loops over the definitions, with random weights and running statistics.


def scattered(module, *arguments):
    """Returns random variables of a module that all differ from their initial values."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.3, 0.9, x.shape).astype(np.float32) * rng.choice([-1, 1]), shapes)


def conv(x, kernel, stride=1, groups=1):
    side = kernel.shape[0]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    h, w = ((n - side) // stride + 1 for n in x.shape[1:3])
    rows, each = x.shape[-1] // groups, kernel.shape[-1] // groups
    out = np.zeros((len(x), h, w, kernel.shape[-1]))
    for g in range(groups):
        for i, j in np.ndindex(h, w):
            patch = x[:, i * stride : i * stride + side, j * stride : j * stride + side, g * rows : (g + 1) * rows]
            out[:, i, j, g * each : (g + 1) * each] = np.tensordot(patch, kernel[..., g * each : (g + 1) * each], 3)
    return out


def batch_norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


@pytest.mark.parametrize("groups", [1, 2])
def test_bottleneck_against_numpy(groups):
    block = resnet.Bottleneck(2, 2, "project", jnp.float32, groups=groups, inner=2.0)
    x = np.random.default_rng(1).normal(size=(2, 5, 5, 4)).astype(np.float32)
    variables = scattered(block, x, False)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    p, s = variables["params"], variables["batch_stats"]
    y = np.maximum(batch_norm(conv(x, p["conv1"]["kernel"]), p["norm1"], s["norm1"]), 0)
    y = np.maximum(batch_norm(conv(y, p["conv2"]["kernel"], 2, groups), p["norm2"], s["norm2"]), 0)
    y = batch_norm(conv(y, p["conv3"]["kernel"]), p["norm3"], s["norm3"])
    short = batch_norm(conv(x, p["conv_shortcut"]["kernel"], 2), p["norm_shortcut"], s["norm_shortcut"])
    np.testing.assert_allclose(block.apply(variables, x, False), np.maximum(y + short, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 4)])
def test_unfolded_convolution_equals_the_default(size, side, stride):
    normal = np.random.default_rng(0).normal
    x, kernel = normal(size=(2, *size, 3)).astype("f"), normal(size=(side, side, 3, 5)).astype("f")

    def loss(convolve, x, kernel):
        options = {"use_bias": False, "precision": "highest", "conv_general_dilated": convolve}
        network = nn.Conv(5, (side, side), stride, side // 2, **options)
        y = network.apply({"params": {"kernel": kernel}}, x)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    unfolded, expected = (
        jax.value_and_grad(functools.partial(loss, convolve), (0, 1), has_aux=True)(x, kernel)
        for convolve in (convolution.unfolded, None)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), unfolded, expected)


def layer_norm(x, params):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * params["scale"] + params["bias"]


def dense(x, params):
    return x @ params["kernel"] + params["bias"]


def test_transformer_block_against_numpy():
    from scipy import special

    block, heads, d = vit.Block(2, jnp.float32), 2, 6
    x = np.random.default_rng(1).normal(size=(2, 5, d)).astype(np.float32)
    p = scattered(block, x)["params"]
    q, k, v = (dense(layer_norm(x, p["norm1"]), p["qkv"])[..., i * d : (i + 1) * d] for i in range(3))
    mixed = np.zeros_like(x)
    for h in range(heads):
        part = slice(h * d // heads, (h + 1) * d // heads)
        scores = np.einsum("bnd,bmd->bnm", q[..., part], k[..., part]) / np.sqrt(d // heads)
        mixed[..., part] = special.softmax(scores, axis=-1) @ v[..., part]
    y = x + dense(mixed, p["proj"])
    hidden = dense(layer_norm(y, p["norm2"]), p["fc1"])
    y = y + dense(0.5 * hidden * (1 + special.erf(hidden / np.sqrt(2))), p["fc2"])
    np.testing.assert_allclose(block.apply({"params": p}, x), y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "make", [functools.partial(resnet.ResNet, (1,), 2), functools.partial(vit.ViT, 1, 1, 2, "small")]
)
def test_remat_does_not_change_the_gradient(make):
    grads = []
    for remat in (False, True):
        network = make(remat=remat)
        x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
        variables = jax.jit(network.init)(jax.random.key(0), x)
        stats = {name: value for name, value in variables.items() if name != "params"}

        def loss(params, network=network, x=x, stats=stats):
            return (network.apply({"params": params, **stats}, x) ** 2).sum()

        assert ("remat" in str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))) == remat
        grads.append(jax.jit(jax.grad(loss))(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stem/kernel", "conv1.weight"),
        ("stem_norm/var", "bn1.running_var"),
        ("stage3_block2/norm1/bias", "layer3.1.bn1.bias"),
        ("stage2_block1/conv_shortcut/kernel", "layer2.0.downsample.0.weight"),
        ("stage2_block1/norm_shortcut/mean", "layer2.0.downsample.1.running_mean"),
        ("token", "cls_token"),
        ("patches/bias", "patch_embed.proj.bias"),
        ("block12/qkv/kernel", "blocks.11.attn.qkv.weight"),
        ("block1/norm2/scale", "blocks.0.norm2.weight"),
        ("norm/scale", "norm.weight"),
    ],
)
def test_names_of_torchvision_and_timm(ours, theirs):
    assert weights.theirs(ours) == theirs


def exported(variables):
    """Returns the variables under the names and in the layout of torchvision or timm, with an unused last layer."""
    tensors = {"fc.weight": np.zeros((10, 4), np.float32)}
    for path, value in jax.tree_util.tree_flatten_with_path(variables)[0]:
        turn = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim))
        name = weights.theirs("/".join(str(key.key) for key in path[1:]))
        tensors[name] = np.ascontiguousarray(np.transpose(value, tuple(turn)))
    return tensors


@pytest.mark.parametrize(("name", "ending"), [("resnet50", "safetensors"), ("resnext50", "npz"), ("vit_small", "npz")])
def test_weights_of_a_file_are_loaded(name, ending, tmp_path):
    from safetensors import numpy as safetensors

    network = encoder.classifier(options(name, {"resnet50": 4, "resnext50": 16, "vit_small": 1}[name]), 3, "float32")
    stored = scattered(network.encoder, jnp.zeros((1, 8, 8, 3)))
    path = str(tmp_path / f"w.{ending}")
    safetensors.save_file(exported(stored), path) if ending == "safetensors" else np.savez(path, **exported(stored))
    variables = jax.eval_shape(lambda: encoder.initialise(network, jax.random.key(0), (8, 8, 3)))
    own = {kind: variables[kind]["encoder"] for kind in stored}
    jax.tree.map(np.testing.assert_array_equal, weights.load(path, own), stored)


def test_errors_name_the_tensor_or_file_that_does_not_fit(tmp_path):
    network = encoder.classifier(options("resnet_small", 4), 3, "float32")
    tensors = exported(scattered(network.encoder, jnp.zeros((1, 8, 8, 3))))
    start = functools.partial(encoder.initialise, network, jax.random.key(0), (8, 8, 3))

    def message_for(**change):
        np.savez(tmp_path / "w.npz", **{k: v for k, v in {**tensors, **change}.items() if v is not None})
        with pytest.raises(errors.BadInput) as raised:
            start(str(tmp_path / "w.npz"))
        return str(raised.value)

    assert "has no tensor 'conv1.weight', which stem/kernel needs" in message_for(**{"conv1.weight": None})
    wrong_shape = message_for(**{"bn1.bias": np.zeros(5)})
    assert "'bn1.bias' in" in wrong_shape and "needs (4,)" in wrong_shape
    assert "is of type int64, expected floating point" in message_for(**{"bn1.bias": np.zeros(4, np.int64)})
    assert "holds a value that is not finite" in message_for(**{"conv1.weight": tensors["conv1.weight"] * np.nan})
    blocks = {"layer1.1.conv1.weight": np.zeros((4, 4, 3, 3)), "layer1.0.se.fc1.weight": np.zeros((4, 4))}
    assert "holds 'layer1.0.se.fc1.weight' and 1 more tensors that this encoder does not have" in message_for(**blocks)
    for name, content in (("none.npz", None), ("bad.npz", b"nothing"), ("bad.safetensors", b"x" * 20), ("w.pth", b"")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(errors.BadInput, match=f"config.encoder.weights: .*{name}"):
            start(str(tmp_path / name))


def test_the_classifier_layer_and_counters_are_ignored(tmp_path):
    network = encoder.classifier(options("resnet_small", 4), 3, "float32")
    tensors = exported(scattered(network.encoder, jnp.zeros((1, 8, 8, 3))))
    counters = {"bn1.num_batches_tracked": np.array(7), "layer1.0.bn1.num_batches_tracked": np.array(7)}
    np.savez(tmp_path / "w.npz", **tensors, **counters, **{"fc.bias": np.zeros(10)})
    loaded = encoder.initialise(network, jax.random.key(0), (8, 8, 3), str(tmp_path / "w.npz"))
    stem = np.transpose(tensors["conv1.weight"], (2, 3, 1, 0))
    np.testing.assert_array_equal(loaded["params"]["encoder"]["stem"]["kernel"], stem)


def test_torch_initialisation_is_uniform_by_fan_in():
    config = options("resnet_small", 16)
    plain, torch = config, config.copy_and_resolve_references()
    torch.init = "torch"
    both = []
    for changed in (plain, torch):
        network = encoder.contrastive(changed, (32, 16), "float32")
        both.append(encoder.initialise(network, jax.random.key(0), (8, 8, 3))["params"])
    he, params = both
    conv = np.asarray(params["encoder"]["stage1_block1"]["conv2"]["kernel"])  # 3x3 of 16 channels: fan-in 144
    assert np.abs(conv).max() <= 144**-0.5 and conv.std() == pytest.approx((3 * 144) ** -0.5, rel=0.05)
    ratio = np.asarray(he["encoder"]["stage1_block1"]["conv2"]["kernel"]).std() / conv.std()
    assert ratio == pytest.approx(6**0.5, rel=0.1)  # 2.45
    dense, fan_in = params["head"]["Dense_0"], 64
    assert np.asarray(dense["kernel"]).std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
    assert 0 < np.abs(dense["bias"]).max() <= fan_in**-0.5
    assert (params["encoder"]["stem_norm"]["scale"] == 1).all() and (params["encoder"]["stem_norm"]["bias"] == 0).all()
    transformer = options("vit_small", 1)
    transformer.init = "torch"
    with pytest.raises(errors.BadInput, match=r"config.encoder.init: expected he for vit_small"):
        encoder.build(transformer, "float32")


def test_images_are_normalised_with_mean_and_std():
    config = options("resnet_small", 4)
    variables = encoder.initialise(encoder.classifier(config, 3, "float32"), jax.random.key(0), (8, 8, 3))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    config.update(mean=mean, std=std)
    ours = encoder.classifier(config, 3, "float32").apply(variables, images)
    plain = encoder.classifier(options("resnet_small", 4), 3, "float32")
    np.testing.assert_allclose(
        ours,
        plain.apply(variables, (np.asarray(images) - np.array(mean, np.float32)) / np.array(std, np.float32)),
        rtol=1e-4,
    )
