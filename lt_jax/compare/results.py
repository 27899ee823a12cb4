"""From the runs of a comparison to `compare.json`."""

from typing import Any

import numpy as np
from etils import epath

from lt_jax import methods, statistics
from lt_jax.compare import plan
from lt_jax.core import errors, files
from lt_jax.stages import heads as stage_heads

MEASURES = ("overall", "many", "medium", "few", "balanced", "worst_class")
SELECTION_MEASURE = "balanced"


def read(jobs: list[plan.Job], names: list[str], workdir: epath.Path, failed: dict[str, str]) -> dict[str, Any]:
    """The content of `compare.json`.

    Args:
      jobs: all runs, finished unless they are in `failed`.
      names: the methods. The reference is the first one that did not fail, or of heads the plain linear one.
      workdir: of the comparison.
      failed: folder -> reason.

    Raises:
      RunFailed: no method has finished.
    """
    compared = {name: _method(jobs, name, workdir, failed) for name in names}
    done = [name for name in names if compared[name]["status"] == "complete"]
    if not done:
        raise errors.RunFailed("every method has failed: " + "; ".join(sorted(set(failed.values()))))
    reference = stage_heads.LINEAR if stage_heads.LINEAR in done else done[0]
    _add_differences(reference, {name: compared[name] for name in done}, _right_by_image(jobs, done, workdir))
    validation = {name: compared[name]["validation"] for name in done if compared[name]["validation"]}
    result = files.read_json(workdir / job_of(jobs, done[0]).folder / "result.json")
    return {
        "seeds": sorted({job.config.seed for job in jobs}),
        "folds": max(job.config.data.folds for job in jobs) or (result.get("selection") or {}).get("folds", 0),
        "dataset": result["dataset"],
        "protocol": result["protocol"],
        "reference": reference,
        "selected": statistics.select(validation) if validation else None,
        "selection": {"measure": SELECTION_MEASURE, "on": "validation" if validation else None},
        "methods": compared,
    }


def _method(jobs: list[plan.Job], name: str, workdir: epath.Path, failed: dict[str, str]) -> dict[str, Any]:
    recipe = plan.recipe_of(name)
    table = "RECIPES" if recipe in methods.RECIPES else "HEADS"
    own = [job for job in jobs if name in job.members]
    reason = next((failed[job.folder] for job in own if job.folder in failed), None)
    about = {"title": plan.title_of(name), "paper": methods.source(table, recipe)}
    if reason is not None:
        return {**about, "status": "failed", "reason": reason, "test": [], "validation": None}
    whole = [job for job in own if "/all/" in job.folder]
    measured = {job.folder: _measures(workdir, job, name) for job in own}
    test = [measured[job.folder]["test"] for job in whole]
    return {
        **about,
        "status": "complete",
        "runs": [job.folder for job in whole],
        "method_in_run": plan.method_in(whole[0], name),
        "seconds": measured[whole[0].folder]["seconds"],
        "test": test,
        "summary": {measure: statistics.spread([x[measure] for x in test]) for measure in MEASURES},
        "validation": _validation(own, whole, measured),
    }


def _measures(workdir: epath.Path, job: plan.Job, name: str) -> dict[str, Any]:
    result = files.read_json(workdir / job.folder / "result.json")
    return result["methods"][plan.method_in(job, name)]


def _validation(own: list[plan.Job], whole: list[plan.Job], measured: dict[str, Any]) -> dict[str, float] | None:
    """Pooled validation accuracy: of the folds of each seed, or of the official split."""
    by_seed = []
    for job in whole:
        held_out = [x for x in own if x.config.seed == job.config.seed and x not in whole] or [job]
        by_seed.append([measured[x.folder]["validation"] for x in held_out])
    if any(measures is None for folds in by_seed for measures in folds):
        return None
    return statistics.pooled(by_seed)


def _right_by_image(jobs: list[plan.Job], names: list[str], workdir: epath.Path) -> dict[str, Any]:
    """Name -> share of the seeds in which each test image (n,) is classified right; and the labels, the few classes."""
    right: dict[str, Any] = {}
    for name in names:
        each = []
        for job in jobs:
            if name in job.members and "/all/" in job.folder:
                file = workdir / job.folder / "predictions.npz"
                predictions, key = files.read_npz(file), f"predicted_{plan.method_in(job, name)}"
                if key not in predictions:
                    raise errors.BadInput(
                        f"{file} lacks what this version compares: delete stages/evaluate.json there and compare again"
                    )
                each.append(predictions[key] == predictions["labels"])
        right[name] = np.mean(each, axis=0)
    groups = files.read_json(workdir / job_of(jobs, names[0]).folder / "result.json")["dataset"]["groups"]
    return {"right": right, "labels": predictions["labels"], "few": groups["few"]}


def job_of(jobs: list[plan.Job], name: str) -> plan.Job:
    """The first run that holds a method."""
    return next(job for job in jobs if name in job.members)


def _weights(measure: str, labels: np.ndarray, few: list[int]) -> np.ndarray:
    """Weights (C,) of the classes in a measure."""
    counts = np.bincount(labels)
    if measure == "overall":
        return counts / len(labels)
    is_in = np.isin(np.arange(len(counts)), few) if measure == "few" else np.ones(len(counts), bool)
    return (is_in & (counts > 0)) / max(1, (is_in & (counts > 0)).sum())


def _add_differences(reference: str, compared: dict[str, dict[str, Any]], images: dict[str, Any]) -> None:
    """Adds to each method its paired difference to the reference, and what that means.

    Its interval covers the seeds and the choice of the test images.
    """
    names = [name for name in compared if name != reference]
    for measure in ("balanced", "overall", "few"):
        weights = _weights(measure, images["labels"], images["few"])
        values = {name: [x[measure] for x in method["test"]] for name, method in compared.items()}
        differences = {}
        for name in names:
            if None not in values[name] and None not in values[reference]:
                by_image = images["right"][name] - images["right"][reference]
                error = statistics.sampling_error(by_image, images["labels"], weights)
                differences[name] = statistics.paired(values[name], values[reference], test_error=error)
        significant = statistics.holm({name: x["p"] for name, x in differences.items() if x is not None})
        for name, difference in differences.items():
            words = statistics.in_words(difference, significant.get(name, False))
            compared[name].setdefault("difference", {})[measure] = {**(difference or {}), "words": words}


def table(compared: dict[str, Any]) -> str:
    """The comparison as plain text, accuracies in per cent; the selected method is marked by a star."""
    rows: list[tuple[str, ...]] = [("", *MEASURES, "validation", "balanced, difference")]
    for name, method in compared["methods"].items():
        if method["status"] != "complete":
            rows.append((method["title"], f"failed: {method['reason']}"))
            continue
        star = " *" if name == compared["selected"] else ""
        validation = method["validation"]
        rows.append(
            (
                method["title"] + star,
                *(_cell(method["summary"][measure]) for measure in MEASURES),
                f"{100 * validation['mean']:.1f}" if validation else "n/a",
                difference_in_words(method.get("difference", {}).get("balanced")),
            )
        )
    widths = [max(len(row[i]) for row in rows if len(row) > i and len(row) > 2) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    if compared["selected"] is not None:
        lines.append(f"* selected by {SELECTION_MEASURE} accuracy on validation images; the test set selects nothing")
    return "\n".join(lines)


def _cell(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "n/a"
    return f"{100 * spread['mean']:.1f}" + (f" ± {100 * spread['std']:.1f}" if spread["std"] > 1e-9 else "")


def difference_in_words(difference: dict[str, Any] | None) -> str:
    """The difference to the reference in points, with its interval and what it means."""
    if difference is None:
        return "reference"
    if "mean" not in difference:
        return str(difference["words"])
    return f"{100 * difference['mean']:+.1f} ± {100 * difference['half_width']:.1f}, {difference['words']}"
