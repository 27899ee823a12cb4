"""Writes `report.html`: one self-contained file with a light and a dark theme and no external links.

The page follows the run: the data, the accuracy lost on rare classes, the features, the selected subset, training.
"""

import dataclasses
import html
import pathlib
from typing import Any

from etils import epath
from matplotlib.figure import Figure

from lt_jax.core import errors, files, log
from lt_jax.report import figures, story, svg
from lt_jax.run import results

COLUMNS = {
    "overall": "overall", "many": "many", "medium": "medium", "few": "few", "balanced": "balanced",
    "worst_class": "worst class", "macro_f1": "macro F1", "mcc": "MCC", "nmi": "NMI", "ece": "ECE",
}  # fmt: skip
# Around a table that may be wider than a phone; the focus lets a keyboard scroll it.
SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="table">'
NO_PERCENT = ("mcc", "nmi", "macro_f1", "ece")


@dataclasses.dataclass(frozen=True)
class Shown:
    """One exhibit of the page: a title, a sentence of text, and figures or finished HTML below."""

    name: str
    title: str
    text: str
    panels: dict[str, Figure]
    body: str = ""


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Writes `figures/` and `report.html` from the files of the work directory.

    Raises:
      BadInput: result.json does not exist yet.
    """
    result = files.read_json(workdir / "result.json")
    if result is None:
        raise errors.BadInput(f"no {workdir / 'result.json'}: run --stage=evaluate first")
    results.check(workdir, config, result)
    chapters = []
    for title, lead, exhibits in story.chapters(workdir, result):
        drawn = [_exhibit(Shown(*exhibit), workdir / "figures") for exhibit in exhibits]
        if drawn:
            chapters.append(chapter(f"{len(chapters) + 1}. {title}", lead, drawn))
    content = summary(result) + "\n".join(chapters) + _numbers(result) + _details(result)
    files.write_text(workdir / "report.html", page(config.report.title, content))
    log.say(f"the report is {workdir / 'report.html'}")
    return {}


def page(title: str, content: str) -> str:
    """A complete HTML document with this title and content."""
    css = pathlib.Path(__file__).with_name("page.css").read_text()
    css = css.replace("/* light */", svg.variables(0)).replace("/* dark */", svg.variables(1))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n<style>\n{css}</style></head>\n<body><main>\n"
        f"<h1>{html.escape(title)}</h1>\n{content}\n</main></body></html>\n"
    )


def chapter(title: str, lead: str, drawn: list[str]) -> str:
    head = f'<h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>'
    body = "\n".join(drawn)
    return f'<section>{head}\n<div class="figures">\n{body}\n</div></section>\n'


def _exhibit(shown: Shown, folder: epath.Path) -> str:
    pictures = []
    for number, (caption, figure) in enumerate(shown.panels.items()):
        content = svg.text(figure)
        name = shown.name if len(shown.panels) == 1 else f"{shown.name}_{number}"
        files.write_text(folder / f"{name}.svg", content)
        pictures.append((caption, svg.inline(content, alternative(shown.title, caption, shown.text))))
    return exhibit(shown.title, shown.text, pictures, shown.body)


def alternative(title: str, caption: str, text: str) -> str:
    """Alternative text of a picture, for screen readers."""
    return f"{title}{', ' + caption if caption else ''}. {text}"


def exhibit(title: str, text: str, pictures: list[tuple[str, str]], body: str = "") -> str:
    """A `<figure>` element with (caption, SVG) pictures."""
    kind = "wide" if body else f"panels-{len(pictures)}"
    parts = "".join(
        f'<div class="panel">{f"<h4>{html.escape(caption)}</h4>" if caption else ""}{picture}</div>'
        for caption, picture in pictures
    )
    return (
        f'<figure class="{kind}"><figcaption><h3>{html.escape(title)}</h3><p>{html.escape(text)}</p></figcaption>'
        f'<div class="panels">{parts}{body}</div></figure>'
    )


def summary(result: dict[str, Any]) -> str:
    """HTML of the introduction: the data set in one sentence, and two headline accuracies."""
    by_method = figures.methods(result)
    data = result["dataset"]
    names = list(by_method)
    text = (
        f"{data['name']}: {data['train_size']:,} training images in {data['num_classes']} classes, "
        f"{max(data['counts']):,} in the largest and {min(data['counts']):,} in the smallest. "
    )
    first, last = names[0], names[-1]
    cards = []
    if len(names) > 1:
        text += f"{first[0].upper()}{first[1:]} trains on all of them. {_handed_out(result, last)}"
        for key, label in (("few", "on the rarest classes"), ("overall", "on all test images")):
            before, after = by_method[first][key], by_method[last][key]
            if before is not None and after is not None:
                cards.append(_card(label, before, after, first, last))
    return f'<p class="lead">{html.escape(text)}</p><div class="cards">{"".join(cards)}</div>'


def _handed_out(result: dict[str, Any], title: str) -> str:
    """Which classifier `lt_jax.load` gives, and why."""
    name, selection = figures.selected(result), result.get("selection") or {}
    if selection.get("folds"):
        return (
            f"This run hands out {title}, chosen among {len(result['methods'])} methods by cross-validation: by "
            f"balanced accuracy on {selection['folds']} folds of the training images."
        )
    if result["methods"][name].get("validation"):
        return f"This run hands out {title}, chosen on validation images among {len(result['methods'])} methods."
    return f"This run hands out {title}, its final method: there are no validation images to choose by."


def _card(label: str, before: float, after: float, first: str, last: str) -> str:
    return (
        f'<div class="card"><p>{html.escape(label)}</p><p class="figure"><span>{100 * before:.1f} %</span>'
        f'<i aria-hidden="true">→</i><b>{100 * after:.1f} %</b></p>'
        f"<p>{html.escape(first)} → {html.escape(last)}, test accuracy</p></div>"
    )


def _numbers(result: dict[str, Any]) -> str:
    """HTML table of all measures of all methods; with validation images also of the accuracy that selects."""
    selection = result.get("selection")
    titles = {**({"validation": "validation"} if selection else {}), **COLUMNS}
    head = "".join(f'<th scope="col">{title}</th>' for title in titles.values())
    rows = []
    for name in sorted(result["methods"], key=lambda name: name == result["final"]):
        about = result["methods"][name]
        cells = f"<td>{_validated(about.get('validation'))}</td>" if selection else ""
        cells += "".join(f"<td>{cell(key, about['test'][key])}</td>" for key in COLUMNS)
        star = " *" if selection and name == figures.selected(result) else ""
        rows.append(f'<tr><th scope="row">{html.escape(about["title"])}{star}</th>{cells}</tr>')
    return (
        f'<section><h2>All numbers</h2><p class="lead">Accuracies in per cent on the test set, of the last epoch; '
        f"nothing is selected on the test set.{_rule(selection)}</p>"
        f'{SCROLL}<table class="numbers"><thead><tr><th scope="col">method</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _validated(measures: dict[str, Any] | None) -> str:
    """Balanced accuracy on validation images with its standard error."""
    if measures is None:
        return "n/a"
    return f"{100 * measures['balanced']:.1f} ± {100 * measures['balanced_error']:.1f}"


def _rule(selection: dict[str, Any] | None) -> str:
    """How the method with the star was selected, in words."""
    if not selection:
        return ""
    images = selection["images"]
    on = f"{selection['folds']} folds of the training images" if selection["folds"] else "validation images"
    return (
        f" * was selected: the column validation is the balanced accuracy on {on}, {min(images)} to {max(images)} of a "
        "class, with its standard error; of the methods within one standard error of the best the earliest is taken."
    )


def cell(key: str, value: float | None) -> str:
    """A measure formatted for the tables."""
    if value is None:
        return "n/a"
    return f"{value:.3f}" if key in NO_PERCENT else f"{100 * value:.1f}"


def _details(result: dict[str, Any]) -> str:
    titles = {
        "pretrain_s": "seconds of pretraining", "select_s": "seconds of drawing subsets",
        "retrain_s": "seconds of retraining", "pretrain_images_per_s": "images a second in pretraining",
    }  # fmt: skip
    timing = {titles.get(name, name): f"{value:.4g}" for name, value in result["timing"].items() if value is not None}
    facts = {
        "seed": result["seed"],
        "digest of the training images": result["dataset"]["index_digest"],
        **timing,
    }
    rows = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"
