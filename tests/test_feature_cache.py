"""Features of a frozen encoder on disk: one pass, resumed after a kill, never used for another input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from configs import common
from lt_jax import data, models
from lt_jax.core import errors
from lt_jax.models import weights
from lt_jax.run import config as config_lib
from lt_jax.train import cache


class Extractor:
    """Stands for the feature pass: the features of an image are its first pixels. Counts the images that it sees."""

    def __init__(self, fails_after=None):
        self.seen, self.fails_after = 0, fails_after

    def batches(self, variables, images):
        for start in range(0, len(images), 3):
            if self.fails_after is not None and self.seen >= self.fails_after:
                raise KeyboardInterrupt
            batch = images[start : start + 3]
            self.seen += len(batch)
            yield batch[:, 0, :2, 0].astype(np.float32) * variables, None


IMAGES = np.random.default_rng(0).integers(0, 256, (22, 4, 4, 3)).astype(np.uint8)
FEATURES = IMAGES[:, 0, :2, 0].astype(np.float16)


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch):
    monkeypatch.setattr(cache, "PART", 5)


def test_a_complete_pass_is_not_repeated(tmp_path):
    run = functools.partial(cache.features, epath.Path(tmp_path), "train", images=IMAGES, variables=1.0)
    first, again = Extractor(), Extractor()
    features = run(key="a", extractor=first)
    assert features.dtype == np.float16 and isinstance(features, np.memmap) and first.seen == 22
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(run(key="a", extractor=again), FEATURES)
    assert again.seen == 0
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == ["train.features.npy", "train.json"]


@pytest.mark.parametrize("fails_after", [0, 4, 11, 20])
def test_a_killed_pass_resumes(fails_after, tmp_path):
    run = functools.partial(cache.features, epath.Path(tmp_path), "train", "a", images=IMAGES, variables=1.0)
    with pytest.raises(KeyboardInterrupt):
        run(extractor=Extractor(fails_after))
    second = Extractor()
    np.testing.assert_array_equal(run(extractor=second), FEATURES)
    done = -(-fails_after // 3) * 3 // 5 * 5
    assert second.seen == 22 - done


def test_another_key_computes_anew_and_removes_what_another_pass_has_left(tmp_path):
    run = functools.partial(cache.features, epath.Path(tmp_path), "train", images=IMAGES)
    run(key="a", extractor=Extractor(), variables=1.0)
    with pytest.raises(KeyboardInterrupt):
        run(key="b", extractor=Extractor(11), variables=2.0)
    np.testing.assert_array_equal(run(key="a", extractor=Extractor(0), variables=1.0), FEATURES)
    np.testing.assert_array_equal(run(key="c", extractor=Extractor(), variables=0.5), FEATURES / 2)
    assert not list((tmp_path / "features").glob("*.parts-*"))


def test_what_float16_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(errors.RunFailed, match="a feature of train is not finite, or too large for float16"):
        cache.features(epath.Path(tmp_path), "train", "a", Extractor(), 1e6, IMAGES)


def test_the_key_depends_on_images_weights_and_preprocessing():
    config = common.base()
    config.encoder = common.encoder("resnet_small", 4)
    arguments = {"image_shape": (8, 8, 3), "view": "centre", "images": "1", "weights": "2"}
    keys = [cache.key(config, **arguments)]
    changes = {"image_shape": (9, 9, 3), "view": "whole", "images": "3", "weights": "4"}
    keys += [cache.key(config, **{**arguments, name: value}) for name, value in changes.items()]
    config.encoder.mean = (0.5,)
    keys.append(cache.key(config, **arguments))
    config.encoder.mean = ()
    config.encoder.weights = "elsewhere/w.npz"  # the digest of the content counts
    assert len(set(keys)) == 6 and cache.key(config, **arguments) == keys[0]


def saved_encoder(path, seed):
    """Writes random weights of the tiny encoder and returns its network and variables."""
    network = models.classifier(common.encoder("resnet_small", 4), 10, "float32")
    variables = models.initialise(network, jax.random.key(seed), (8, 8, 3))
    tensors = {}
    for kind in ("params", "batch_stats"):
        for key_path, x in jax.tree_util.tree_flatten_with_path(variables[kind]["encoder"])[0]:
            name = weights.theirs("/".join(str(key.key) for key in key_path))
            tensors[name] = np.transpose(x, (3, 2, 0, 1)) if x.ndim == 4 else np.asarray(x)
    np.savez(path, **tensors)
    return network, variables


@pytest.mark.slow
@pytest.mark.parametrize("images", ["held", "decoded"])
def test_the_stage_features_uses_the_frozen_encoder(images, run_main, tiny, tmp_path, capsys):
    file, run = tmp_path / "w.npz", tmp_path / "run"
    if images == "decoded":
        small = {"name": "resnet_small", "stem": "small", "width": 4}
        tiny = ("--config=configs/folder.py:smoke", "--config.data.workers=0", "--config.data.image_size=8")
        tiny += tuple(f"--config.encoder.{key}={value}" for key, value in small.items())
    words = (*tiny, "--config.stages=('features',)", f"--config.encoder.weights={file}", f"--workdir={run}")
    stored = []
    for seed in (0, 1) if images == "held" else (0,):
        network, variables = saved_encoder(file, seed)
        assert run_main(*words) == 0
        features, labels = np.load(run / "features/train.features.npy"), np.load(run / "features/train.labels.npy")
        assert features.dtype == np.float16 and len(features) == len(labels) > 20
        stored.append(features)
        assert np.isfinite(features).all() and features.shape[1] == 16
        if images == "held":
            train = data.load(config_lib.from_command_line(["lt_jax", *tiny])[0].data).train.images
            expected = network.apply(variables, jnp.asarray(train, jnp.float32) / 255, method="features")
            np.testing.assert_allclose(features.astype(np.float32), expected, rtol=2e-3, atol=2e-3)
    if images == "held":
        assert not np.array_equal(*stored)  # other weights under the same name
    assert run_main(*words) == 0
    assert "features: complete" in capsys.readouterr().err


def test_features_that_were_replaced_are_not_those_of_the_old_key(tmp_path, monkeypatch):
    run = functools.partial(cache.features, epath.Path(tmp_path), "train", images=IMAGES)
    run(key="a", extractor=Extractor(), variables=1.0)
    write_json = cache.files.write_json
    monkeypatch.setattr(cache.files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(key="b", extractor=Extractor(), variables=2.0)
    monkeypatch.setattr(cache.files, "write_json", write_json)
    np.testing.assert_array_equal(run(key="a", extractor=Extractor(), variables=1.0), FEATURES)
