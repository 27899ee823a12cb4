"""Files of weights: their formats, the names in them, and the errors that they give."""

import collections
import hashlib
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lt_jax
from configs import common
from lt_jax import data, models
from lt_jax.core import errors
from lt_jax.models import resnet, vit, weights
from lt_jax.models.weights import known
from lt_jax.run import config as config_lib
from lt_jax.run import inputs


def scattered(module, side=8):
    """Random variables of an encoder."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.3, 0.9, x.shape).astype(np.float32), shapes)


RESNET = scattered(resnet.ResNet((1, 1), 4))
VIT = scattered(vit.ViT(2, depth=2, width=4, stem="small"))


def exported(variables):
    """The variables under the names and in the layout of torchvision or timm."""
    tensors = collections.OrderedDict()
    for path, value in jax.tree_util.tree_flatten_with_path(variables)[0]:
        turn = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim))
        tensors[weights.theirs("/".join(str(key.key) for key in path[1:]))] = np.transpose(value, tuple(turn))
    return tensors


def write(path, tensors):
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        from safetensors import numpy as safetensors

        safetensors.save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    return str(path)


def equal(loaded, expected, rtol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol), loaded, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_other_precisions_become_float32(ending, dtype, tmp_path):
    tensors = {name: x.astype(dtype) for name, x in exported(RESNET).items()}
    if ending == "safetensors" and dtype is ml_dtypes.bfloat16:
        (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(tensors))
        path = str(tmp_path / "w.safetensors")
    else:
        path = write(tmp_path / f"w.{ending}", tensors)
    loaded = weights.load(path, RESNET)
    equal(loaded, RESNET, rtol=2.0**-8)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(loaded))


def safetensors_bytes(tensors, kind="BF16"):
    """A .safetensors file by its definition."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": kind, "shape": x.shape, "data_offsets": (at, at + x.nbytes)}
        at += x.nbytes
    text = json.dumps(header).encode()
    numbers = b"".join(np.ascontiguousarray(x).tobytes() for x in tensors.values())
    return len(text).to_bytes(8, "little") + text + numbers


def hugging_face(tensors, prefix="vit."):
    """The tensors of a ViT as Hugging Face names them, with separate queries, keys and values."""
    renamed = {}
    for name, x in tensors.items():
        name = re.sub(r"^cls_token", "embeddings.cls_token", name)
        name = re.sub(r"^pos_embed", "embeddings.position_embeddings", name)
        name = re.sub(r"^patch_embed\.proj", "embeddings.patch_embeddings.projection", name)
        name = re.sub(r"^norm\.", "layernorm.", name)
        name = re.sub(r"^blocks\.", "encoder.layer.", name)
        for timm, theirs in HUGGING_FACE.items():
            name = name.replace(timm, theirs)
        if ".attn.qkv." in name:
            for part, value in zip(("query", "key", "value"), np.split(x, 3), strict=True):
                renamed[prefix + name.replace(".attn.qkv.", f".attention.attention.{part}.")] = value
        else:
            renamed[prefix + name] = x
    return renamed


HUGGING_FACE = {
    ".attn.proj.": ".attention.output.dense.", ".mlp.fc1.": ".intermediate.dense.", ".mlp.fc2.": ".output.dense.",
    ".norm1.": ".layernorm_before.", ".norm2.": ".layernorm_after.",
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["vit.", "deit.", ""])
def test_names_of_hugging_face(prefix, tmp_path, capsys):
    tensors = hugging_face(exported(VIT), prefix)
    tensors[f"{prefix}pooler.dense.weight"] = np.zeros((8, 8), np.float32)
    tensors["classifier.weight"] = np.zeros((1000, 8), np.float32)
    equal(weights.load(write(tmp_path / "model.safetensors", tensors), VIT), VIT)
    assert "'classifier.weight'" in capsys.readouterr().err


def test_names_of_transformers_5(tmp_path):
    tensors = {}
    for name, x in hugging_face(exported(VIT)).items():
        name = name.replace("encoder.layer.", "layers.").replace("attention.attention.", "attention.")
        for old, new in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output.dense", "o_proj")):
            name = name.replace(f"attention.{old}.", f"attention.{new}.")
        tensors[name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")] = x
    assert any("o_proj" in name for name in tensors) and any(".mlp.fc2." in name for name in tensors)
    equal(weights.load(write(tmp_path / "model.safetensors", tensors), VIT), VIT)


def test_a_head_of_another_class_count_is_ignored_in_words(tmp_path, capsys):
    tensors = {**exported(RESNET), "fc.weight": np.zeros((365, 8), np.float32), "fc.bias": np.zeros(365, np.float32)}
    equal(weights.load(write(tmp_path / "w.npz", tensors), RESNET), RESNET)
    assert "w.npz: the classifier layer 'fc.weight' of 365 classes is no part of the encoder" in capsys.readouterr().err


def refusal(path, variables=RESNET):
    """The line that this file gives."""
    with pytest.raises(errors.BadInput) as raised:
        weights.load(str(path), variables)
    line = str(raised.value)
    assert line.startswith("config.encoder.weights: ") and "\n" not in line and str(path) in line
    return line


def test_a_missing_and_an_unknown_tensor_are_named_with_the_nearest_name(tmp_path):
    tensors = exported(RESNET)
    tensors["layer2.0.bn3.weight"] = tensors.pop("layer2.0.bn2.weight")
    line = refusal(write(tmp_path / "w.npz", tensors))
    assert "has no tensor 'layer2.0.bn2.weight', which stage2_block1/norm2/scale needs" in line
    assert "(the nearest name is 'layer2.0.bn3.weight')" in line
    tensors["layer2.0.bn2.weight"] = tensors["layer2.0.bn3.weight"]
    line = refusal(write(tmp_path / "w.npz", tensors))
    assert "holds 'layer2.0.bn3.weight' that this encoder does not have (the nearest name is 'layer2.0.bn" in line


def test_a_misshapen_tensor_is_named(tmp_path):
    tensors = {**exported(RESNET), "conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}
    line = refusal(write(tmp_path / "w.npz", tensors))
    assert "'conv1.weight' in" in line and "shape (4, 3, 7, 7)" in line and "stem/kernel needs (3, 3, 3, 4)" in line


def test_broken_safetensors_and_unknown_endings_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    content = safetensors_bytes({"conv1.weight": np.zeros(3, np.float16)}, "F16")
    for broken in (b"", content[:4], content[:20], content[:-1], (2**60).to_bytes(8, "little") + content[8:]):
        file.write_bytes(broken)
        assert "cannot be read" in refusal(file)
    file.write_bytes(safetensors_bytes({"conv1.weight": np.zeros(3, np.uint8)}, "F8_E4M3"))
    assert "'conv1.weight' is of type F8_E4M3, which is not supported" in refusal(file)
    (tmp_path / "w.h5").write_bytes(b"x")
    assert "expected a file .safetensors .npz .pt .pth" in refusal(tmp_path / "w.h5")
    assert "no file" in refusal(tmp_path / "nothing.pth")


LITE = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.mark.parametrize(
    ("name", "stem", "file", "expected"),
    [
        ("resnet50", "imagenet", "w.pth", {**known.IMAGENET, "size": 224, "resample": "bilinear"}),
        ("resnet18", "small", "w.pth", {}),
        ("efficientnet_lite2", "small", "w.pth", {**LITE, "size": 260, "resample": "bicubic"}),
        ("vit_small", "imagenet", "google/model.safetensors", {**HALF, "size": 224, "resample": "bicubic"}),
        ("dinov2_base", "small", "w.pth", {**known.IMAGENET, "size": 224, "resample": "bicubic"}),
    ],
)
def test_the_images_of_known_weights(name, stem, file, expected, tmp_path):
    assert known.images_of(common.encoder(name, 64, stem), str(tmp_path / file)) == expected


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("preprocessor_config.json", {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "crop_size": {"height": 384}}),
        ("preprocessor_config.json", {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": 384}),
        (
            "preprocessor_config.json",
            {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": 384, "resample": 3},
        ),
        ("config.json", {"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 384, 384]}}),
        (
            "config.json",
            {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 384, 384], "interpolation": "bicubic"},
        ),
    ],
)
def test_a_file_beside_the_weights_says_what_the_images_were(file, content, tmp_path):
    (tmp_path / file).write_text(json.dumps(content))
    about = known.images_of(common.encoder("vit_small", 64), str(tmp_path / "model.safetensors"))
    resample = {"resample": "bicubic"} if {"resample", "interpolation"} & set(content) else {}
    assert about == {"mean": (0.1,) * 3, "std": (0.2,) * 3, "size": 384, **resample}


def test_the_lite_networks_of_timm_with_other_padding_are_refused(tmp_path):
    encoder, file = common.encoder("efficientnet_lite0", 64), str(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "tf_efficientnet_lite0"}))
    assert known.images_of(encoder, file)["size"] == 224
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "efficientnet_lite0"}))
    with pytest.raises(errors.BadInput, match="is timm's efficientnet_lite0, .* expected tf_efficientnet_lite0"):
        known.images_of(encoder, file)


def test_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package, (_, module, inside) = "efficientnet_lite1", known.PACKAGES["efficientnet_lite1"]
    file = tmp_path / module / inside
    file.parent.mkdir(parents=True)
    (tmp_path / module / "__init__.py").write_text("raise RuntimeError('imported')\n")
    file.write_bytes(b"weights")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert str(known.file_of(package)) == str(file)
        config = common.base()
        config.encoder = common.encoder(package, 64)
        config.encoder.weights = package
        assert inputs.weights_digest(config) == hashlib.sha256(b"weights").hexdigest()


def settled(words):
    from lt_jax.run import command

    return command.parse(["lt_jax", "--config=configs/folder.py:scratch", *words])[0]


def test_normalisation_and_size_come_from_the_weights_unless_they_are_set(tmp_path, capsys):
    plain = settled([])
    assert (plain.encoder.mean, plain.encoder.std, plain.data.image_size) == ((0.0,), (1.0,), 224)
    words = [f"--config.encoder.weights={tmp_path / 'w.pth'}", "--config.encoder.name=efficientnet_lite1"]
    config = settled(words)
    assert config.encoder.mean == (127 / 255,) * 3 and config.encoder.std == (128 / 255,) * 3
    assert config.data.image_size == 240
    assert "config.encoder.mean is 0.498 0.498 0.498, as the weights were trained" in capsys.readouterr().err
    explicit = settled([*words, "--config.encoder.mean=(0.25,)", "--config.data.image_size=64"])
    assert explicit.encoder.mean == (0.25,) and explicit.encoder.std == (128 / 255,) * 3
    assert explicit.data.image_size == 64
    assert models.classifier(common.encoder("resnet_small", 4), 3, "float32").mean == (0.0,)


def released(network_variables):
    """A checkpoint under the names of the code released with BNS + IP-DPP."""
    encoder = {kind: network_variables[kind]["encoder"] for kind in ("params", "batch_stats")}
    tensors = {f"enc.{name.replace('downsample', 'shortcut')}": x for name, x in exported(encoder).items()}
    dense = network_variables["params"]["head"]["dense"]
    return tensors | {"lin.weight": np.asarray(dense["kernel"]).T, "lin.bias": np.asarray(dense["bias"])}


def test_a_checkpoint_is_evaluated_with_its_own_classifier(tiny, run_main, tmp_path):
    network = models.classifier(common.encoder("resnet_small", 4), 10, "float32")
    variables = models.initialise(network, jax.random.key(3), (8, 8, 3))
    bias = np.random.default_rng(1).normal(size=10).astype(np.float32)
    variables["params"]["head"]["dense"]["bias"] = bias
    file = write(tmp_path / "w.npz", released(variables))
    words = (
        *tiny, "--config.stages=('baseline','heads','evaluate','report')", f"--config.encoder.weights={file}",
        "--config.baseline.trainable=none", "--config.heads=('tau_norm','logit_adjustment','nearest_class_mean')",
        f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert run_main(*words) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["methods"]) == ["loaded", "tau_norm", "nearest_class_mean"] and result["final"] == "loaded"
    assert result["methods"]["loaded"]["title"] == "As it was loaded"
    images = data.load(config_lib.from_command_line(["lt_jax", *tiny])[0].data).test.images
    logits = network.apply(variables, jnp.asarray(images, jnp.float32) / 255)
    np.testing.assert_allclose(np.load(tmp_path / "run" / "predictions.npz")["logits"], logits, rtol=1e-4, atol=1e-4)
    probabilities = lt_jax.load(tmp_path / "run", "loaded").predict(images[:4])
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits[:4]), rtol=1e-3, atol=1e-4)


def test_a_classifier_of_other_classes_or_none_is_one_line(tmp_path):
    network = models.classifier(common.encoder("resnet_small", 4), 10, "float32")
    variables = models.initialise(network, jax.random.key(3), (8, 8, 3))
    head = variables["params"]["head"]
    width = head["dense"]["kernel"].shape[0]
    tensors = released(variables)
    file = write(tmp_path / "w.npz", {f"module.{name}": x for name, x in tensors.items()})
    equal(weights.load_classifier(file, head), head)
    other = jax.tree.map(lambda x: np.zeros((*x.shape[:-1], 7), np.float32), head)
    with pytest.raises(errors.BadInput, match=rf"has shape \(10, {width}\); expected one of 7 classes on {width} feat"):
        weights.load_classifier(file, other)
    bare = write(tmp_path / "bare.npz", {name: x for name, x in tensors.items() if not name.startswith("lin")})
    with pytest.raises(errors.BadInput, match="bare.npz has no classifier layer; expected one of 10 classes"):
        weights.load_classifier(bare, head)
