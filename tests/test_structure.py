"""The shape of the code: imports run one way, each outside library has its one place, products are float32."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lt_jax
from lt_jax import ipdpp, losses, methods
from lt_jax.dlsa import classifiers
from lt_jax.dlsa import flow as flows

PACKAGE = pathlib.Path(lt_jax.__file__).parent
ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = (
    ("core",),
    ("losses", "heads", "sampling", "ipdpp", "dlsa", "augment", "models", "metrics", "optim", "statistics"),
    ("data",),
    ("train",),
    ("stages", "methods"),
    ("run", "compare", "report", "serve", "main"),
)
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}
OLD_PATHS = ("__init__", "negatives")  # import paths of version 0.1 that still work, and the package itself


def modules():
    """(top-level part, file) of every module."""
    for file in sorted(PACKAGE.rglob("*.py")):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in ("configs", *OLD_PATHS):
            yield part, file


def files_of(*folders):
    """Every Python file of these folders beside the package; none where the checkout is not there."""
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def imported(file):
    """(top-level package, part of lt_jax or None) of every import in a file, nested ones too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], (alias.name.split(".") + [None])[1]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            top, *inner = node.module.split(".")
            yield from ((top, inner[0] if inner else alias.name) for alias in node.names)


def test_every_part_has_a_layer_and_imports_none_above_it():
    seen = 0
    for part, file in modules():
        assert part in LAYER, f"{file} is in no layer"
        for top, inner in imported(file):
            if top == "lt_jax" and inner != part:
                assert inner in LAYER, f"{file.name} imports {inner}, which has no layer"
                assert LAYER[inner] <= LAYER[part], f"{file} imports {inner}, which is a layer above"
                seen += 1
    assert seen > 100


def test_ipdpp_imports_nothing_of_ours_and_report_no_jax():
    for part, file in modules():
        tops = set(imported(file))
        if part == "ipdpp":
            assert not {inner for top, inner in tops if top == "lt_jax"} - {"ipdpp"}
        if part == "report":
            assert not {top for top, _ in tops} & {"jax", "flax"}


def test_each_library_has_its_place():
    for part, file in modules():
        text, tops = file.read_text(), {top for top, _ in imported(file)}
        module = file.relative_to(PACKAGE).as_posix()
        assert "orbax" not in tops or module == "train/checkpoint.py"
        assert "NamedSharding(" not in text or module == "train/sharding.py" or part == "ipdpp"
        assert "grain" not in tops or part == "data"
        assert "tensorflow" not in tops and "clu" not in tops
        assert "hash(" not in text.replace("_hash(", "")


def test_modules_stay_small():
    for _, file in modules():
        assert file.read_text().count("\n") <= 400, file
    for file in files_of("tests", "benchmarks"):
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


def _contrasted(z):
    """The objectives with a memory or parameters, in both views of two images."""
    classes, key = losses.Classes.of(np.array([1, 1])), jax.random.key(0)
    objectives = [methods.CONTRASTIVE[name] for name in ("tsc", "bcl", "paco", "proco")]
    started = [(objective, *objective.start(key, 2, z.shape[1])) for objective in objectives]
    views, labels = z.reshape(2, 2, -1), jnp.arange(2)
    return [objective.loss(params, views, labels, classes, key, memory) for objective, params, memory in started]


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
        (_contrasted, jnp.ones((4, 3))),
        (lambda p: ipdpp.sample(jax.random.key(0), p, 3), jnp.full(64, 0.5)),
        (lambda p: ipdpp.sample(jax.random.key(0), p, 3, method="eigen"), jnp.full(64, 0.5)),
        (lambda p: ipdpp.inclusion_probabilities(p, 3), jnp.full(64, 0.5)),
        (_divided, jnp.ones((2, 3))),
    ],
    ids=["bns", "official", "distances", "contrasted", "rank_one", "eigen", "inclusion", "dlsa"],
)
def test_every_product_is_of_highest_precision(function, argument):
    highest = jax.lax.Precision.HIGHEST
    for equation in dots(jax.make_jaxpr(function)(argument).jaxpr):
        assert equation.params["precision"] in (highest, (highest, highest)), equation


def test_the_walk_finds_products():
    assert len(list(dots(jax.make_jaxpr(_bns)(jnp.zeros((4, 2, 3))).jaxpr))) == 1
    assert len(list(dots(jax.make_jaxpr(_divided)(jnp.ones((2, 3))).jaxpr))) == 13  # 6 of the flow, clusters, 3 x 2
    assert len(list(dots(jax.make_jaxpr(jax.jit(lambda x: jax.jit(jnp.dot)(x, x)))(jnp.zeros((2, 2))).jaxpr))) == 1


VAGUE = frozenset("found said asked place places given kept rest others of told wanted".split())  # noqa: SIM905
SAVED_NAMES = {("dlsa/divide.py", "rest")}  # field of a saved model


def assigned_names(tree):
    """(line, name) of every assigned variable, parameter, loop and comprehension variable, and import alias."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def test_no_vague_name_is_assigned():
    checked = [(file.relative_to(PACKAGE).as_posix(), file) for _, file in modules()]
    beside = files_of("tests", "benchmarks", "launch", "configs", "notebooks", "docs")
    checked += [(file.relative_to(ROOT).as_posix(), file) for file in beside]
    vague = []
    for module, file in checked:
        for line, name in assigned_names(ast.parse(file.read_text())):
            if name in VAGUE and (module, name) not in SAVED_NAMES:
                vague.append(f"{module}:{line}: {name}")
    assert not vague, "name the value instead: " + ", ".join(vague)


def test_assigned_names_are_found_in_every_form():
    code = """
a: int = 1
for b in []: pass
(c, *d) = [e for e in []]
def f(g, *h, i=0, **j): (k := 1)
with open("") as m: pass
import os as n
"""
    names = [name for _, name in assigned_names(ast.parse(code))]
    assert sorted(names) == list("abcdeghijkmn")


def private_arguments(tree):
    """(function, argument) of every private function, also methods; self and cls are left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_") and not node.name.startswith("__"):
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                if argument.arg not in ("self", "cls"):
                    yield node, argument


def test_private_arguments_are_annotated_and_functions_short():
    trees = [ast.parse(file.read_text()) for _, file in modules()]
    arguments = [argument for tree in trees for _, argument in private_arguments(tree)]
    assert len(arguments) > 500
    assert np.mean([argument.annotation is not None for argument in arguments]) > 0.9
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    too_long = [node.name for node in functions if node.end_lineno - node.lineno >= 60]
    assert not too_long
