"""`report.html`: one self-contained file, light and dark, without an address of any other site."""

import base64
import html
import io
import json
from typing import Any

import matplotlib
from etils import epath
from matplotlib.figure import Figure

from lt_jax import errors, files, log
from lt_jax.report import dlsa, figures

_COLUMNS = {
    "overall": "overall", "many": "many", "medium": "medium", "few": "few", "balanced": "balanced",
    "worst_class": "worst class", "macro_f1": "macro F1", "mcc": "MCC", "nmi": "NMI", "ece": "ECE",
}  # fmt: skip
_NO_PERCENT = ("mcc", "nmi", "macro_f1", "ece")

# Name -> stage, title, text, key of metrics.jsonl -> label.
_CURVES = {
    "distances": (
        "pretrain",
        "Classes draw together",
        "Mean distance between embeddings of one class and of two, in pretraining.",
        {"intra_class_distance": "within a class", "inter_class_distance": "between classes"},
    ),
    "pretrain_loss": (
        "pretrain",
        "Pretraining loss",
        "Balanced Negative Sampling, mean over anchors.",
        {"loss": "loss"},
    ),
    "retrain_loss": (
        "retrain",
        "Retraining loss",
        "Cross-entropy on the balanced subset; it may jump where the subset is redrawn.",
        {"loss": "loss"},
    ),
    "baseline_loss": ("baseline", "Cross-entropy baseline", "Training loss of the plain yardstick.", {"loss": "loss"}),
}

# Fixed names of glyphs and no date: the same files give the same page.
matplotlib.rcParams["svg.hashsalt"] = "lt_jax"


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Writes `figures/` and `report.html` from the files of the work directory.

    Raises:
      BadInput: there is no result yet.
    """
    result = files.read_json(workdir / "result.json")
    if result is None:
        raise errors.BadInput(f"no {workdir / 'result.json'}: run --stage=evaluate first")
    sections = []
    divided = dlsa.read(workdir) if result["method"] == "dlsa" else None
    for name, (title, text, draw) in _plan(result, _lines(workdir), divided).items():
        images = {theme: _svg(draw(theme)) for theme in figures.THEMES}
        for theme, svg in images.items():
            files.write_bytes(workdir / "figures" / f"{name}_{theme}.svg", svg)
        sections.append(_section(title, text, images))
    page = _PAGE.format(
        title=html.escape(config.report.title), summary=_summary(result), table=_table(result),
        sections="\n".join(sections), details=_details(result),
    )  # fmt: skip
    files.write_text(workdir / "report.html", page)
    log.say(f"the report is {workdir / 'report.html'}")
    return {}


def _lines(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _plan(result, lines, divided):
    """Name -> (title, text, theme -> figure)."""
    plan = {
        "group_bars": (
            "Many, medium and few",
            "Mean accuracy of the classes of each group on the balanced test set.",
            lambda theme: figures.group_bars(result, theme),
        ),
        "accuracy_by_class_size": (
            "Accuracy against class size",
            "From the largest class on the left to the smallest on the right.",
            lambda theme: figures.accuracy_by_class_size(result, theme),
        ),
        "class_counts": (
            "What there was to learn from",
            "Training images of each class.",
            lambda theme: figures.class_counts(result, theme),
        ),
    }
    plan |= dlsa.plan(divided) if divided else {}
    for name, (stage, title, text, keys) in _CURVES.items():
        if any(line.get("stage") == stage and next(iter(keys)) in line for line in lines):
            plan[name] = (
                title,
                text,
                lambda theme, s=stage, k=keys: figures.training_curve(lines, s, k, theme),
            )
    return plan


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _section(title, text, images):
    light, dark = (f"data:image/svg+xml;base64,{base64.b64encode(images[t]).decode()}" for t in ("light", "dark"))
    return (
        f"<figure><figcaption><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p></figcaption><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{html.escape(title)}: {html.escape(text)}" src="{light}"></picture></figure>'
    )


def _summary(result):
    found = figures.methods(result)
    data = result["dataset"]
    text = (
        f"{data['name']}: {data['train_size']} training images in {data['num_classes']} classes, "
        f"{max(data['counts'])} in the largest and {min(data['counts'])} in the smallest; the test set is balanced."
    )
    if "cross-entropy" in found and result["test"]["few"] is not None:
        few = f"{100 * found['cross-entropy']['few']:.1f} %", f"{100 * result['test']['few']:.1f} %"
        text += f" On the few-shot classes plain cross-entropy is right in {few[0]} of the cases, "
        text += f"the balanced classifier in {few[1]}."
    return html.escape(text)


def _table(result):
    head = "".join(f"<th>{title}</th>" for title in _COLUMNS.values())
    rows = []
    for name, values in figures.methods(result).items():
        cells = "".join(f"<td>{_cell(key, values[key])}</td>" for key in _COLUMNS)
        rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(key, value):
    if value is None:
        return "n/a"
    return f"{value:.3f}" if key in _NO_PERCENT else f"{100 * value:.1f}"


def _details(result):
    timing = {name: value for name, value in result["timing"].items() if value is not None}
    facts = {
        "seed": result["seed"],
        "epoch": f"{result['epoch_rule']} (the test set chooses nothing)",
        "digest of the training images": result["dataset"]["index_digest"],
        **{name: f"{value:.4g}" for name, value in timing.items()},
    }
    rows = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #fcfcfa; --ink: #1a1a19; --quiet: #6b6a65; --line: #e4e3dd; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #1a1a19; --ink: #f2f1ec; --quiet: #a3a29b; --line: #3a3936; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }}
h2 {{ font-size: 1.05rem; margin: 0; }}
p {{ margin: .25rem 0 1rem; max-width: 46rem; }}
figcaption p, dt {{ color: var(--quiet); }}
.scroll {{ overflow-x: auto; margin: 1.5rem 0 2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 44rem; width: 100%; }}
th, td {{ padding: .45rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }}
thead th {{ color: var(--quiet); font-weight: 500; }}
tbody th {{ text-align: left; font-weight: 600; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 2rem; }}
figure {{ margin: 0; }}
img {{ width: 100%; height: auto; display: block; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 2.5rem 0 0; font-size: .85rem; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
@media (max-width: 40rem) {{ dl {{ grid-template-columns: 1fr; }} dd {{ margin-bottom: .4rem; }} }}
</style></head>
<body><main>
<h1>{title}</h1>
<p>{summary}</p>
<div class="scroll">{table}</div>
<div class="figures">
{sections}
</div>
{details}
</main></body></html>
"""
