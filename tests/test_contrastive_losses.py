"""TSC, BCL, PaCo and ProCo against numbers worked by hand, closed forms, simulation, and figures of released code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from lt_jax import losses, methods
from lt_jax.core import errors
from lt_jax.losses import probabilistic, targeted

E = np.e
CLASSES = losses.Classes.of(np.array([3, 1, 1, 0]))
LABELS = jnp.array([0, 0, 1, 2, 0])
BOTH = jnp.tile(LABELS, 2)


@pytest.fixture(autouse=True)
def strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


def waves(seed, *shape):
    """Unit vectors from a formula, so that other programs can compute the same."""
    x = np.sin(0.7 * (np.arange(np.prod(shape)) + 1.0 + 100 * seed) ** 2).reshape(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def array(x):
    return jnp.asarray(x, jnp.float32)


SAME = array([[1.0, 0.0], [1.0, 0.0]])  # both views of one image
ZEROS = jnp.zeros(2, jnp.int32)


def test_bcl_by_hand():
    """The other view and the prototype are averaged, e; the other class has its prototype alone, 1."""
    loss = losses.bcl(SAME, ZEROS, array([[1.0, 0.0], [0.0, 1.0]]), 1.0)
    np.testing.assert_allclose(loss, [np.log(E + 1) - 1] * 2, rtol=1e-6)


def test_bcl_a_frequent_class_repels_as_much_as_a_rare_one():
    prototypes = array([[1.0, 0.0], [0.0, 1.0]])
    once = array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    often = jnp.concatenate([once, jnp.tile(once[2:], (5, 1))])
    few, many = (losses.bcl(x, jnp.array([0, 0] + [1] * (len(x) - 2)), prototypes, 0.5)[0] for x in (once, often))
    np.testing.assert_allclose(few, many, rtol=1e-5)


def test_paco_by_hand():
    """The sum is 1 + 1 of the centres and e of the other view; rows of the queue with label -1 are none."""
    queue = (array([[1.0, 0.0]]), jnp.array([-1]))
    loss = losses.paco(SAME, ZEROS, jnp.zeros((2, 2)), queue, temperature=1.0, alpha=0.5)
    np.testing.assert_allclose(loss, [np.log(2 + E) - 1 / 3] * 2, rtol=1e-6)
    queue = (array([[0.0, 1.0]]), jnp.array([0]))  # one more positive, of similarity 0
    loss = losses.paco(SAME, ZEROS, jnp.zeros((2, 2)), queue, temperature=1.0, alpha=0.5, gamma=2.0)
    np.testing.assert_allclose(loss, [np.log(2 + 2 * E + 2) - 0.25] * 2, rtol=1e-6)


def test_tsc_by_hand():
    targets, positive = array([[0.0, 1.0], [-1.0, 0.0]]), ~jnp.eye(2, dtype=bool)
    total = np.log(E + 1 + 1 / E)
    loss = losses.tsc(SAME, ZEROS, targets, positive, temperature=1.0, weight=0.2)
    np.testing.assert_allclose(loss, [total - 1 + 0.2 * total] * 2, rtol=1e-6)
    loss = losses.tsc(SAME, ZEROS, targets, jnp.zeros((2, 2), bool), temperature=1.0, weight=0.2)
    np.testing.assert_allclose(loss, [0.2 * total] * 2, rtol=1e-6)


def all_losses(embeddings, labels):
    """Values of all losses in terms of embeddings (2B, 6) of 4 classes."""
    prototypes, queue = array(waves(1, 4, 6)), (array(waves(2, 3, 6)), jnp.array([0, 3, -1]))
    positive = targeted.draw_positives(jax.random.key(0), labels, 2)
    kappa = array([0.0, 1.0, 30.0, 1e5])
    paco = losses.paco(embeddings, labels, embeddings @ prototypes.T, queue, temperature=0.5, alpha=0.1, gamma=0.5)
    return (
        losses.bcl(embeddings, labels, prototypes, 0.5),
        paco,
        losses.tsc(embeddings, labels, prototypes, positive, temperature=0.5, weight=0.3),
        losses.logit_adjustment(losses.proco_logits(embeddings, prototypes, kappa, 0.5), labels, CLASSES),
    )


def test_gradients():
    def values(embeddings, prototypes):
        return *all_losses(embeddings, BOTH), losses.bcl(embeddings, BOTH, prototypes, 0.5)

    arguments = array(waves(0, 10, 6)), array(waves(1, 4, 6))
    check_grads(jax.jit(values), arguments, order=1, modes=["rev"], rtol=2e-2, eps=1e-2)


@pytest.mark.parametrize("labels", [jnp.zeros(10, jnp.int32), jnp.full(10, 3, jnp.int32)])
def test_a_batch_of_one_class_has_finite_values_and_gradients(labels):
    embeddings = array(waves(0, 10, 6))
    sums = jax.jit(lambda x: jnp.stack([value.sum() for value in all_losses(x, labels)]))
    gradients = jax.jit(jax.jacrev(sums))(embeddings)
    assert np.isfinite(sums(embeddings)).all() and np.isfinite(gradients).all()
    assert (np.abs(gradients).max(axis=(1, 2)) > 0).all()


def test_bcl_against_the_released_code():
    """FlamieZhu/Balanced-Contrastive-Learning at f72d070, BalSCL on the CPU; it returns the mean."""
    loss = jax.jit(losses.bcl)(array(waves(0, 10, 6)), BOTH, array(waves(1, 4, 6)), 0.1)
    np.testing.assert_allclose(loss.mean(), 6.924034118652344, rtol=1e-5)


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 4.984694957733154), (0.5, 4.315293312072754)])
def test_paco_against_the_released_code(gamma, expected):
    """dvlab-research/Parametric-Contrastive-Learning at fe56535, PaCoLoss with class weights, on the CPU."""
    embeddings, queue = array(waves(0, 10, 6)), (array(waves(2, 3, 6)), jnp.array([0, 3, 1]))
    logits = embeddings @ array(waves(1, 4, 6)).T + np.log(np.array([[3, 1, 1, 0.5]], np.float32) / 5)
    paco = functools.partial(losses.paco, temperature=0.2, alpha=0.05, gamma=gamma)
    np.testing.assert_allclose(jax.jit(paco)(embeddings, BOTH, logits, queue).mean(), expected, rtol=1e-5)


def test_tsc_against_the_released_code():
    """LTH14/targeted-supcon at c4f15eb, the loss for CIFAR with every embedding of a class; targets count as one."""
    labels = jnp.tile(jnp.array([0, 0, 1, 2, 3]), 2)
    positive = (labels[:, None] == labels[None, :]) & ~jnp.eye(10, dtype=bool)
    arguments = array(waves(0, 10, 6)), labels, array(waves(1, 4, 6)), positive
    of_class, with_target = (losses.tsc(*arguments, temperature=0.1, weight=weight) for weight in (0.0, 1.0))
    of_class, with_target, count = (np.asarray(x) for x in (of_class, with_target, positive.sum(axis=1)))
    as_released = (count * of_class + with_target - of_class) / (count + 1)
    np.testing.assert_allclose(as_released.mean(), 7.937542915344238, rtol=1e-5)


def test_proco_against_the_released_code():
    """LeapLabTHU/ProCo at af9e78e, the loss for CIFAR on the CPU; kappa there is d R / (1 - R^2).

    Its recurrence starts at twice the order: figures in few dimensions or of large kappa are not exact there.
    """
    length = np.array([0.05, 0.1, 0.2, 0.3])
    kappa, z, means = array(64 * length / (1 - length**2)), array(waves(5, 3, 64)), array(waves(4, 4, 64))
    expected = [
        [0.7292117358945944, 0.621068570982672, 0.5195139291785722, 0.7236653794442134],
        [0.8042649953099641, 0.8135223687407773, 1.2712299104626936, 0.5720561126259724],
        [0.7074489871644545, 0.890597335931588, 0.8533082160138861, 1.1495485692531417],
    ]
    logits = jax.jit(losses.proco_logits)(z, means, kappa, 0.1)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@pytest.mark.parametrize(("classes", "width"), [(1, 2), (2, 2), (3, 2), (5, 4), (10, 128)])
def test_few_targets_are_a_simplex(classes, width):
    targets = np.asarray(losses.uniform_targets(classes, width))
    expected = np.where(np.eye(classes, dtype=bool), 1.0, -1.0 / max(classes - 1, 1))
    assert targets.shape == (classes, width)
    np.testing.assert_allclose(targets @ targets.T, expected, atol=1e-6)


def test_many_targets_are_spread_evenly():
    """Six points on a circle are 60 degrees apart; eight in space are at least 70, of 74.9 at best."""
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes types
        on_circle, targets = (np.asarray(losses.uniform_targets(*shape)) for shape in ((6, 2), (8, 3)))
    angles = np.sort(np.degrees(np.arctan2(*on_circle.T)))
    np.testing.assert_allclose(np.diff(angles), 60.0, atol=0.5)
    closest = np.max(targets @ targets.T - 2 * np.eye(8))
    assert np.degrees(np.arccos(closest)) > 70.0
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1.0, rtol=1e-5)


def test_assignments_improve_and_stay_permutations():
    similarities = array(np.random.default_rng(0).normal(size=(7, 7)))
    value = lambda assigned: float(similarities[jnp.arange(7), assigned].sum())  # noqa: E731
    start = jnp.arange(7, dtype=jnp.int32)
    one, many = (targeted.improved_assignment(similarities, start, swaps) for swaps in (1, 50))
    assert value(start) < value(one) < value(many)
    assert sorted(np.asarray(many)) == list(range(7))
    np.testing.assert_array_equal(targeted.improved_assignment(similarities, many, 50), many)
    crossed = array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(targeted.improved_assignment(crossed, start[:3], 8), [1, 0, 2])


def test_centroids_follow_their_classes():
    centroids = array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    embeddings, labels = array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([0, 0, 2])
    moved = targeted.moved_centroids(centroids, embeddings, labels, 0.75)
    expected = [np.array([0.75, 0.25]) / np.hypot(0.75, 0.25), [0.0, 1.0], [1.0, 0.0]]
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_positives_are_the_other_view_and_some_of_the_class():
    labels = jnp.tile(jnp.array([0, 0, 0, 0, 1, 2, 1]), 2)
    drawn = np.asarray(targeted.draw_positives(jax.random.key(0), labels, 3))
    same = np.asarray(labels)[:, None] == np.asarray(labels)[None]
    assert not drawn[~same].any() and not drawn.diagonal().any()
    assert drawn[np.arange(14), (np.arange(14) + 7) % 14].all()
    np.testing.assert_array_equal(drawn.sum(axis=1), np.tile([4, 4, 4, 4, 3, 1, 3], 2))


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 3.0, 15.0, 31.0, 63.0])
def test_bessel_functions_against_scipy(order):
    x, y = np.array([[3, 5], [3, 50], [40, 41], [50, 5], [1e3, 1010], [1e3, 100], [2e4, 2e4 - 5], [3, 2e4]]).T

    def log_g(x):
        return np.log(special.ive(order, x)) + x - order * np.log(x)

    change = probabilistic.log_bessel_change(order, array(x**2), array(y**2 - x**2))
    np.testing.assert_allclose(change, log_g(y) - log_g(x), rtol=1e-5, atol=3e-5)


def test_bessel_functions_of_three_dimensions_in_closed_form():
    """I_1/2(x) / sqrt(x) is proportional to sinh(x) / x, also at 0; the slope of its log is coth(x) - 1/x."""
    y = np.array([1e-3, 0.5, 2.0, 10.0])
    change = probabilistic.log_bessel_change(0.5, jnp.zeros(4), array(y**2))
    np.testing.assert_allclose(change, np.log(np.sinh(y) / y), rtol=1e-5, atol=2e-5)
    slope = jax.vmap(jax.grad(lambda y: probabilistic.log_bessel_change(0.5, jnp.zeros(()), y**2)))(array(y[1:]))
    np.testing.assert_allclose(slope, 1 / np.tanh(y[1:]) - 1 / y[1:], rtol=1e-5)


def test_a_change_is_exact_where_both_values_are_large():
    """At concentration 1e5 both logs are about 1e5; 10 more is 10 to first order, less (d - 1)/2 log(1 + 1e-4)."""
    change = probabilistic.log_bessel_change(63.0, array([1e10]), array([(1e5 + 10) ** 2 - 1e10]))
    np.testing.assert_allclose(change, 10 - 63.5 * np.log1p(1e-4), rtol=1e-5)


@pytest.mark.parametrize("kappa", [0.5, 8.0, 60.0])
def test_proco_logits_are_expectations(kappa):
    """Against draws from the law in three dimensions, by the inverse of its distribution function."""
    generator = np.random.default_rng(0)
    u, angle = generator.uniform(size=400_000), generator.uniform(0, 2 * np.pi, 400_000)
    along = 1 + np.log(u + (1 - u) * np.exp(-2 * kappa)) / kappa
    drawn = np.stack([along, *np.sqrt(1 - along**2) * np.stack([np.cos(angle), np.sin(angle)])], axis=1)
    z = waves(3, 2, 3)
    expected = np.log(np.exp(drawn @ z.T / 0.5).mean(axis=0))
    logits = losses.proco_logits(array(z), array([[1.0, 0.0, 0.0]]), array([kappa]), 0.5)
    np.testing.assert_allclose(logits[:, 0], expected, atol=0.01)


def test_concentrations():
    np.testing.assert_allclose(losses.concentration(array([0.0, 0.5, 1.0]), 10), [0.0, 6.5, 1e5], rtol=1e-6)


def objective(name, **options):
    return methods.CONTRASTIVE[name].with_options(options)


def views_of(labels, width=6):
    return array(waves(5, len(labels), 2, width))


def test_proco_counts_this_epoch_and_the_last():
    proco, classes = objective("proco"), losses.Classes.of(np.array([2, 1]))
    _, memory = proco.start(jax.random.key(0), 2, 6)
    views, labels = views_of(range(3)), jnp.array([0, 1, 0])
    step = jax.jit(lambda memory: proco.loss({}, views, labels, classes, None, memory)[1])
    for counts, before in [([4, 2], [0, 0]), ([4, 2], [4, 2]), ([4, 2], [4, 2])]:
        memory = step(memory)
        np.testing.assert_array_equal(memory["count"], counts)
        np.testing.assert_array_equal(memory["last_count"], before)
    both = np.concatenate([views[:, 0], views[:, 1]])
    np.testing.assert_allclose(memory["sum"][1], both[[1, 4]].sum(axis=0), rtol=1e-6)


def test_paco_keeps_the_newest_keys():
    paco = objective("paco", queue=5)
    params, memory = paco.start(jax.random.key(0), 4, 6)
    assert memory["labels"].tolist() == [-1] * 5
    step = jax.jit(lambda views, labels, memory: paco.loss(params, views, labels, CLASSES, None, memory)[1])
    for labels, expected in [([0, 1, 2], [0, 1, 2, -1, -1]), ([3, 3, 1], [3, 3, 1, 0, 1])]:
        views = views_of(labels)
        memory = step(views, jnp.array(labels), memory)
        assert memory["labels"].tolist() == expected
        np.testing.assert_array_equal(memory["keys"][:3], views[:, 1])
    without = objective("paco", queue=0)
    params, memory = without.start(jax.random.key(0), 4, 6)
    value, after = without.loss(params, views, jnp.array(labels), CLASSES, None, memory)
    assert memory is None and after is None and np.isfinite(value).all()


def test_tsc_moves_targets_to_the_classes():
    """Each class lies on the target of the other; one step exchanges them."""
    tsc = objective("tsc")
    _, memory = tsc.start(jax.random.key(0), 2, 2)
    views = jnp.repeat(memory["targets"][::-1][:, None], 2, axis=1)
    _, memory = jax.jit(tsc.loss)({}, views, jnp.array([0, 1]), CLASSES, jax.random.key(0), memory)
    assert memory["assigned"].tolist() == [1, 0]
    np.testing.assert_allclose(memory["centroids"], views[:, 0], atol=1e-6)


def test_options_that_an_objective_cannot_have():
    views = jnp.ones((2, 3, 4)) / 2
    arguments = ({}, views, jnp.array([0, 1]), losses.Classes.of(np.array([1, 1])), jax.random.key(0), None)
    with pytest.raises(errors.BadInput, match="negatives: expected sampled or expected, found 'expektd'"):
        methods.entry("CONTRASTIVE", "bns(negatives='expektd')", "pretrain.loss").loss(*arguments)
    with pytest.raises(errors.BadInput, match=r"temperature: expected at least .02 for bns_official, found 0.01"):
        methods.entry("CONTRASTIVE", "bns_official(temperature=0.01)", "pretrain.loss").loss(*arguments)
