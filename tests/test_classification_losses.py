"""Losses of classifiers: the released code of their authors on the same numbers, hand-worked cases, gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.metrics import log_loss

from lt_jax import losses, methods
from lt_jax.stages import baseline
from lt_jax.train import steps

CLASSES = losses.Classes.of(np.array([500, 120, 30, 5]))
LOGITS = jnp.asarray((np.arange(24).reshape(6, 4) * 7) % 11 / 5.0 - 1.0, jnp.float32)
LABELS = jnp.array([0, 1, 2, 3, 0, 2])

# Means over LOGITS and LABELS by the released PyTorch code, run on a CPU: kaidic/LDAM-DRW (losses.py),
# orparask/VS-Loss (class_imbalance/losses.py), dvlab-research/MiSLAS (methods.py), WakingHours-GitHub/BCE3S (head.py).
RELEASED = {
    "focal(gamma=2.0)": 1.5955071449279785,
    "vs(gamma=0.3, tau=1.0)": 2.566296339035034,
    "label_aware_smoothing(head=0.4, tail=0.1)": 1.9377886056900024,
    "sigmoid_bce": 3.4574315547943115,
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_code_gives_the_same(name):
    each = methods.entry("SUPERVISED", name, "loss")(LOGITS, LABELS, CLASSES)
    assert float(each.mean()) == pytest.approx(RELEASED[name], rel=1e-5)


def test_ldam_and_deferred_weights_are_those_of_the_released_code():
    """The released loss takes cosines and multiplies by 30 itself; ours takes the logits of a cosine head."""
    each = losses.ldam(30.0 * LOGITS / 2, LABELS, CLASSES)
    assert float(each.mean()) == pytest.approx(28.41351890563965, rel=1e-5)
    weights = losses.effective_number_weights(np.array([500, 120, 30, 5]))
    released = [0.033631730739439175, 0.1375082023081908, 0.5475661794744594, 3.2812938874779105]
    np.testing.assert_allclose(weights, released, rtol=1e-5)
    assert float(steps._weighted_mean(each, LABELS, weights)) == pytest.approx(27.21648406982422, rel=1e-5)
    plain = losses.cross_entropy(LOGITS, LABELS)
    assert float(steps._weighted_mean(plain, LABELS, weights)) == pytest.approx(1.7244553565979004, rel=1e-5)
    soft = steps._weighted_mean(plain, jax.nn.one_hot(LABELS, 4), weights)
    assert float(soft) == pytest.approx(1.7244553565979004, rel=1e-5)


@pytest.mark.parametrize("name", methods.SUPERVISED)
def test_gradients_against_finite_differences(name):
    loss = methods.SUPERVISED[name]
    check_grads(lambda x: loss(x, LABELS, CLASSES).sum(), (LOGITS,), 1, modes=["rev"], rtol=2e-2, atol=1e-2, eps=3e-2)
    soft = jax.nn.softmax(LOGITS[::-1])
    check_grads(lambda x: loss(x, soft, CLASSES).sum(), (LOGITS,), 1, modes=["rev"], rtol=2e-2, atol=1e-2, eps=3e-2)


def test_losses_that_are_cross_entropy_at_their_neutral_option():
    expected = losses.cross_entropy(LOGITS, LABELS)
    for name in (
        "focal(gamma=0.0)", "ldam(max_margin=0.0)", "vs(gamma=0.0, tau=0.0)", "logit_adjustment(tau=0.0)",
        "label_aware_smoothing(head=0.0, tail=0.0)",
    ):  # fmt: skip
        each = methods.entry("SUPERVISED", name, "loss")(LOGITS, LABELS, CLASSES)
        np.testing.assert_allclose(each, expected, rtol=1e-5, err_msg=name)


def test_focal_by_hand():
    """p = 1/4 of four equal logits: (3/4)^2 log 4."""
    each = losses.focal(jnp.zeros((1, 4)), jnp.array([2]), CLASSES, gamma=2.0)
    np.testing.assert_allclose(each, [9 / 16 * np.log(4)], rtol=1e-6)


def test_ldam_by_hand():
    """Counts 16 and 1 have margins 1/4 and 1/2 at max_margin 1/2; only the logit of the label falls."""
    classes = losses.Classes.of(np.array([16, 1]))
    each = losses.ldam(jnp.zeros((2, 2)), jnp.array([0, 1]), classes, scale=4.0)
    np.testing.assert_allclose(each, [np.log1p(np.exp(1.0)), np.log1p(np.exp(2.0))], rtol=1e-6)


def test_label_aware_smoothing_of_equal_classes_is_that_of_the_tail():
    classes = losses.Classes.of(np.array([7, 7]))
    each = losses.label_aware_smoothing(jnp.array([[1.0, 0.0]]), jnp.array([0]), classes, head=0.4, tail=0.1)
    np.testing.assert_allclose(each, [np.log1p(np.exp(-1.0)) + 0.05], rtol=1e-6)


def test_sigmoid_bce_by_hand_and_by_scikit_learn():
    """Logit 0 costs log 2 as a positive and as a negative."""
    np.testing.assert_allclose(losses.sigmoid_bce(jnp.zeros((1, 4)), jnp.array([2]), CLASSES), [4 * np.log(2)])
    each = losses.sigmoid_bce(LOGITS, LABELS, CLASSES)
    binary, p = np.eye(4)[LABELS], np.asarray(jax.nn.sigmoid(LOGITS), np.float64)
    np.testing.assert_allclose(
        each, [4 * log_loss(y, x, labels=[0, 1]) for y, x in zip(binary, p, strict=True)], rtol=1e-5
    )
    soft = losses.sigmoid_bce(jnp.array([[0.0, 2.0]]), jnp.array([[0.25, 0.75]]), losses.Classes.of(np.ones(2)))
    np.testing.assert_allclose(soft, [np.log(2) + np.log1p(np.exp(2)) - 0.75 * 2], rtol=1e-6)


@pytest.mark.parametrize(("negatives", "count"), [(0.5, 2), (1, 1), (3, 3), (0.01, 1), (1.0, 4), (9, 4)])
def test_the_number_of_negatives_of_each_image(negatives, count):
    """All logits are 0, so each of the positive and the negatives costs log 2."""
    classes = losses.Classes.of(np.array([1_000_000, 50, 50, 1, 0]))
    each = losses.sigmoid_bce(jnp.zeros((5, 5)), jnp.arange(5), classes, key=jax.random.key(0), negatives=negatives)
    np.testing.assert_allclose(each, (1 + count) * np.log(2) * np.ones(5), rtol=1e-6)


def test_negatives_are_drawn_less_often_the_rarer_they_are_than_the_class_of_the_image():
    """Of one negative: for an image of class 0, weights .5 and .1; for one of class 2 no class is rarer: 1 and 1."""
    classes = losses.Classes.of(np.array([100, 50, 10]))
    z, labels = jnp.zeros((20000, 3)), jnp.repeat(jnp.array([0, 2]), 10000)
    each = jax.grad(lambda x: losses.sigmoid_bce(x, labels, classes, key=jax.random.key(1), negatives=1).sum())(z)
    shares = np.asarray(each > 0).reshape(2, 10000, 3).mean(axis=1)
    np.testing.assert_allclose(shares, [[0, 5 / 6, 1 / 6], [0.5, 0.5, 0]], atol=0.02)
    one = losses.sigmoid_bce(LOGITS, LABELS, CLASSES, key=jax.random.key(0), negatives=2)
    assert np.abs(one - losses.sigmoid_bce(LOGITS, LABELS, CLASSES, key=jax.random.key(1), negatives=2)).max() > 0
    np.testing.assert_array_equal(one, losses.sigmoid_bce(LOGITS, LABELS, CLASSES, key=jax.random.key(0), negatives=2))


def test_sampled_negatives_have_the_right_gradient_and_bear_extreme_counts():
    classes, key = losses.Classes.of(np.array([1_000_000, 1, 0, 7])), jax.random.key(0)

    def total(x):
        return losses.sigmoid_bce(x, LABELS, classes, key=key, negatives=0.5).sum()

    check_grads(total, (LOGITS,), 1, modes=["rev"], rtol=2e-2, atol=1e-2, eps=3e-2)
    assert np.isfinite(jax.grad(total)(1e4 * LOGITS)).all()
    mixed = jnp.array([[0.5, 0.5, 0.0, 0.0]])  # two positives, so two of the other classes are all there are
    each = losses.sigmoid_bce(jnp.zeros((1, 4)), mixed, classes, key=key, negatives=2)
    np.testing.assert_allclose(each, [4 * np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("negatives", [0, -1, 1.5, True])
def test_a_wrong_number_of_negatives_or_a_missing_key_is_an_error(negatives):
    with pytest.raises(ValueError, match="negatives: expected a share up to 1.0 or a number of classes"):
        losses.sigmoid_bce(LOGITS, LABELS, CLASSES, negatives=negatives)
    with pytest.raises(ValueError, match="negatives=0.5: expected the argument `key`"):
        losses.sigmoid_bce(LOGITS, LABELS, CLASSES, negatives=0.5)


def test_an_empty_class_has_a_finite_weight():
    weights = losses.effective_number_weights(np.array([10, 0]))
    assert np.isfinite(weights).all() and weights.mean() == pytest.approx(1.0)


def test_weights_are_deferred_by_a_share_of_the_epochs():
    sizes = {"epochs": 10.0, "steps": 0, "batch_size": 4}
    settings = type("Settings", (), {"reweight": "effective_number", "reweight_from": 0.8, **sizes})
    assert (baseline.classes_at(CLASSES, settings, 7).weights == 1).all()
    late = baseline.classes_at(CLASSES, settings, 8).weights
    np.testing.assert_array_equal(late, losses.effective_number_weights(CLASSES.counts))
    settings.steps = 5 * math.ceil(int(np.sum(CLASSES.counts)) / 4)  # five epochs
    assert (baseline.classes_at(CLASSES, settings, 3).weights == 1).all()
    np.testing.assert_array_equal(baseline.classes_at(CLASSES, settings, 4).weights, late)
    settings.reweight = ""
    assert baseline.classes_at(CLASSES, settings, 9) is CLASSES


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_gradient_where_an_image_is_certain(gamma):
    logits = jnp.array([[200.0, 0.0, 0.0], [0.0, 17.0, 0.0]])
    labels = jnp.array([0, 1])
    loss, gradient = jax.value_and_grad(lambda x: losses.focal(x, labels, CLASSES, gamma=gamma).sum())(logits)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    if gamma == 0:
        plain = jax.grad(lambda x: losses.cross_entropy(x, labels, CLASSES).sum())(logits)
        np.testing.assert_allclose(gradient, plain, atol=1e-6)


def test_effective_numbers_at_their_limit():
    weights = losses.effective_number_weights(np.array([8, 2]), beta=1.0)
    np.testing.assert_allclose(weights, [0.4, 1.6])
    np.testing.assert_allclose(weights, losses.effective_number_weights(np.array([8, 2]), beta=1 - 1e-7), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ldam_drw", "drw"])
def test_recipes_with_weights_and_a_cosine_head_run(recipe, tmp_path, run_main, tiny):
    import lt_jax

    words = (f"--config=configs/digits_lt.py:smoke,method={recipe}", "--config.baseline.epochs=2", tiny[-1])
    assert run_main(*words, f"--workdir={tmp_path}") == 0
    classifier = lt_jax.load(tmp_path)
    probabilities = classifier.predict(np.zeros((2, 8, 8, 3), np.uint8))
    assert probabilities.shape == (2, 10) and np.isfinite(probabilities).all()
