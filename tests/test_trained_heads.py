"""Heads that are trained: their formulas by hand, isotonic norms against scikit-learn, options, extreme counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.isotonic import isotonic_regression

from lt_jax import heads, losses, methods
from lt_jax.core import errors
from lt_jax.heads import norms, scaling, trained_cosine, training
from lt_jax.losses import negatives

COUNTS = np.array([300, 60, 10])
CLASSES = losses.Classes.of(COUNTS)
SHORT = training.Settings(epochs=1.0, batch_size=256)
TRAINED = (
    "linear",
    "crt",
    "balanced_linear",
    "cosine_mean",
    "maxnorm",
    "samn",
    "adapter",
    "bns_adapter",
    "rooted_linear",
)


def clusters(counts, seed=0):
    """(features, labels) of clusters in four dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    return (2.0 * np.eye(len(counts), 4)[labels] + rng.normal(size=(len(labels), 4))).astype(np.float32), labels


def fitted(name, features, labels, classes=CLASSES, **options):
    return methods.HEADS[name](jax.random.key(0), features, labels, classes, **options)


def rare(head):
    """Share of the rarest class that a head recognises on balanced data."""
    test, labels = clusters([200] * 3, seed=2)
    return (np.asarray(head(test)).argmax(axis=1) == 2)[labels == 2].mean()


@pytest.mark.parametrize("name", ["cosine_mean", "maxnorm", "adapter", "bns_adapter", "samn(tau=1.0)", "rooted_linear"])
def test_balanced_heads_recognise_the_rare_class(name):
    features, labels = clusters(COUNTS)
    head = methods.entry("HEADS", name, "heads")(jax.random.key(0), features, labels, CLASSES, steps=300)
    assert rare(head) > 0.5 > 0.45 > rare(fitted("linear", features, labels))


@pytest.mark.parametrize("name", ["cosine_mean", "adapter", "bns_adapter"])
def test_without_training_it_is_the_nearest_class_mean(name):
    features, labels = clusters(COUNTS)
    head = fitted(name, features, labels, learning_rate=0.0, scale=8.0, steps=2)
    plain = fitted("nearest_class_mean", features, labels)
    np.testing.assert_allclose(head(features), 8.0 / plain.scale * plain(features), atol=1e-4)


def test_the_cosine_head_by_hand():
    head = heads.Cosine(
        means=np.array([[1.0, 0.0], [0.0, 1.0]]),
        centre=np.array([1.0, 1.0]),
        present=np.array([True, False]),
        deviation=np.array([[1.0, 2.0]]),
        scale=5.0,
    )
    np.testing.assert_allclose(head(np.array([[4.0, 9.0]])), [[3.0, -10.0]])  # (3, 4) / 5


def test_the_sigmoid_head_by_hand():
    """Three full batches of SGD with momentum, all other classes as negatives."""
    features, labels = clusters(np.array([6, 3, 2]))
    classes = losses.Classes.of(np.array([6, 3, 2]))
    rng = np.random.default_rng(1)
    initial = heads.Linear(rng.normal(size=(4, 3)), rng.normal(size=3))
    head = fitted(
        "unit_bce", features, labels, classes, initial=initial, negatives=1.0, beta=0.9, learning_rate=0.3, epochs=3.0
    )
    weights = 0.1 / (1 - 0.9 ** np.array([6, 3, 2]))
    weights = (weights / weights.mean())[labels] / len(labels)
    kernel = initial.kernel
    bias = initial.bias / np.linalg.norm(kernel, axis=0)
    kernel_velocity, bias_velocity = np.zeros_like(kernel), np.zeros_like(bias)
    for step in range(3):
        rate = 0.3 * (1 + np.cos(np.pi * step / 3)) / 2
        norms = np.linalg.norm(kernel, axis=0, keepdims=True)
        directions = kernel / norms
        errors_of_logits = 1 / (1 + np.exp(-(features @ directions + bias))) - np.eye(3)[labels]
        gradient = features.T @ (errors_of_logits * weights[:, None])
        gradient = (gradient - directions * (directions * gradient).sum(axis=0)) / norms
        kernel_velocity = 0.9 * kernel_velocity + gradient
        bias_velocity = 0.9 * bias_velocity + (errors_of_logits * weights[:, None]).sum(axis=0)
        kernel = kernel - rate * kernel_velocity
        bias = bias - rate * bias_velocity
    np.testing.assert_allclose(head.kernel, kernel / np.linalg.norm(kernel, axis=0), rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(head.bias, bias, rtol=2e-4, atol=1e-5)


def test_the_sigmoid_head_gives_weight_to_the_rare_class():
    features, labels = clusters(COUNTS)
    initial = fitted("linear", features, labels)
    head = fitted("unit_bce", features, labels, initial=initial, learning_rate=0.03)
    plain = fitted("unit_bce", features, labels, initial=initial, learning_rate=0.03, beta=1e-6, negatives=1.0)
    assert rare(head) > 0.5 > rare(plain)


def test_partners_are_other_items_of_the_class():
    labels = jnp.array([0, 1, 0, 2, 0, 1])
    drawn = np.stack([trained_cosine._of_same_class(jax.random.key(seed), labels) for seed in range(60)])
    np.testing.assert_array_equal(np.asarray(labels)[drawn], np.tile(labels, (60, 1)))
    assert set(drawn[:, 0]) == {2, 4} and set(drawn[:, 2]) == {0, 4} and set(drawn[:, 1]) == {5}
    assert (drawn[:, 3] == 3).all()  # it has no other


def test_bns_of_the_adapter_is_the_loss_of_the_paper():
    """Two items of each of two classes, so that partners are known; the negatives are drawn again from the key."""
    x = jnp.array([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -5.0]])
    labels = jnp.array([0, 0, 1, 1])
    still = {"down": jnp.zeros((2, 3)), "bias": jnp.zeros(3), "up": jnp.ones((3, 2))}
    each = trained_cosine._weighted_bns(still, x, labels, jax.random.key(0), weight=0.5, temperature=1.0, n=40)
    z = np.array([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])

    def log_sigmoid(value):
        return -np.log1p(np.exp(-value))

    _, k_negatives = jax.random.split(jax.random.key(0))
    rows = np.asarray(negatives.sample(k_negatives, labels, labels, 40))
    expected = []
    for own, partner in ((0, 1), (1, 0), (2, 3), (3, 2)):
        repelled = [sum(log_sigmoid(-z[q] @ z[v]) for v in rows[own]) for q in (own, partner)]
        attracted = [log_sigmoid(z[q] @ z[own]) for q in (own, partner)]
        expected.append(-0.5 * np.mean(np.array(repelled) + attracted))
    np.testing.assert_allclose(each, expected, rtol=1e-5)


def test_bns_draws_the_adapted_features_of_a_class_together():
    features, labels = clusters(COUNTS)

    def distances(name, **options):
        head = fitted(name, features, labels, steps=200, learning_rate=0.01, weight_decay=0.0, **options)
        x = scaling.unit((features - head.centre[None]) / head.deviation)
        adapted = scaling.unit(x + np.maximum(x @ head.down + head.bias[None], 0) @ head.up)
        return losses.class_distances(jnp.asarray(adapted), jnp.asarray(labels))

    intra, inter = distances("bns_adapter", bns_weight=3.0, tau=0.0)
    plain_intra, plain_inter = distances("bns_adapter", bns_weight=0.0, tau=0.0)
    assert intra / inter < 0.9 * plain_intra / plain_inter


def test_the_adapter_by_hand():
    """x = (3, -4) is adapted by relu(3 - 1) * (0, 4) = (0, 8) to (3, 4); at length 1, times 10."""
    head = heads.Adapted(
        means=np.eye(2), centre=np.zeros(2), present=np.array([True, True]), deviation=np.ones((1, 2)), scale=10.0,
        is_unit=np.bool_(False), down=np.array([[1.0], [0.0]]), bias=np.array([-1.0]), up=np.array([[0.0, 4.0]]),
    )  # fmt: skip
    x = np.array([[3.0, -4.0]])
    np.testing.assert_allclose(head(x), [[6.0, 8.0]])
    np.testing.assert_allclose(head(jnp.asarray(x, jnp.float32)), [[6.0, 8.0]], rtol=1e-6)


def test_the_head_on_roots_by_hand():
    """Roots 2 and -3 less the centre are (1, -3), whitened (2, 0): of unit length it is (1, 0)."""
    head = heads.Rooted(np.array([[5.0], [7.0]]), np.array([0.5]), np.array([1.0, 0.0]), np.diag([2.0, 0.0]))
    np.testing.assert_allclose(head(np.array([[4.0, -9.0]])), [[5.5]])
    np.testing.assert_allclose(head(jnp.array([[4.0, -9.0]])), [[5.5]], rtol=1e-6)


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_no_class_vector_is_longer_than_the_radius(radius):
    features, labels = clusters(COUNTS)
    head = fitted("maxnorm", features, labels, radius=radius, weight_decay=0.0, steps=200)
    lengths = np.linalg.norm(head.kernel, axis=0)
    assert lengths.max() <= radius * (1 + 1e-5) and lengths.max() > 0.99 * radius


def test_weight_decay_shortens_the_class_vectors():
    features, labels = clusters(COUNTS)
    lengths = [
        np.linalg.norm(fitted("maxnorm", features, labels, radius=1e6, weight_decay=decay, steps=200).kernel)
        for decay in (0.0, 5.0)
    ]
    assert lengths[1] < 0.7 * lengths[0]


@pytest.mark.parametrize("seed", range(4))
def test_isotonic_is_that_of_scikit_learn(seed):
    y = np.random.default_rng(seed).normal(size=30).astype(np.float32)
    np.testing.assert_allclose(jax.jit(norms.isotonic)(y), isotonic_regression(y), rtol=1e-5, atol=1e-6)


def test_isotonic_by_hand_and_its_gradient():
    y = jnp.array([1.0, 3.0, 2.0, 0.0, 5.0])
    np.testing.assert_allclose(norms.isotonic(y), [1.0, 5 / 3, 5 / 3, 5 / 3, 5.0], rtol=1e-6)
    gradient = jax.grad(lambda x: norms.isotonic(x)[1])(y)
    np.testing.assert_allclose(gradient, [0, 1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    weights = jnp.array([0.3, -1.0, 2.0, 0.5, 1.5])
    check_grads(lambda x: (weights * norms.isotonic(x) ** 2).sum(), (y,), 1, modes=["rev"], rtol=1e-2, atol=1e-2)


W = ((np.arange(15).reshape(5, 3) * 5) % 7 / 3.0 - 1.1).astype(np.float32)


def test_samn_is_the_released_code():
    """model/PAVA_Linear.py of Zhangshuojackpot/SAMN on the same numbers, run in PyTorch on a CPU."""
    order = tuple(np.argsort([500, 120, 30, 5, 120], kind="stable").tolist())
    params = {
        "directions": W,
        "bias": np.array([0.1, -0.2, 0.3, 0.4, -0.5], np.float32),
        "raw": np.array([0.3, 1.2, -0.4, 0.9, 0.1], np.float32),
        "raw_bias": np.array([0.0, -1.0, 2.0, 0.5, 0.7], np.float32),
    }
    x = ((np.arange(12).reshape(4, 3) * 3) % 5 / 2.0 - 1.0).astype(np.float32)

    def mean_loss(params):
        logits = training.linear_logits(norms.ordered_linear(params, order), x)
        return losses.cross_entropy(logits, jnp.array([0, 3, 4, 2])).mean()

    kernel = norms.ordered_linear(params, order)["kernel"]
    released = [2.7320921421051025, 2.7320921421051025, 3.3559658527374268, 3.3559658527374268, 2.7320921421051025]
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), released, rtol=1e-5)
    loss, gradients = jax.value_and_grad(mean_loss)(jax.tree.map(jnp.asarray, params))
    assert float(loss) == pytest.approx(3.1067888736724854, rel=1e-5)
    gradient = [-0.22911904752254486] * 2 + [-0.606712818145752] * 2 + [-0.22911904752254486]
    np.testing.assert_allclose(gradients["raw"], gradient, rtol=1e-4)
    np.testing.assert_allclose(gradients["raw_bias"], np.zeros(5), atol=1e-6)


def test_the_projection_of_maxnorm_is_the_released_code():
    """utils/regularizers.py of ShadeAlsha/LTR-weight-balancing with a threshold of 1."""
    released = [
        [-0.8860857486724854, 0.4564683735370636, -0.08055324852466583],
        [-0.6361947059631348, 0.7468372583389282, 0.19362448155879974],
        [-0.3305203318595886, -0.8390131592750549, 0.43221890926361084],
        [-0.08428163081407547, -0.6461591720581055, 0.7585346698760986],
        [0.19362448155879974, -0.3595883250236511, -0.9128011465072632],
    ]
    params = {"kernel": jnp.asarray(np.concatenate([W.T, W[1:2].T / 2], axis=1)), "bias": jnp.ones(6)}
    ours = norms.cut(params, radius=1.0)
    np.testing.assert_allclose(ours["kernel"].T[:5], released, rtol=1e-5)
    np.testing.assert_array_equal(ours["kernel"].T[5], W[1] / 2)  # short enough
    np.testing.assert_array_equal(ours["bias"], np.ones(6))


def test_norms_of_samn_do_not_fall_from_a_class_to_a_rarer_one():
    counts = np.array([10, 300, 60, 60, 1])
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), counts)
    features = (rng.normal(size=(len(labels), 6)) + 2.0 * np.eye(5, 6)[labels]).astype(np.float32)
    head = fitted("samn", features, labels, losses.Classes.of(counts), steps=300)
    lengths = np.linalg.norm(head.kernel, axis=0)
    assert (np.diff(lengths[np.argsort(-counts, kind="stable")]) >= -1e-4).all()
    assert lengths[4] > 1.2 * lengths[1]


def test_samn_starts_at_the_norms_of_the_released_code():
    """softplus(0) = log 2 for the rarest class and softplus(1) = log(1 + e) for the largest."""
    features, labels = clusters(COUNTS)
    head = fitted("samn", features, labels, learning_rate=0.0, steps=1)
    lengths = np.linalg.norm(head.kernel, axis=0)
    np.testing.assert_allclose(lengths[[0, 2]], np.exp([1 / np.log1p(np.e), 1 / np.log(2)]), rtol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_extreme_counts_and_an_empty_class(name):
    """Three classes of 40, 1 and 0 images; the counts of the losses are 10^6, 1 and 0."""
    features, labels = clusters([40, 1])
    classes = losses.Classes.of(np.array([1_000_000, 1, 0]))
    options = {} if name in ("linear", "crt") else {"steps": 50}
    logits = np.asarray(fitted(name, features, labels, classes, **options)(features))
    assert logits.shape == (41, 3) and np.isfinite(logits).all()


@pytest.mark.parametrize("name", [*TRAINED[:-1], "nearest_class_mean"])
def test_every_scaling_gives_a_head_on_original_features(name):
    """Standardised and unit heads do not see a shift of the features; raw ones do, but work."""
    features, labels = clusters(COUNTS)
    options = {} if name in ("linear", "crt", "nearest_class_mean") else {"steps": 100}
    for kind in scaling.SCALINGS:
        head = fitted(name, features, labels, scaling=kind, **options)
        accuracy = (np.asarray(head(features)).argmax(axis=1) == labels).mean()
        assert accuracy > 0.6, kind
        if kind != "raw":
            moved = fitted(name, features + 3.0, labels, scaling=kind, **options)
            np.testing.assert_allclose(moved(features + 3.0), head(features), rtol=0.05, atol=0.05, err_msg=kind)
    with pytest.raises(errors.BadInput, match="scaling: expected one of raw, standard, unit, found 'none'"):
        fitted(name, features, labels, scaling="none")


def test_scalings_by_hand():
    x = np.array([[0.0, 1.0], [4.0, 1.0]])
    np.testing.assert_allclose(scaling.scaled(x, "raw")[0], x)
    np.testing.assert_allclose(scaling.scaled(x, "standard")[0], [[-1, 0], [1, 0]], atol=1e-5)
    np.testing.assert_allclose(
        scaling.scaled(x + [[0, 3], [0, -3]], "unit")[0], [[-0.5547, 0.83205], [0.5547, -0.83205]], atol=1e-4
    )
    gradient = jax.grad(lambda v: scaling.unit(v).sum())(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(gradient[0], [(16 - 12) / 125, (9 - 12) / 125], rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_second_fit_with_equal_options_compiles_nothing():
    features, labels = clusters(COUNTS)
    fitted("maxnorm", features, labels, steps=20)
    compiled = training._fit._cache_size()
    fitted("maxnorm", features + 1.0, labels, steps=20)
    assert training._fit._cache_size() == compiled


@pytest.mark.slow
def test_a_run_with_the_new_entries(tmp_path, run_main, tiny):
    """One baseline with a drawn order, sampled negatives and remixed images; all trained heads on its features."""
    import lt_jax

    names = ("cosine_mean", "maxnorm", "samn(steps=50)", "adapter(steps=50)")
    words = (
        "--config=configs/digits_lt.py:smoke,method=cosine_mean", "--config.baseline.epochs=2", tiny[-1],
        "--config.baseline.loss=sigmoid_bce(negatives=0.5)", "--config.baseline.sampling=progressive",
        "--config.baseline.augment.mix=remix", f"--config.heads={names!r}",
    )  # fmt: skip
    assert run_main(*words, f"--workdir={tmp_path}") == 0
    for name in ("sigmoid_bce", "cosine_mean", "maxnorm", "samn", "adapter"):
        probabilities = lt_jax.load(tmp_path, method=name).predict(np.zeros((2, 8, 8, 3), np.uint8))
        assert probabilities.shape == (2, 10) and np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("scaling", ["standard", "unit"])
def test_the_sigmoid_head_starts_from_what_any_linear_head_knows(scaling):
    features, labels = clusters(np.array([80, 60, 40]))
    features = 3.0 * features + 5.0
    classes = losses.Classes.of(np.array([80, 60, 40]))
    initial = fitted("balanced_linear", features, labels, classes, scaling=scaling)
    head = fitted("unit_bce", features, labels, classes, initial=initial)
    accuracy = [(np.asarray(x(features)).argmax(axis=1) == labels).mean() for x in (initial, head)]
    assert type(head) is type(initial) and accuracy[1] > accuracy[0] - 0.1
    np.testing.assert_allclose(np.linalg.norm(head.kernel, axis=0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", [*TRAINED, "nearest_class_mean", "whitened_class_mean"])
def test_an_accelerator_multiplies_in_full_precision(name):
    features, labels = clusters(COUNTS)
    options = {} if "class_mean" in name else {"settings": SHORT} if name in ("linear", "crt") else {"steps": 2}
    head = fitted(name, features, labels, **options)
    program = str(jax.make_jaxpr(lambda x: head(x))(jnp.asarray(features)))
    assert program.count("dot_general[") == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0
