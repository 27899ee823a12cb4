"""Compares DLSA with plain classifiers, and the speed of its fit with PyTorch.

    python benchmarks/dlsa.py synthetic [--seeds=5]     # long tails with a known Bayes classifier
    python benchmarks/dlsa.py features [--config=CONFIG] [--workdir=DIR]    # features of a BNS encoder, depth 1 to 3
    python benchmarks/dlsa.py time [--torch-python=PY]  # images/s of the fit; PY is a Python that has PyTorch

Each prints a table and writes benchmarks/results/dlsa_WHAT.json. `synthetic` and `features` have additional rows for
the options against a flow that memorises the tail. They also print the share of the few-shot training items and of the
few-shot test items that each depth takes: a gap between the two shares is the sign of such a flow. Every classifier is
trained on the same items with the same number of passes; no choice depends on the test items. `features` first runs
the pretraining of CONFIG in DIR, or resumes it; the images are read from LT_JAX_DATA.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import keep
import ml_collections
import numpy as np

from lt_jax import losses, metrics
from lt_jax.data import longtail
from lt_jax.dlsa import batches, divide, objective, scaling, separate
from lt_jax.dlsa import filter as filters
from lt_jax.run import config as config_lib
from lt_jax.stages import dlsa as stages
from lt_jax.stages import features as features_lib

HERE = pathlib.Path(__file__).resolve().parent
GROUPS = ("overall", "many", "medium", "few")
CLASSES, WIDTH = 20, 16


def settings(clusters, depth):
    config_lib._make_importable()
    from configs import common

    config = common.dlsa(clusters, depth)
    config.filter.update(batch_size=256, learning_rate=0.05, epochs=30, min_size=5)
    config.classifier.epochs = 300  # more epochs changed nothing on draws of seeds 100 to 104
    config.min_items, config.rest_counts = 100, "left"
    return config


def variants(base, width, depths):
    """Returns row -> settings: the released kind at each depth, each option alone at depth 1, all options together."""
    # Coordinates of unit-length rows are of size width^-1/2. The classifier's learning rate and weight decay are scaled
    # so that it learns as on standardised rows, whose length is width^1/2.
    head = base.classifier
    unit = {
        "filter.standardise": "unit", "classifier.standardise": "unit",
        "classifier.learning_rate": head.learning_rate * width, "classifier.weight_decay": head.weight_decay / width,
    }  # fmt: skip
    out_of_fold, everything = {"share_at": "out_of_fold"}, {"last": "everything"}
    noise, decay = {"filter.noise": 0.3}, {"filter.weight_decay": 0.1}
    together = {**out_of_fold, **everything, **decay, **unit, "filter.noise": 0.3 * width**-0.5}
    changes = {
        **{f"DLSA, depth {depth}": {"depth": depth} for depth in depths},
        "depth 1, share out of fold": out_of_fold,
        "depth 1, last on everything": everything,
        "depth 1, noise": noise,
        "depth 1, weight decay": decay,
        "depth 1, unit length": unit,
        "depth 1, all of these": together,
        f"depth {depths[-1]}, all of these": {**together, "depth": depths[-1]},
    }
    rows = {}
    for name, change in changes.items():
        rows[name] = base.copy_and_resolve_references()
        rows[name].update_from_flattened_dict({"depth": 1, **change})
    return rows


def on_strong_features(base):
    """Returns row -> settings, for the features of a pretrained network."""
    changes = {f"DLSA, depth {depth}": {"depth": depth} for depth in (1, 2, 3)}
    changes["depth 1, share out of fold"] = {"share_at": "out_of_fold"}
    changes["depth 1, last on everything"] = {"last": "everything"}
    rows = {}
    for name, change in changes.items():
        rows[name] = base.copy_and_resolve_references()
        rows[name].update_from_flattened_dict({"depth": 1, **change})
    return rows


def divided(seed, train, labels, test, test_labels, groups, config):
    """Returns the test logits, and the share of the few-shot items of each split that each depth takes."""
    model, train_depth = divide.fit_and_divide(jax.random.key(seed), train, labels, config)
    logits, test_depth, _ = divide.scores(model, test)
    few_train, few_test = train_depth[groups["few"][labels]], test_depth[groups["few"][test_labels]]
    numbers = range(1, len(model.depths) + 2)
    return logits, [{"train": share_of(few_train, n), "test": share_of(few_test, n)} for n in numbers]


def share_of(depths, number):
    return float((depths == number).mean()) if len(depths) else None


def print_taken(taken):
    print(
        "\nfew-shot items that each depth takes, per cent of training items / of test items; the last row is the rest"
    )
    for method, rows in taken.items():
        print(f"{method:30}" + "".join(f"{keep.percent(r['train']):>9} /{keep.percent(r['test']):>6}" for r in rows))


def over_seeds(draws):
    """Returns the mean share of each depth over the draws that have that depth."""
    rows = []
    for number in range(max(map(len, draws))):
        cells = [draw[number] for draw in draws if len(draw) > number and None not in draw[number].values()]
        rows.append({part: float(np.mean([c[part] for c in cells])) if cells else None for part in ("train", "test")})
    return rows


def synthetic(options):
    tables, taken = {}, {}
    for name, modes in (("five modes a class", 5), ("one mode, one covariance", 1)):
        rows, depths = {}, {}
        for seed in range(options.seeds):
            measured, shares = one_tail(modes, seed)
            for method, values in measured.items():
                rows.setdefault(method, []).append(values)
            for method, values in shares.items():
                depths.setdefault(method, []).append(values)
        table = {m: {g: keep.summary([draw[g] for draw in draws]) for g in GROUPS} for m, draws in rows.items()}
        tables[name], taken[name] = table, {method: over_seeds(draws) for method, draws in depths.items()}
        print(f"\n{name}: test accuracy in per cent, mean ± standard deviation over {options.seeds} seeds")
        for method, cells in table.items():
            print(f"{method:30}" + "".join(f"{keep.cell(cells[g], 'std'):>14}" for g in GROUPS))
        print_taken(taken[name])
    command = f"python benchmarks/dlsa.py synthetic --seeds={options.seeds}"
    keep.write({"seeds": options.seeds, "accuracy": tables, "few_taken": taken}, "dlsa_synthetic.json", command)


def one_tail(modes, seed):
    """Returns method -> measures and DLSA method -> shares of its depths, for one draw of the means and the items."""
    rng = np.random.default_rng(seed)
    spread = 1.4 if modes > 1 else 0.9
    means = spread * rng.normal(size=(CLASSES, modes, WIDTH))
    counts = longtail.exponential_counts(500, CLASSES, 50)
    labels, test_labels = np.repeat(np.arange(CLASSES), counts), np.repeat(np.arange(CLASSES), 100)
    train, test = (draw(rng, means, y) for y in (labels, test_labels))
    groups = longtail.shot_groups(counts)
    logits = {"Bayes": bayes(means, test), **plain(train, labels, test, seed)}
    logits["balanced softmax, MLP"] = mlp(seed, train, labels, test)
    taken = {}
    for name, config in variants(settings(60, 1), WIDTH, (1, 2)).items():
        logits[name], taken[name] = divided(seed, train, labels, test, test_labels, groups, config)
    return {name: metrics.measures(test_labels, x, groups) for name, x in logits.items()}, taken


def draw(rng, means, labels):
    chosen = means[labels, rng.integers(0, means.shape[1], len(labels))]
    return (chosen + rng.normal(size=chosen.shape)).astype(np.float32)


def bayes(means, test):
    """Returns the log-likelihood of each class under equal priors: the optimal classifier of a balanced test set."""
    squares = ((test[:, None, None, :] - means[None]) ** 2).sum(axis=-1)
    return np.logaddexp.reduce(-0.5 * squares, axis=2)


def plain(train, labels, test, seed):
    config = ml_collections.ConfigDict({"seed": seed, "dlsa": settings(60, 1)})
    names = {"balanced_softmax": "balanced softmax, linear", "nearest_class_mean": "nearest class mean"}
    baseline_logits = stages.baselines(config, train, labels, test, CLASSES)
    return {names[name]: baseline_logits[name] for name in names}


def mlp(seed, train, labels, test, hidden=64):
    """Returns test logits of a two-layer network with about as many weights as a depth of DLSA.

    Balanced softmax; the optimiser and the number of passes are those of DLSA.
    """
    options = settings(60, 1).classifier
    mean, deviation = batches.moments(train, np.arange(len(train)))
    train, test = (train - np.asarray(mean)) / np.asarray(deviation), (test - np.asarray(mean)) / np.asarray(deviation)
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "w": jax.random.normal(keys[0], (WIDTH, hidden)) * (2 / WIDTH) ** 0.5, "b": jnp.zeros(hidden),
        "v": jax.random.normal(keys[1], (hidden, CLASSES)) * hidden**-0.5, "c": jnp.zeros(CLASSES),
    }  # fmt: skip
    classes = losses.Classes.of(np.bincount(labels, minlength=CLASSES))

    def apply(params, x):
        return jax.nn.relu(x @ params["w"] + params["b"][None]) @ params["v"] + params["c"][None]

    def loss_of(params, x, y):
        return losses.balanced_softmax(apply(params, x), y, classes).mean()

    @jax.jit
    def epoch(carry, order):
        def step(carry, chosen):
            params, velocity = carry
            gradients = jax.grad(loss_of)(params, jnp.asarray(train)[chosen], jnp.asarray(labels)[chosen])
            velocity = jax.tree.map(
                lambda v, g, p: options.momentum * v + g + options.weight_decay * p, velocity, gradients, params
            )
            return (jax.tree.map(lambda p, v: p - options.learning_rate * v, params, velocity), velocity), None

        return jax.lax.scan(step, carry, order)[0]

    carry, rng = (params, jax.tree.map(jnp.zeros_like, params)), np.random.default_rng(seed)
    steps = -(-len(labels) // options.batch_size)
    for _ in range(options.epochs):
        order = np.resize(rng.permutation(len(labels)), (steps, options.batch_size))
        carry = epoch(carry, order)
    return np.asarray(apply(carry[0], test))


def features(options):
    from etils import epath

    from lt_jax import data
    from lt_jax import main as program

    stages_run = "('features',)" if "weights=" in options.config else "('pretrain', 'features')"
    words = [f"--config={options.config}", f"--workdir={options.workdir}", f"--config.stages={stages_run}"]
    if status := program.main(["lt_jax", *words]):
        return status
    config = ml_collections.ConfigDict(json.loads((options.workdir / "config.json").read_text()))
    is_frozen = features_lib.is_frozen(config)
    dataset = data.load(config.data)
    folder = epath.Path(options.workdir)
    (train, labels), (test, test_labels) = features_lib.read(folder, "train"), features_lib.read(folder, "test")
    dlsa = config.dlsa if is_frozen else settings(100, 1)
    config = ml_collections.ConfigDict({"seed": config.seed, "dlsa": dlsa})
    logits = stages.baselines(config, train, labels, test, dataset.num_classes)
    taken = {}
    rows = on_strong_features(dlsa) if is_frozen else variants(dlsa, train.shape[1], (1, 2, 3))
    for name, row in rows.items():
        logits[name], taken[name] = divided(0, train, labels, test, test_labels, dataset.groups, row)
    measured = {name: metrics.measures(test_labels, x, dataset.groups) for name, x in logits.items()}
    print(f"{dataset.name}, {train.shape[1]} features: test accuracy in per cent")
    for name, row in measured.items():
        print(f"{name:30}" + "".join(f"{keep.percent(row[g]):>10}" for g in GROUPS))
    print_taken(taken)
    accuracy = {name: {g: row[g] for g in GROUPS} for name, row in measured.items()}
    about = {"dataset": dataset.name, "index_digest": dataset.index_digest, "settings": dlsa.to_dict()}
    command = f"python benchmarks/dlsa.py features --config={options.config}"
    kind = "_frozen" if is_frozen else ""
    if is_frozen:
        fitted = filters.fit_flow_filter(jax.random.key(0), train, labels, dlsa.filter)
        about["separability"] = separate.measures(fitted, test, test_labels, dataset.counts, dataset.groups, dlsa.share)
        print(separate.table({dataset.name: about["separability"]}))
    keep.write({**about, "accuracy": accuracy, "few_taken": taken}, f"dlsa_{dataset.name}{kind}.json", command)
    return 0


def speed(options):
    """Prints medians of three measurements; every form runs the same number of pairs of the same sizes."""
    items, width, clusters, batch, steps = options.items, 512, 500, 1024, options.steps
    rng = np.random.default_rng(0)
    x = rng.normal(size=(items, width)).astype(np.float32)
    labels = rng.integers(0, 100, items)
    config = settings(clusters, 1).filter
    rates = {"lt_jax": ours(x, labels, config, batch, steps)}
    if options.torch_python:
        words = [options.torch_python, str(HERE / "dlsa_torch.py"), *map(str, (items, width, clusters, batch, steps))]
        stdout = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        rates |= json.loads(stdout.strip().splitlines()[-1])
    print(f"K = {clusters}, {items} x {width}, batches of {batch} pairs: images/s of the fit, ratio to ours")
    for name, rate in rates.items():
        print(f"{name:42}{rate:>10.0f}{rates['lt_jax'] / rate:>8.1f}")
    sizes = {"items": items, "width": width, "clusters": clusters, "batch": batch, "steps": steps}
    keep.write({**sizes, "images_per_s": rates}, "dlsa_time.json", "python benchmarks/dlsa.py time --torch-python=PY")


def ours(x, labels, config, batch, steps):
    from lt_jax.dlsa import flow as flows

    flow = flows.create(jax.random.key(0), x.shape[1], config.clusters)
    carry = objective.start(jax.random.key(1), flow, config.clusters)
    weights = objective.class_weights(np.bincount(labels), 2.0)
    scaled = scaling.fit(x, np.arange(len(x)), config.standardise, "filter.standardise")
    constants = {"centres": flow.centres, "scaling": scaled, "weights": weights}
    scan = batches.compiled_scan(objective.step, objective.static(config))
    rows, rng, seconds = filters._rows(x, labels, np.arange(len(x))), np.random.default_rng(0), []
    for _ in range(4):
        pairs = objective.draw_pairs(rng, labels, batch)[:steps]
        began = time.monotonic()
        carry = batches.run(scan, carry, constants, rows, pairs)
        jax.block_until_ready(carry)
        seconds.append(time.monotonic() - began)
    return steps * batch / float(np.median(seconds[1:]))  # the first call compiles


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("synthetic", "features", "time"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--config", default="configs/dlsa_cifar100_lt.py:100,encoder=resnet_small,epochs=10")
    parser.add_argument("--workdir", type=pathlib.Path, default=HERE.parent / "runs" / "benchmark_dlsa")
    parser.add_argument("--torch-python", help="a Python that has PyTorch")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    return {"synthetic": synthetic, "features": features, "time": speed}[options.what](options)


if __name__ == "__main__":
    sys.exit(main())
