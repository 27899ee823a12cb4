"""Writes the measured tables of the pages from benchmarks/results/*.json, and docs/methods.md from lt_jax.methods.

    python benchmarks/readme.py

A table stands between `<!-- NAME -->` and `<!-- end -->`; the other text of the file does not change. A test fails if
a page differs from the results.
"""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_DOCS = tuple(f"docs/{name}.md" for name in ("dlsa", "encoders", "evidence", "methods", "results"))
PAGES = tuple(ROOT / name for name in ("README.md", *_DOCS, "launch/README.md"))
GROUPS = ("overall", "many", "medium", "few")


def main():
    for path in PAGES:
        path.write_text(filled(path.read_text()))


def filled(text):
    """Returns the page with every table filled in whose results exist; other tables stay unchanged."""
    for name in re.findall(r"<!-- methods (\w+) -->", text):
        text = replaced(text, f"methods {name}", methods_table(name))
    for name, table in TABLES.items():
        if (RESULTS / SOURCES[name]).exists():
            text = replaced(text, name, table(json.loads((RESULTS / SOURCES[name]).read_text())))
    return text


def replaced(text, name, table):
    return re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + table + m[2], text, flags=re.S)


def methods_table(name):
    """Returns the rows of one table of lt_jax.methods: names, titles, options and papers."""
    from lt_jax import methods

    rows = []
    for entry in getattr(methods, name):
        if name == "RECIPES":
            middle = ", ".join(methods.RECIPES[entry].stages)
        else:
            middle = ", ".join(f"`{key}={value!r}`" for key, value in methods.options_of(name, entry).items())
        rows.append((f"`{entry}`", [methods.title(name, entry), middle, methods.source(name, entry)]))
    return _table(("title", "stages" if name == "RECIPES" else "options", "source"), rows, corner="name")


def cifar(result):
    probe = json.loads((RESULTS / "probe_cifar10.json").read_text())
    names = {"cross_entropy": "cross-entropy", "crt": "cRT", "bns_ipdpp": "BNS + IP-DPP"}
    names |= {f"probe, {protocol}": f"linear probe, {protocol}" for protocol in ("plain", "official")}
    rows = [(names.get(name, name.replace("_", " ")), _cells(row)) for name, row in result["accuracy"].items()]
    rows += [(f"linear probe, plain, of {n}", _cells(r)) for n, r in probe["accuracy"].items() if n != "BNS encoder"]
    seconds = {"pretrain": probe["pretrain_s"], **result["seconds"]}
    minutes = ", ".join(f"{stage} {spent / 60:.0f} min" for stage, spent in seconds.items())
    conditions = f"One seed, commit {result['commit'][:7]}, two CPU cores busy with other work: {minutes}."
    return _table(GROUPS, rows) + f"\n{conditions} `{result['command']}`, `{probe['command']}`\n"


def dlsa(result):
    rows = [(name.replace("_", " "), _cells(row)) for name, row in result["accuracy"].items()]
    return _table(GROUPS, rows) + f"\nCommit {result['commit']}, {result['device']}. `{result['command']}`\n"


def synthetic(result):
    tables = []
    for name, methods in result["accuracy"].items():
        rows = [(method, [_spread(cells[g], "std") for g in GROUPS]) for method, cells in methods.items()]
        tables.append(_table(GROUPS, rows, corner=name))
    conditions = (
        f"Mean and standard deviation over {result['seeds']} seeds, commit {result['commit']}, {result['device']}."
    )
    return "\n".join(tables) + f"\n{conditions} `{result['command']}`\n"


def step(result):
    rows = [
        (name.strip(), [f"{row['ms']:.1f}", f"{row['mfu']:.2f}" if row["mfu"] else ""])
        for name, row in result["step"].items()
    ]
    rows += [
        (f"{name.partition(' ')[0]}: the loop on the host", [f"{ms:.1f}", ""]) for name, ms in result["host_ms"].items()
    ]
    rows += [(f"PyTorch, {name}", [f"{ms:.1f}", ""]) for name, ms in result.get("torch", {}).items()]
    loss = result["official_loss"]
    rows.append((f"official loss and gradient, batch {loss['batch']}", [f"{loss['ours_ms']:.1f}", ""]))
    for name in ("numpy", "torch"):
        if f"{name}_as_released_ms" in loss:
            rows.append((f"the same as released, in {name}", [f"{loss[f'{name}_as_released_ms']:.0f}", ""]))
    return _table(("ms", "share of the peak rate"), rows) + "\n" + added(result)


def convolution(result):
    """Returns milliseconds by the clock, and how many times those of PyTorch, compiled, by clock and processor."""
    columns = list(dict.fromkeys(row for column in result["columns"].values() for row in column))
    rows = []
    for name, column in result["columns"].items():
        cells = [_against(column[row]) if row in column else "" for row in columns]
        rows.append((name, [*cells, f"{result['peak_mib'][name]:.0f} MiB"]))
    conditions = f"Batch {result['batch']}, medians of {result['repeats']} rounds. Commit {result['commit']}."
    return _table((*columns, "peak memory"), rows) + f"\n{conditions} `{result['command']}`\n"


def _against(cell):
    text = f"{cell['ms']:.0f} ms"
    return f"{text}, {cell['ratio']:.2f} ({cell['processor_ratio']:.2f})" if "ratio" in cell else text


def demo(result):
    """Returns the seconds of each stage and of what is in all stages."""
    columns = list(result["seconds"])
    names = list(dict.fromkeys(name for column in result["seconds"].values() for name in column))
    rows = [(name.strip(), [f"{result['seconds'][c].get(name, 0.0):.2f}" for c in columns]) for name in names]
    conditions = f"Seconds, medians of {result['repeats']} rounds. Commit {result['commit']}, {result['device']}."
    return _table(columns, rows) + f"\n{conditions} `{result['command']}`\n"


def added(result):
    """Returns one line: what the whole step adds to the network alone, and how it was measured."""
    shares = "; ".join(
        f"{name} " + ", ".join(f"{share_of(share)} by the {by}" for by, share in shares.items())
        for name, shares in result["added"].items()
    )
    about = f"{result['encoder']}, batch {result['batch']}, {result['side']} x {result['side']} pixels, medians."
    conditions = f"{about} Step and loop over the network alone, with 95 % intervals: {shares}."
    return f"{conditions} Commit {result['commit']}, {result['device']}. `{result['command']}`\n"


def share_of(share):
    low, high = share["interval_95"]
    return f"{100 * share['median']:+.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def kill(result):
    rows = {}
    for row in result["rows"]:
        rows.setdefault(row["stage"], []).append(row)
    cells = [
        (stage, [str(len(points)), str(sum(r["hit"] for r in points)), str(sum(r["identical"] for r in points))])
        for stage, points in rows.items()
    ]
    table = _table(("points", "killed in time", "ended with identical numbers"), cells, corner="stage")
    conditions = f"Of {result['points']} points {result['identical']} ended with the numbers of the unbroken run."
    return table + f"\n{conditions} Commit {result['commit']}. `{result['command']}`\n"


def evidence(result):
    """Returns overall and few-shot accuracy of each variant, and its paired gain over the first variant."""
    rows = []
    for name, cells in result["accuracy"].items():
        gain = result["gain over the first"].get(name)
        gains = [_spread(gain[g], "half_width_95", "+") for g in ("overall", "few")] if gain else ["", ""]
        rows.append((name, [*(_spread(cells[g], "std") for g in ("overall", "few")), *gains]))
    table = _table(("overall", "few", "overall, gain", "few, gain"), rows)
    return table + f"\n{result['seeds']} seeds, commit {result['commit']}. `{result['command']}`\n"


def comparison(result):
    """Returns test accuracy of each method, its validation accuracy and its paired difference to the reference."""
    columns = ("overall", "many", "medium", "few", "balanced")
    is_validated = any(method["validation"] for method in result["methods"].values())
    rows = []
    for name, method in result["methods"].items():
        title = f"**{method['title']}**" if name == result["selected"] else method["title"]
        cells = [_spread(method["test"][column], "std") for column in columns]
        validation = method["validation"]
        if is_validated:
            cells.append(f"{100 * validation['mean']:.1f}" if validation else "n/a")
        difference = method["difference"]
        about = "reference" if difference is None else _spread(difference, "half_width", "+")
        rows.append((title, [*cells, about if difference is None else f"{about}, {difference['words']}"]))
    extra = ("balanced, validation",) if is_validated else ()
    table = _table((*columns, *extra, "balanced, difference"), rows)
    failed = "".join(f" {name} failed: {reason}." for name, reason in result["failed"].items())
    chosen = " Bold: selected on validation images." if result["selected"] else ""
    conditions = f"{result['seeds']} seeds, {result['minutes']:.0f} minutes on two CPU cores.{chosen}{failed}"
    return table + f"\n{conditions} Commit {result['commit']}. `{result['command']}`\n"


def field(published):
    """Returns the published rows of the field with what one must know to compare them, and below them ours."""
    columns = (
        "network", "parameters", "epochs", "views", "subset", "epoch", "flips", "CIFAR-10-LT", "CIFAR-100-LT", "source",
    )  # fmt: skip
    rows = [
        (_titled(x), [*_protocol(x), x["cifar10_lt"] or "–", x["cifar100_lt"] or "–", x["source"] or ""])
        for x in published["rows"]
    ]
    if (RESULTS / SOURCES["encoders"]).exists():
        result = json.loads((RESULTS / SOURCES["encoders"]).read_text())
        heads = {name: about["heads"]["balanced_linear"] for name, about in result["data"].items()}
        about = (f"{result['weights']}, frozen, pretrained on ImageNet", "3.4 M", "–", "1", "canonical", "last", "none")
        measured = [_spread(heads[name]["overall"], "std") for name in ("cifar10", "cifar100")]
        rows.append((f"**{heads['cifar10']['title']}, measured here**", [*about, *measured, ""]))
    return _table(columns, rows, corner="method")


def front(result):
    """Returns the recipes with a published result on CIFAR-100-LT: title, paper, what was measured on the digits."""
    from lt_jax import methods

    published = json.loads((RESULTS / SOURCES["field"]).read_text())["rows"]
    cifar100 = {row["recipe"]: row["cifar100_lt"] for row in published if row["recipe"] and row["cifar100_lt"]}
    reproduced = json.loads((RESULTS / "reproduction_cifar100_lt.json").read_text())["rows"]
    ours = {row["method"]: f"{100 * row['overall']:.1f}" for row in reproduced}
    rows = []
    for name in (name for name in methods.RECIPES if name in cifar100):
        recipe, measured = methods.RECIPES[name], result["methods"].get(name)
        cells = [_spread(measured["test"][group], "std") if measured else "" for group in ("balanced", "few")]
        rows.append((f"`{name}`", [recipe.title, recipe.paper, *cells, ours.get(name, ""), cifar100[name]]))
    names = ("digits, balanced", "digits, few", "CIFAR-100-LT, measured", "CIFAR-100-LT, published")
    columns = ("title", "paper", *names)
    about = f"Digits: {result['seeds']} seeds, commit {result['commit']}, `{result['command']}`."
    about += " CIFAR-100-LT: imbalance factor 100, one seed; its command is in docs/results.md."
    return _table(columns, rows, corner="method") + f"\n{about}\n"


def reproduction(result):
    """Returns the accuracy of each method on one network, its published accuracy, and the difference."""
    rows = []
    for row in result["rows"]:
        cells = [*_cells(row), "", ""]
        if row["published"]:
            low, high = min(row["published"]), max(row["published"])
            overall = round(100 * row["overall"], 1)
            difference = overall - min(max(overall, low), high)
            cells[-2:] = [" to ".join(f"{x:.1f}" for x in row["published"]), f"{difference:+.1f}"]
        rows.append((row["title"], cells))
    first = result["rows"][0]
    about = (
        f"{first['network']}, {first['epochs']:g} epochs, seed {first['seed']}, subset {first['subset_digest'][:12]}. "
        f"Trained at commit {result['trained_at']}, heads at {result['commit']}. `{result['command']}`"
    )
    return _table((*GROUPS, "published", "difference"), rows) + f"\n{about}\n"


def dlsa_frozen(result):
    """Returns accuracy of DLSA and of plain classifiers on the features of a pretrained network."""
    separated = result["separability"]
    about = (
        f"A depth takes {100 * result['few_taken']['DLSA, depth 1'][0]['train']:.0f} % of the training images of few "
        f"classes and {100 * result['few_taken']['DLSA, depth 1'][0]['test']:.0f} % of their test images. Separability "
        f"of the features: area under the curve {separated['head_tail_auc']:.2f}, purity {separated['purity']:.2f}."
    )
    rows = [(name.replace("_", " "), _cells(row)) for name, row in result["accuracy"].items()]
    table = _table(GROUPS, rows, corner=f"{result['dataset'].upper()}-LT")
    return table + f"\n{about} Commit {result['commit']}. `{result['command']}`\n"


def _titled(row):
    return f"{row['method']} ({row['paper']}), published" if row["paper"] else f"{row['method']}, published"


def _protocol(row):
    """Returns the cells from the network to the flips; what is not known is a dash."""
    parameters = f"{row['parameters']:g} M" if row["parameters"] else None
    cells = (row["network"], parameters, row["epochs"], row["views"], row["subset"], row["epoch_rule"], row["flips"])
    return ["–" if cell is None else str(cell) for cell in cells]


def features(result):
    """Returns images a second of the feature pass, and how many times those of PyTorch, for each size of image."""
    rows = []
    for name, column in result["columns"].items():
        cells = [f"{x['images_per_s']:.0f}, {x['of_pytorch']:.2f}" for x in column.values()]
        rows.append((name, cells))
    sizes = next(iter(result["columns"].values()))
    conditions = f"EfficientNet-Lite0, batch {result['batch']}, medians of {result['repeats']} rounds, two CPU cores."
    return _table(list(sizes), rows) + f"\n{conditions} Commit {result['commit']}. `{result['command']}`\n"


def subsets(result):
    """Returns accuracy of each selector and its gain over a uniform subset, by data set and k."""
    rows = []
    for name, by_k in result["data"].items():
        for k, selectors in by_k.items():
            for selector, x in selectors.items():
                gain = "" if selector == "uniform" else _spread(x["gain"], "half_width_95", "+")
                cells = [_spread(x["overall"], "std"), _spread(x["few"], "std"), gain]
                rows.append((f"{name}, k = {k}, `{selector}`", cells))
    table = _table(("overall", "few", "overall, gain over uniform"), rows)
    count = f"{result['networks']} networks of each kind, {result['seeds']} draws"
    about = count if result["networks"] > 1 else f"{result['seeds']} seeds"
    return table + f"\n{about}, commit {result['commit']}. `{result['command']}`\n"


def ablation(result):
    """Returns the balanced validation accuracy of each setting, its gain over all ingredients, and that of heads."""
    from lt_jax import methods

    heads = list(result["rows"][result["reference"]]["heads"])
    rows = []
    for name, x in result["rows"].items():
        own = x["validation"]
        gain = _spread(x["gain"], "half_width_95", "+") if x["gain"] else ""
        groups = [_spread(own[group], "std") for group in ("many", "few")]
        of_heads = [_spread(x["heads"][head], "std") for head in heads]
        rows.append((name, [str(x["seeds"]), _spread(own["balanced"], "std"), gain, *groups, *of_heads]))
    columns = ("seeds", "balanced", "balanced, gain", "many", "few", *(methods.title("HEADS", head) for head in heads))
    return _table(columns, rows) + f"\nTrained at commit {', '.join(result['trained_at'])}. `{result['command']}`\n"


def bns_features(result):
    """Returns accuracy of the adapter with and without BNS, and what BNS adds."""
    rows = []
    for name, forms in result["data"].items():
        for form, x in forms.items():
            gain = "" if form == "adapter" else _spread(x["gain"], "half_width_95", "+")
            rows.append(
                (f"{name.upper()}-LT, `{form}`", [_spread(x[key], "std") for key in ("overall", "few")] + [gain])
            )
    table = _table(("overall", "few", "overall, gain"), rows)
    return table + f"\n{result['seeds']} seeds, commit {result['commit']}. `{result['command']}`\n"


FROM_SCRATCH = ("cross_entropy", "ldam_drw", "bns_ipdpp", "proco", "glmc")  # stand below heads on a pretrained network


def encoders(result):
    """Returns a table for each data set: heads on frozen features, and below them published numbers from scratch."""
    tables = []
    for name, about in result["data"].items():
        rows = []
        for head in about["heads"].values():
            cells = [_spread(head[group], "std") if head[group]["mean"] is not None else "n/a" for group in GROUPS]
            rows.append((head["title"], [*cells, f"{100 * head['validation']['mean']:.1f}"]))
        chosen = ", ".join(f"`{head}`" for head in dict.fromkeys(about["selected"]["names"]))
        rows.append((f"selected: {chosen}", [*(_spread(about["selected"][group], "std") for group in GROUPS), ""]))
        published = json.loads((RESULTS / SOURCES["field"]).read_text())["rows"]
        from_scratch = [row for row in published if row["recipe"] in FROM_SCRATCH]
        rows += [(f"*{_titled(row)}*", [row[f"{name}_lt"], "", "", "", ""]) for row in from_scratch]
        corner = f"{name.upper()}-LT at {about['side']} pixels"
        tables.append(_table((*GROUPS, "validation"), rows, corner=corner))
    conditions = (
        f"{result['weights']}, imbalance factor {result['factor']:g}, {result['seeds']} seeds, "
        f"{result['seconds'] / 60:.0f} minutes on two cores. Commit {result['commit']}, {result['device']}."
    )
    return "\n".join(tables) + f"\n{conditions} `{result['command']}`\n"


def folder(result):
    """Returns a row for each run: its classes, seconds, the selected method, and what others would have given."""
    rows = []
    for row in result["rows"]:
        plain = row["methods"].get("Cross-entropy", row["methods"].get("Linear probe"))
        best = max(row["methods"].values())
        cells = [row["selected"], *(f"{100 * x:.1f}" for x in (row["balanced"], row["worst_class"], plain, best))]
        rows.append((f"`{row['config']}`: {', '.join(row['classes'])}", [*cells, f"{row['seconds']:.0f}"]))
    columns = ("selected", "balanced", "worst class", "cross-entropy", "best on test", "seconds")
    return _table(columns, rows, corner="classes") + f"\nCommit {result['commit']}. `{result['command']}`\n"


def _cells(row):
    return ["n/a" if row[g] is None else f"{100 * row[g]:.1f}" for g in GROUPS]


def _spread(cell, key, sign=""):
    if cell["mean"] is None:
        return "n/a"
    spread = "" if cell[key] is None else f" ± {100 * cell[key]:.1f}"
    return f"{100 * cell['mean']:{sign}.1f}{spread}"


def _table(columns, rows, corner=""):
    head = "| ".join(("", f"{corner} " if corner else "", *(f"{c} " for c in columns))).strip()
    lines = [f"{head} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows]) + "\n"


TABLES = {
    "cifar10": cifar, "dlsa": dlsa, "dlsa synthetic": synthetic, "step": step,
    "step one core": added, "kill": kill, "convolution": convolution, "demo": demo, "demo quick": demo,
    "field": field, "front": front, "encoders": encoders, "folder": folder,
    "features": features, "subsets": subsets,
    "bns features": bns_features, "ablation": ablation,
}  # fmt: skip
SOURCES = {
    "cifar10": "cifar10_lt_cpu.json", "dlsa": "dlsa_cifar100.json",
    "dlsa synthetic": "dlsa_synthetic.json", "step": "step.json", "step one core": "step_one_core.json",
    "kill": "kill.json", "convolution": "convolution.json", "demo": "demo.json", "demo quick": "demo_quick.json",
    "field": "../published.json", "front": "comparison_digits.json", "encoders": "encoders.json",
    "folder": "folder.json", "features": "features.json",
    "subsets": "subsets.json", "bns features": "bns_features.json", "ablation": "ablation.json",
}  # fmt: skip
for _form, _files in (
    (evidence, "evidence_*.json"), (comparison, "comparison_*.json"), (dlsa_frozen, "dlsa_*_frozen.json"),
    (reproduction, "reproduction_*.json"), (subsets, "subsets_*.json"),
):  # fmt: skip
    for _file in sorted(RESULTS.glob(_files)):
        _name = _file.stem.replace("_", " ")
        TABLES[_name], SOURCES[_name] = _form, _file.name


if __name__ == "__main__":
    main()
