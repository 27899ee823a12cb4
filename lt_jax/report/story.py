"""Chapters of the page with their exhibits and texts. An exhibit whose file is missing is left out."""

import json
from typing import Any

import numpy as np
from etils import epath

from lt_jax.core import files
from lt_jax.report import dlsa, embedding, figures, selection
from lt_jax.report import predictions as predicted

# Name, title, text, panels, HTML.
Exhibit = tuple[str, str, str, dict[str, Any], str]


def chapters(workdir: epath.Path, result: dict[str, Any]) -> list[tuple[str, str, list[Exhibit]]]:
    """(title, lead, exhibits) in the order of the page."""
    lines = _lines(workdir, result)
    chances = _npz(workdir / "inclusion.npz")
    predictions = _npz(workdir / "predictions.npz")
    divided = dlsa.read(workdir) if result["method"] == "dlsa" else None
    is_compared = len(figures.methods(result)) > 1
    return [
        (
            "Few classes hold most of the images",
            "A classifier that weights every image equally learns the large classes and loses little by ignoring the "
            "small ones: its accuracy falls towards the tail.",
            _loss(result),
        ),
        (
            "What balancing recovers" if is_compared else "Which classes are recognised",
            f"Accuracy on the test images{', before and after balancing' if is_compared else ''}.",
            _return(result, predictions, divided),
        ),
        (
            "Features that keep classes apart",
            _encoder(result),
            _features(workdir, result, lines),
        ),
        (
            "A balanced set to train on",
            _balanced_set(chances),
            _selection(workdir, result, chances),
        ),
        (
            "Division by likelihood",
            "DLSA divides the images until each part is balanced enough to be classified on its own.",
            [(name, *parts, "") for name, parts in (dlsa.plan(divided) if divided else {}).items()],
        ),
        (
            "How it was trained",
            "Losses over epochs; a diverged run is visible here.",
            _training(lines),
        ),
    ]


def _encoder(result: dict[str, Any]) -> str:
    """Where the features come from."""
    if result.get("frozen"):
        return (
            f"The encoder, {result['protocol']['network']}, is frozen: it has the weights that it was loaded with, and "
            "all methods classify the same features."
        )
    if result["protocol"]["network"] is None:
        return "The features are those of the data set; no network was trained on images."
    pretraining = result.get("pretraining")
    if "pretraining" not in result and result.get("probe"):  # made by an earlier commit
        return "A contrastive objective pretrains the encoder."
    if pretraining is None:
        return "The features of an image are what the last layer of the network sees, after training on all images."
    if pretraining["loss"].startswith("bns"):
        return (
            "Balanced Negative Sampling pretrains the encoder: every class repels the others equally often, however "
            "few images it has."
        )
    return f"The contrastive objective {pretraining['title']} pretrains the encoder."


def _balanced_set(chances: dict[str, Any] | None) -> str:
    """What the images of a retraining are, and how they are selected."""
    text = "At most k images of each class, redrawn every few epochs; the network is retrained on them."
    if chances is not None and str(chances.get("title", "")).startswith("IP-DPP"):
        text += " IP-DPP prefers images that the classifier finds hard, since they carry more information."
    return text


def _loss(result: dict[str, Any]) -> list[Any]:
    counts = sorted(result["dataset"]["counts"], reverse=True)
    text = f"Training images of each class: {counts[0]:,} in the largest, {counts[-1]:,} in the smallest."
    return [
        ("class_counts", "The long tail", text, {"": figures.class_counts(result)}, ""),
        (
            "accuracy_by_class_size",
            "Accuracy against class size",
            "From the largest classes on the left to the smallest on the right.",
            {"": figures.accuracy_by_class_size(result)},
            "",
        ),
    ]


def _return(result: dict[str, Any], predictions: dict[str, Any] | None, divided: dict[str, Any] | None) -> list[Any]:
    text = "Mean test accuracy of the classes of each group, in per cent."
    exhibits = [("group_bars", "Many, medium and few", text, {"": figures.group_bars(result)}, "")]
    if len(figures.every_method(result)) > 3:
        text = "Every classifier that this run holds, sorted by its accuracy on all test images."
        exhibits.append(("all_methods", "Every method of this run", text, {"": figures.all_methods(result)}, ""))
    if predictions is None:
        return exhibits
    by_method = predicted.by_method(predictions, result)
    labels = predictions["labels"]
    text = "On the dashed line confidence equals accuracy; below it the classifier is overconfident."
    drawn = {"": predicted.reliability_figure(labels, by_method)}
    exhibits.append(("reliability", "Can its confidence be trusted?", text, drawn, ""))
    if divided is None:
        exhibits.append(_confusion(result, by_method, labels))
    return exhibits


def _confusion(result: dict[str, Any], by_method: dict[str, Any], labels: np.ndarray) -> tuple[Any, ...]:
    which, names = predicted.bins_of_classes(result["dataset"]["counts"])
    last = list(by_method)[-1]
    panels = {
        name: predicted.confusion_figure(
            predicted.confusion(labels, x, which), names, "final" if name == last else "plain"
        )
        for name, (x, _) in by_method.items()
    }
    text = (
        "Per cent of the test images of each class size (rows) predicted as a class of each size (columns). Left "
        "of the diagonal are images of rare classes taken for common ones."
    )
    return "confusion", "Who is taken for whom", text, panels, ""


def _features(workdir: epath.Path, result: dict[str, Any], lines: list[Any]) -> list[Any]:
    exhibits = []
    shown = _npz(workdir / "features" / "shown.npz")
    if shown is not None and len(shown["labels"]) >= 10:
        exhibits += _planes(shown, result)
    keys = {"intra_class_distance": "within a class", "inter_class_distance": "between classes"}
    if _has(lines, "pretrain", "intra_class_distance"):
        text = "Mean distance between embeddings of two images in pretraining, within a class and between classes."
        drawn = {"": figures.training_curve(lines, "pretrain", keys)}
        exhibits.append(("distances", "Distances of embeddings", text, drawn, ""))
    text = f"{(result.get('pretraining') or {}).get('title', 'Contrastive objective')}, mean over anchors."
    return exhibits + _curves(lines, "pretrain", "Pretraining loss", text)


def _planes(shown: dict[str, Any], result: dict[str, Any]) -> list[Any]:
    panels = {}
    names = [name for name in embedding.STAGES if name in shown and shown[name].shape[1] > 1]
    for name, points in zip(names, embedding.planes([shown[name] for name in names]), strict=True):
        share = embedding.separation(shown[name], shown["labels"])
        title = f"{embedding.STAGES[name]}: {100 * share:.0f} % nearest to their own class"
        panels[title] = embedding.figure(points, shown["labels"], result)
    text = (
        f"{len(shown['labels']):,} test images, placed so that similar features are close (t-SNE). The number is the "
        "share of images whose nearest neighbour, in all dimensions, has the same class. Colours are the groups."
    )
    return [("tsne", "Features of the encoder", text, panels, "")] if panels else []


def _selection(workdir: epath.Path, result: dict[str, Any], chances: dict[str, Any] | None) -> list[Any]:
    thumbnails = _npz(workdir / "thumbnails.npz")
    if chances is None or thumbnails is None:
        return []
    labels = chances["labels"]
    k = int(chances["k"])
    method = str(chances["method"])
    kept_counts = np.bincount(labels[chances["chosen"]], minlength=result["dataset"]["num_classes"])
    exhibits: list[Exhibit] = [
        (
            "gallery",
            "What was kept and what was left",
            "Images of the last draw, hardest first; at most ten of each kind. Small classes are kept whole.",
            {},
            selection.gallery(thumbnails, kept_counts, result),
        )
    ]
    if (np.bincount(labels) <= k).all():
        return exhibits
    rounds = _rounds(workdir)
    text = (
        f"Information (-log p) of the images kept (method: {method}) and left, over {len(rounds)} draws, in classes "
        f"of more than {k} images. If kept is right of the dashed line, the choice favours hard images."
    )
    drawn = selection.histogram_figure(selection.histogram(rounds, labels))
    exhibits.append(("information", "How much information stays", text, {"": drawn}, ""))
    cut = chances["inclusion"][(np.bincount(labels) > k)[labels]]
    if np.isfinite(cut).any():
        text = (
            "Each dot is a training image in the last draw; the dashed line is the chance under a uniform choice. "
            "Labels show how many of the class are kept."
        )
        exhibits.append(
            (
                "inclusion",
                "The chance that an image is kept",
                text,
                {"": selection.inclusion_figure(chances, result)},
                "",
            )
        )
    return exhibits


def _rounds(workdir: epath.Path) -> list[Any]:
    """At most ten evenly spaced draws, including the first and the last."""
    paths = sorted((workdir / "subsets").glob("*.npz"), key=lambda path: int(path.stem))
    positions = np.unique(np.linspace(0, len(paths) - 1, selection.ROUNDS).round().astype(int))
    return [files.read_npz(paths[position]) for position in positions]


def _training(lines: list[Any]) -> list[Any]:
    text = "Cross-entropy on the balanced subset; it may jump when the subset is redrawn."
    exhibits = _curves(lines, "retrain", "Retraining loss", text)
    exhibits += _curves(lines, "baseline", "Baseline", "Training loss of the baseline.")
    keys = {"validation_balanced": "balanced", "validation_overall": "overall"}
    for stage, title in (("retrain", "Validation during retraining"), ("baseline", "Validation of the baseline")):
        if _has(lines, stage, "validation_balanced"):
            drawn = figures.training_curve(lines, stage, keys)
            text = "Accuracy on the validation images during training. It selects nothing."
            exhibits.append((f"{stage}_validation", title, text, {"": drawn}, ""))
    return exhibits


def _curves(lines: list[Any], stage: str, title: str, text: str) -> list[Any]:
    if not _has(lines, stage, "loss"):
        return []
    return [(f"{stage}_loss", title, text, {"": figures.training_curve(lines, stage, {"loss": "loss"})}, "")]


def _has(lines: list[Any], stage: str, key: str) -> bool:
    return any(line.get("stage") == stage and line.get(key) is not None for line in lines)


def _lines(workdir: epath.Path, result: dict[str, Any]) -> list[Any]:
    """Lines of `metrics.jsonl` of the stages of this result; another config may have left lines of others."""
    path = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    stages = result.get("stages")  # which results of earlier commits lack
    return [line for line in lines if stages is None or line.get("stage") in stages]


def _npz(path: epath.Path) -> dict[str, Any] | None:
    return files.read_npz(path) if path.exists() else None
