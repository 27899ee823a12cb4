"""The shape of the code: imports run one way, each outside library has its one place, products are float32."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import pytest

import lt_jax
from lt_jax import ipdpp, losses
from lt_jax.dlsa import classifiers
from lt_jax.dlsa import flow as flows

PACKAGE = pathlib.Path(lt_jax.__file__).parent
FLOORS = (
    ("config", "knobs", "log", "files", "errors", "interrupt", "distributed", "results", "lock"),
    ("data", "augment", "policies"),
    ("encoder", "losses", "negatives", "metrics"),
    ("optim", "sharding", "state", "step"),
    ("checkpoint", "linear", "inputs"),
    ("features", "ipdpp"),
    ("train",),
    ("pretrain", "baseline"),
    ("probe",),
    ("retrain", "dlsa"),
    ("exhibits", "yardsticks"),
    ("evaluate",),
    ("report", "show_data", "classifier"),
    ("predict", "export"),
    ("stages", "command"),
    ("main",),
)
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).parts
        if parts[0] != "configs" and len(parts[0]) > 3 and file != PACKAGE / "__init__.py":
            yield parts[0].removesuffix(".py"), file


def imported(file):
    """(top-level package, name within lt_jax or None) of every import in a file, nested ones too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], (alias.name.split(".") + [None])[1]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            top, *rest = node.module.split(".")
            yield from ((top, rest[0] if rest else alias.name) for alias in node.names)


def test_imports_run_one_way():
    seen = 0
    for name, file in modules():
        for top, inner in imported(file):
            if top == "lt_jax" and inner != name:
                assert inner in FLOOR, f"{file.name} imports {inner}, which has no floor"
                assert FLOOR[inner] <= FLOOR[name], f"{name} imports {inner}, which stands above it"
                seen += 1
    assert seen > 50


def test_ipdpp_imports_nothing_of_ours_and_report_no_jax():
    for name, file in modules():
        tops = set(imported(file))
        if name == "ipdpp":
            assert not {inner for top, inner in tops if top == "lt_jax"} - {"ipdpp"}
        if name == "report":
            assert not {top for top, _ in tops} & {"jax", "flax"}


def test_each_library_has_its_place():
    for name, file in modules():
        text, tops = file.read_text(), {top for top, _ in imported(file)}
        assert "orbax" not in tops or name == "checkpoint"
        assert "NamedSharding(" not in text or name in ("sharding", "ipdpp")
        assert "grain" not in tops or name == "data"
        assert "tensorflow" not in tops and "clu" not in tops
        assert "hash(" not in text.replace("_hash(", "")


def test_modules_stay_small():
    for _, file in modules():
        assert file.read_text().count("\n") <= 400, file
    assert (PACKAGE / "main.py").read_text().count("\n") < 90


def dots(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


def _bns(q):
    return losses.bns(q, q[:, 0], jnp.arange(4), jnp.zeros((4, 2), int), 0.5)


def _divided(x):
    """Everything that DLSA computes for an item: the flow, its clusters and a classifier with their help."""
    flow = flows.create(jax.random.key(0), 3, clusters=5)
    params = {"a": jnp.zeros((3, 4)), "b": jnp.zeros((7, 4)), "bias": jnp.zeros(4), "scale": jnp.ones(())}
    help = jnp.zeros((len(x), 4))
    return flow.log_prob(x), *(classifiers.raw_logits(params, x, help, kind) for kind in classifiers.KINDS)


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (_bns, jnp.zeros((4, 2, 3))),
        (lambda z: losses.bns_official(z, jnp.zeros(4, int), 0.5), jnp.zeros((4, 3))),
        (lambda z: losses.class_distances(z, jnp.zeros(4, int)), jnp.zeros((4, 3))),
        (lambda p: ipdpp.sample(jax.random.key(0), p, 3), jnp.full(64, 0.5)),
        (lambda p: ipdpp.sample(jax.random.key(0), p, 3, method="eigen"), jnp.full(64, 0.5)),
        (lambda p: ipdpp.inclusion_probabilities(p, 3), jnp.full(64, 0.5)),
        (_divided, jnp.ones((2, 3))),
    ],
    ids=["bns", "official", "distances", "rank_one", "eigen", "inclusion", "dlsa"],
)
def test_every_product_is_of_highest_precision(function, argument):
    highest = jax.lax.Precision.HIGHEST
    for equation in dots(jax.make_jaxpr(function)(argument).jaxpr):
        assert equation.params["precision"] in (highest, (highest, highest)), equation


def test_the_walk_finds_products():
    assert len(list(dots(jax.make_jaxpr(_bns)(jnp.zeros((4, 2, 3))).jaxpr))) == 1
    assert len(list(dots(jax.make_jaxpr(_divided)(jnp.ones((2, 3))).jaxpr))) == 13  # 6 of the flow, clusters, 3 x 2
    assert len(list(dots(jax.make_jaxpr(jax.jit(lambda x: jax.jit(jnp.dot)(x, x)))(jnp.zeros((2, 2))).jaxpr))) == 1
