"""The tables of methods: every entry runs on tiny data, and a new entry needs nothing but its line."""

import ast
import inspect
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lt_jax
from configs import digits_lt, dlsa_digits
from lt_jax import heads, losses, methods
from lt_jax.core import errors
from lt_jax.run import config as config_lib
from lt_jax.stages import baseline

COUNTS = np.array([40, 12, 5, 0, 1])
LABELS = np.repeat(np.arange(5), COUNTS)
CLASSES = losses.Classes.of(COUNTS)
TABLES = ("SUPERVISED", "CONTRASTIVE", "HEADS", "ORDERS", "SELECTORS", "MIXES", "RECIPES")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("name", methods.SUPERVISED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_loss(name, dtype):
    """One value per example, soft labels like hard ones, and the same for a batch, one row, and permuted classes."""
    loss = methods.SUPERVISED[name]
    logits, labels = normal(0, 6, 5).astype(dtype), jnp.array([0, 1, 2, 4, 0, 3])
    each = jax.jit(lambda x, y: loss(x, y, CLASSES, key=jax.random.key(0)))(logits, labels)
    assert each.shape == (6,) and each.dtype == jnp.float32 and np.isfinite(each).all()
    np.testing.assert_allclose(loss(logits, jax.nn.one_hot(labels, 5), CLASSES), each, rtol=1e-5)
    np.testing.assert_allclose(loss(logits[2:3], labels[2:3], CLASSES), each[2:3], rtol=1e-5)
    order = np.array([3, 1, 4, 0, 2])
    permuted = jax.tree.map(lambda x: x[order], CLASSES)
    np.testing.assert_allclose(loss(logits[:, order], jnp.argsort(order)[labels], permuted), each, rtol=1e-5)


@pytest.mark.parametrize("name", methods.SUPERVISED)
def test_every_loss_is_finite_at_extreme_counts(name):
    classes = losses.Classes.of(np.array([1_000_000, 1, 0]))
    gradient = jax.grad(lambda x: methods.SUPERVISED[name](x, jnp.array([0, 1, 2]), classes).sum())(jnp.zeros((3, 3)))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", methods.CONTRASTIVE)
def test_every_objective(name):
    objective = methods.CONTRASTIVE[name]
    views = normal(1, 6, 3 if objective.one_pass else 2, 4)
    views = views / jnp.linalg.norm(views, axis=-1, keepdims=True)
    labels = jnp.array([0, 1, 0, 2, 1, 0])
    params, memory = objective.start(jax.random.key(2), 5, 4)

    def loss_of(params, views, memory):
        return objective.loss(params, views, labels, CLASSES, jax.random.key(0), memory)

    for _ in range(2):
        each, after = jax.jit(loss_of)(params, views, memory)
        assert each.ndim == 1 and len(each) in (6, 12) and np.isfinite(each).all()
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, memory)
        assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, memory)
        memory = after
    gradients = jax.grad(lambda params, x: loss_of(params, x, memory)[0].mean(), argnums=(0, 1))(params, views)
    for gradient in jax.tree.leaves(gradients):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", methods.HEADS)
def test_every_head(name):
    features = np.asarray(normal(2, len(LABELS), 3)) + 3 * np.eye(5, 3)[LABELS]
    initial = heads.Linear(np.eye(3, 5, dtype=np.float32), np.zeros(5, np.float32))
    head = methods.HEADS[name](jax.random.key(0), features.astype(np.float32), LABELS, CLASSES, initial=initial)
    logits = np.asarray(head(features.astype(np.float32)))
    assert logits.shape == (len(LABELS), 5) and np.isfinite(logits).all()
    assert type(head).__name__ in heads.KINDS
    np.testing.assert_allclose(
        jax.jit(lambda h, x: h(x))(head, features.astype(np.float32)), logits, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", methods.ORDERS)
def test_every_order(name):
    positions = methods.ORDERS[name](LABELS, 3, 7)
    assert positions.shape == (len(LABELS),) and positions.dtype == np.int32
    assert positions.min() >= 0 and positions.max() < len(LABELS)
    np.testing.assert_array_equal(positions, methods.ORDERS[name](LABELS, 3, 7))
    assert not np.array_equal(positions, methods.ORDERS[name](LABELS, 4, 7))


@pytest.mark.parametrize("name", methods.SELECTORS)
def test_every_selector(name):
    log_p = np.log(np.linspace(0.2, 0.9, len(LABELS))).astype(np.float32)
    features = np.asarray(normal(4, len(LABELS), 3))
    positions = methods.SELECTORS[name](jax.random.key(0), log_p, features, LABELS, 6)
    assert (np.diff(positions) > 0).all()
    counts = np.bincount(LABELS[positions], minlength=5)
    assert (counts <= np.minimum(COUNTS, 6)).all()
    assert (counts[2:] == COUNTS[2:]).all()  # small classes are kept whole


@pytest.mark.parametrize("name", methods.MIXES)
def test_every_mix(name):
    images, labels = jnp.ones((4, 6, 6, 3)), jnp.eye(5)[:4]
    for counts in (COUNTS, np.full(5, 7)):  # the last are equal: then labels follow the images in every mix
        classes = losses.Classes.of(counts)
        mixed, soft = methods.MIXES[name](jax.random.key(0), (images, labels), (0 * images, labels[::-1]), classes)
        assert mixed.shape == images.shape
        np.testing.assert_allclose(soft.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), np.diag(soft), atol=1e-5)  # ones against zeros


@pytest.mark.parametrize("name", methods.RECIPES)
def test_every_recipe_fits_a_config(name):
    config = (dlsa_digits if name == "dlsa" else digits_lt).get_config()
    config_lib.apply_recipe(config, name)
    config_lib.validate(config)
    assert config.method == name and config.stages == methods.RECIPES[name].stages


@pytest.mark.parametrize("name", [name for name, recipe in methods.RECIPES.items() if recipe.stages[0] == "baseline"])
def test_a_baseline_is_named_after_its_recipe(name):
    config = digits_lt.get_config()
    config_lib.apply_recipe(config, name)
    expected = name
    if name in methods.HEADS:  # it is on the features of another baseline
        expected = "bce3s" if name == "unit_bce" else "cross_entropy"
    assert baseline.method_of(config.baseline) == expected
    assert baseline.title_of(config.baseline) == methods.title("RECIPES", expected)


def test_a_baseline_without_a_recipe_is_named_after_its_loss():
    settings = digits_lt.get_config().baseline
    settings.update(loss="ldam(max_margin=0.3)", head="cosine")  # without re-weighting
    assert (baseline.method_of(settings), baseline.title_of(settings)) == ("ldam", "LDAM")
    settings.update(loss="logit_adjustment", head="linear")  # a recipe of this name is a head on cross-entropy
    assert baseline.title_of(settings) == methods.title("SUPERVISED", "logit_adjustment")


@pytest.mark.parametrize("table", TABLES)
def test_every_entry_has_a_title_and_short_signature(table):
    for name, described in getattr(methods, table).items():
        title = methods.title(table, name)
        assert 0 < len(title) < 50 and "\n" not in title and name == methods.name_of(table, name)
        assert isinstance(methods.source(table, name), str)
        assert described is not None
    assert methods.source("SUPERVISED", "balanced_softmax").startswith("Ren et al.")


def test_options_are_those_of_the_function():
    loss = methods.entry("SUPERVISED", "logit_adjustment(tau=2.0)", "config.baseline.loss")
    logits, labels = normal(0, 6, 5), jnp.array([0, 1, 2, 4, 0, 3])
    expected = losses.logit_adjustment(logits, labels, CLASSES, tau=2.0)
    np.testing.assert_array_equal(loss(logits, labels, CLASSES), expected)
    settings = {"temperature": 0.1, "n": 4, "epochs": 3}
    assert methods.entry("CONTRASTIVE", "bns(m=0)", "config.pretrain.loss").loss.keywords == {"m": 0}
    objective = methods.entry("CONTRASTIVE", "bns(n=8)", "config.pretrain.loss", settings)
    assert objective.loss.keywords == {"temperature": 0.1, "n": 8} and objective.one_pass


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("SUPERVISED", "balanced_softmx", "found 'balanced_softmx'; did you mean balanced_softmax?"),
        ("SUPERVISED", "logit_adjustment(tua=1.0)", "logit_adjustment has no option 'tua': did you mean tau?"),
        ("SUPERVISED", "logit_adjustment(1.0)", r"expected NAME or NAME\(option=value, ...\)"),
        ("SUPERVISED", "logit_adjustment(tau=", r"expected NAME or NAME\(option=value, ...\)"),
        ("SUPERVISED", "logit_adjustment(tau=open('x'))", r"expected NAME or NAME\(option=value, ...\)"),
        ("ORDERS", "instance(x=1)", "instance has no options"),
        ("RECIPES", "crt(scaling='unit')", "a recipe takes no options in brackets"),
        ("HEADS", "tau_norm(tau='1')", "expected a finite number for tau"),
        ("HEADS", "balanced_linear(batch_size=0)", "expected a whole number from 1 on for batch_size"),
        ("HEADS", "balanced_linear(steps=9.5)", "expected a whole number from 1 on for steps"),
        ("HEADS", "linear(class_balanced=1)", "expected True or False for class_balanced"),
        ("HEADS", "crt(scaling='units')", "expected one of raw, standard, unit for scaling"),
        ("HEADS", "subset_linear(selector=3)", "expected text for selector"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(table, text, message):
    with pytest.raises(errors.BadInput, match=f"config.key: .*{message}"):
        methods.entry(table, text, "config.key")


def test_names_of_the_first_version_are_accepted():
    assert methods.entry("CONTRASTIVE", "paper", "k") is methods.CONTRASTIVE["bns"]
    assert methods.entry("CONTRASTIVE", "official", "k") is methods.CONTRASTIVE["bns_official"]
    assert methods.entry("SELECTORS", "paper", "k") is methods.SELECTORS["algorithm1"]
    assert methods.entry("ORDERS", "class_aware", "k") is methods.ORDERS["class_balanced"]


def squared(logits, labels, classes, *, key=None, scale=1.0):
    """Toy squares.

    Source: nobody, "Nothing" (2026).
    """
    del classes, key
    targets = jax.nn.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    return scale * ((logits - targets) ** 2).sum(axis=1)


def reversed_head(key, features, labels, classes, *, initial=None):
    """Toy reversal."""
    return heads.Linear(-initial.kernel, -initial.bias)


def test_a_new_loss_head_and_recipe_need_their_lines_alone(tmp_path, run_main, capsys, monkeypatch, tiny):
    monkeypatch.setitem(methods.SUPERVISED, "squared", squared)
    monkeypatch.setitem(methods.HEADS, "reversed", reversed_head)
    overrides = {"baseline.loss": "squared(scale=0.5)", "heads": ("reversed",)}
    toy = methods.Recipe("Toy method", "nobody", ("baseline", "heads", "evaluate", "report"), overrides)
    monkeypatch.setitem(methods.RECIPES, "toy", toy)
    words = ("--config=configs/digits_lt.py:smoke,method=toy", "--config.baseline.epochs=1", f"--workdir={tmp_path}")
    assert run_main(tiny[-1], *words) == 0
    table = capsys.readouterr().err
    assert re.search(r"Toy reversal .*\n.*Toy method ", table)  # the final method is last
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["methods"]) == ["toy", "reversed"] and result["methods"]["toy"]["title"] == "Toy method"
    assert result["final"] == "toy"  # a head is final only where a recipe or config.method names it
    page = (tmp_path / "report.html").read_text()
    assert "Toy method" in page and "Toy reversal" in page
    image = np.zeros((1, 8, 8, 3), np.uint8)
    forwards = lt_jax.load(tmp_path, method="toy").predict(image)
    backwards = lt_jax.load(tmp_path, method="reversed").predict(image)
    np.testing.assert_allclose(backwards, (1 / forwards) / (1 / forwards).sum(), rtol=1e-3)
    with pytest.raises(errors.BadInput, match="has no method 'toi': did you mean toy?"):
        lt_jax.load(tmp_path, method="toi")


def lists_of_methods(tree, names):
    """Lines of literal collections with two names of one table or more."""
    for node in ast.walk(tree):
        elements = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", None)
        texts = {x.value for x in elements or () if isinstance(x, ast.Constant)}
        if len(texts & names) >= 2:
            yield node.lineno


# DLSA is used without the tables; the flags of a benchmark or the choices of one sampler are lists of their own.
ALLOWED = {
    "heads/__init__.py",  # what the package exports
    "losses/__init__.py",
    "report/dlsa.py",  # two panels of a DLSA run
    "dlsa/classifiers.py",  # its two losses by name: `lt_jax.dlsa.fit` works without the tables
    "stages/dlsa.py",  # the plain classifiers that DLSA is compared with
    "dlsa/sampling.py",
    "ipdpp/select.py",  # what the selectors call
    "ipdpp/imblearn.py",
    "ipdpp/measures.py",
    "run/config.py",
}


def test_nothing_else_lists_methods():
    package = pathlib.Path(inspect.getfile(lt_jax)).parent
    listed = []
    for file in sorted(package.rglob("*.py")):
        module = file.relative_to(package).as_posix()
        if module.startswith(("methods/", "configs/")) or module in ALLOWED:
            continue
        for table in TABLES:
            lines = lists_of_methods(ast.parse(file.read_text()), set(getattr(methods, table)))
            listed += [f"{module}:{line}" for line in lines]
    assert not listed, "derive from lt_jax.methods instead: " + ", ".join(listed)
    assert list(lists_of_methods(ast.parse("x = ('crt', 'linear')"), set(methods.HEADS))) == [1]
