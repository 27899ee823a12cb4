"""BCE3S: its parts by hand and as the authors' code computes them, its step, and the recipe from end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lt_jax
from configs import common, digits_lt
from lt_jax import losses, models
from lt_jax.augment import mix
from lt_jax.core import errors
from lt_jax.models import projectors, vit
from lt_jax.run import config as config_lib
from lt_jax.train import mixed_steps, state, steps

CLASSES = losses.Classes.of(np.array([40, 12, 5, 2, 1]))


def test_mixed_labels_by_hand():
    """Of two classes with a part of the label each is attracted by its part, the third is repelled."""
    logits = jnp.array([[1.0, -2.0, 0.5]])
    softplus = [np.log1p(np.exp(x)) for x in (-1.0, 2.0, 0.5)]
    expected = 0.3 * softplus[0] + 0.7 * softplus[1] + softplus[2]
    np.testing.assert_allclose(losses.mixed_bce(logits, jnp.array([[0.3, 0.7, 0.0]])), [expected], rtol=1e-6)
    whole = jnp.eye(3)[jnp.array([1])]
    np.testing.assert_allclose(
        losses.mixed_bce(logits, whole),
        losses.sigmoid_bce(logits, jnp.array([1]), losses.Classes.of(np.ones(3))),
        rtol=1e-6,
    )


def test_uniformity_by_hand():
    """Orthogonal vectors: every cosine but the own one is 0. The gradient drives equal vectors apart."""
    expected = np.log1p(np.exp(-1)) + 2 * np.log(2)
    assert float(losses.uniformity(3.0 * jnp.eye(3))) == pytest.approx(expected, rel=1e-6)
    kernel = jax.random.normal(jax.random.key(0), (4, 3))
    gradient = jax.grad(losses.uniformity)(kernel)
    step = 1e-3 * jax.random.normal(jax.random.key(1), kernel.shape)
    difference = losses.uniformity(kernel + step) - losses.uniformity(kernel - step)
    assert float(difference) == pytest.approx(2 * float((gradient * step).sum()), rel=2e-2)


def test_the_last_image_of_a_class_is_remembered():
    memory = jnp.full((4, 2), -1.0)
    embeddings = jnp.arange(6.0).reshape(3, 2)
    remembered = losses.remembered(memory, embeddings, jnp.array([2, 0, 2]))
    np.testing.assert_array_equal(remembered, [[2.0, 3.0], [-1.0, -1.0], [4.0, 5.0], [-1.0, -1.0]])


def test_the_whole_loss_is_that_of_the_authors_code():
    """WakingHours-GitHub/BCE3S (head.py) with all negatives, in PyTorch 2.13: 7.201868 in the first epoch, then
    7.746091; the uniformity alone is 3.114519."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(0, 1, shape).astype(np.float32)

    features, labels = normal(18, 8), np.array([0, 1, 1, 2, 4, 0])
    targets = np.eye(5, dtype=np.float32)[labels]
    soft = np.float32(0.3) * targets + (1 - np.float32(0.3)) * targets[[3, 0, 5, 1, 2, 4]]
    head = {"kernel": normal(5, 8).T, "bias": normal(5)}
    first = {"kernel": normal(8, 8).T, "bias": normal(8)}
    second = {"kernel": normal(4, 8).T, "bias": normal(4)}
    memory = normal(5, 4)
    memory /= np.linalg.norm(memory, axis=1, keepdims=True)
    logits = projectors.UnitKernel(5).apply({"params": head}, features)
    embeddings = projectors.Projector((8, 4)).apply({"params": {"Dense_0": first, "Dense_1": second}}, features)
    plain = losses.sigmoid_bce(logits[:6], jnp.asarray(labels), CLASSES)
    mixed = losses.mixed_bce(logits[6:], jnp.tile(soft, (2, 1))).reshape(2, 6).sum(axis=0)
    uniformity = losses.uniformity(jnp.asarray(head["kernel"]))
    likeness = losses.mixed_bce(embeddings[6:] @ memory.T, jnp.tile(soft, (2, 1))).reshape(2, 6).sum(axis=0).mean()
    without = ((plain + mixed) / 3).mean() + uniformity
    assert float(uniformity) == pytest.approx(3.114519, rel=1e-5)
    assert float(without) == pytest.approx(7.201868, rel=1e-5)
    assert float(without + 0.1 * likeness) == pytest.approx(7.746091, rel=1e-5)


@pytest.mark.slow
def test_the_recipe_from_training_to_the_classifier(tmp_path, run_main, tiny):
    words = ("--config=configs/digits_lt.py:smoke,method=bce3s", "--config.baseline.epochs=2")
    small = (
        "--config.encoder.width=4",
        "--config.baseline.contrastive_projector=(16,8)",
        "--config.heads=('crt','unit_bce')",
    )
    assert run_main(tiny[-1], *words, *small, f"--workdir={tmp_path}") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["methods"]) == ["bce3s", "crt", "unit_bce"] and result["final"] == "bce3s"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first = [line["likeness_loss"] for line in lines if line["epoch"] <= 1]
    second = [line["likeness_loss"] for line in lines if line["epoch"] > 1]
    assert set(first) == {0.0} and min(second) > 0  # the memory is collected in the first epoch
    probabilities = lt_jax.load(tmp_path).predict(np.zeros((2, 8, 8, 3), np.uint8))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_what_it_cannot_be_combined_with_is_one_line():
    config = digits_lt.get_config("smoke")
    config.baseline.update(tripartite=0.1)
    with pytest.raises(errors.BadInput, match="config.baseline.head: expected 'unit_kernel' with baseline.tripartite"):
        config_lib.validate(config)
    config.baseline.update(head="unit_kernel", contrastive="bcl")
    with pytest.raises(errors.BadInput, match="config.baseline.contrastive: expected '' with baseline.tripartite"):
        config_lib.validate(config)


def test_a_step_adds_the_parts_and_the_likeness_only_after_the_first_epoch():
    """Without augmentation; the mixes are drawn again from the key of the step."""
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
    labels = jnp.array([0, 1, 1, 2, 4, 0])
    network = projectors.Network(vit.ViT(1, 1, 4, "small"), projectors.UnitKernel(5))
    projector = projectors.Projector((8, 4))
    variables = models.initialise(network, jax.random.key(0), (8, 8, 3))
    params = {**variables["params"], "projector": projector.init(jax.random.key(1), jnp.zeros((1, 4)))["params"]}
    variables, memory = {**variables, "params": params}, jax.random.normal(jax.random.key(2), (5, 4))
    as_is = common.augment(crop_scale=1.0, flip=0.0, strength=0.0, grey=0.0, blur=False)
    parts = mixed_steps.Tripartite(projector, losses.sigmoid_bce, 0.1, 2.0, first_epoch=1)
    step = jax.jit(mixed_steps.tripartite(network, optax.sgd(0.1), as_is, parts))
    fresh = state.create(variables, optax.sgd(0.1), memory=memory)
    held = {"images": images, "labels": labels, "key": jnp.zeros(2, jnp.uint32), "classes": CLASSES}

    @jax.jit
    def by_hand(number):
        """(loss, embeddings of the images that are not mixed)."""
        _, k_mix, _ = steps.step_keys(held, number, 3)
        plain = images[:, None] / 255.0
        mixed, soft = mix.both(k_mix, jnp.repeat(plain, 2, axis=1), jax.nn.one_hot(labels, 5), alpha=1.0)
        views = jnp.concatenate([plain, mixed], axis=1).reshape(18, 8, 8, 3)
        features = network.apply(variables, views, method="features")
        logits = projectors.UnitKernel(5).apply({"params": params["head"]}, features).reshape(6, 3, 5)
        embeddings = projector.apply({"params": params["projector"]}, features).reshape(6, 3, 4)
        each = losses.sigmoid_bce(logits[:, 0], labels, CLASSES)
        each = (each + losses.mixed_bce(logits[:, 1:], soft[:, None]).sum(axis=1)) / 3
        likeness = losses.mixed_bce(jnp.matmul(embeddings[:, 1:], memory.T), soft[:, None]).sum(axis=1).mean()
        uniformity = losses.uniformity(params["head"]["kernel"])
        return each.mean() + jnp.where(number > 0, 0.1 * likeness, 0.0) + 2.0 * uniformity, embeddings[:, 0]

    for number in (0, 1):
        new, metrics = step(fresh.replace(step=jnp.int32(number)), held, jnp.arange(6))
        loss, plain = by_hand(number)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        expected = np.stack([plain[5], plain[2], plain[3], memory[3], plain[4]])  # the last image of each class
        np.testing.assert_allclose(new.memory, expected, rtol=1e-4, atol=1e-5)
