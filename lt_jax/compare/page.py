"""The page `compare.html`: one self-contained file, as those of single runs."""

import html
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lt_jax.compare import results
from lt_jax.report import page, svg


def document(compared: dict[str, Any]) -> str:
    """The HTML of the page.

    Args:
      compared: the content of `compare.json`.
    """
    data = compared["dataset"]
    title = f"{data['name']}: {len(compared['methods'])} methods compared"
    return page.page(title, _lead(compared) + _table(compared) + _pictures(compared) + _protocol(compared))


def _lead(compared: dict[str, Any]) -> str:
    data = compared["dataset"]
    text = (
        f"{data['name']}: {data['train_size']:,} training images in {data['num_classes']} classes, "
        f"{max(data['counts']):,} in the largest and {min(data['counts']):,} in the smallest. Every method was trained "
        f"with {_seeds(compared)} under one protocol. "
    )
    selected = compared["selected"]
    if selected is None:
        text += "There are no validation images, so nothing was selected."
    else:
        chosen, reference = compared["methods"][selected], compared["methods"][compared["reference"]]
        text += (
            f"{chosen['title']} was selected by its balanced accuracy on validation images. On the test images it has "
            f"{_percent(chosen, 'balanced')} balanced accuracy"
        )
        if selected != compared["reference"]:
            text += f", {reference['title']} {_percent(reference, 'balanced')}"
        text += "."
    return f'<p class="lead">{html.escape(text)}</p>'


def _seeds(compared: dict[str, Any]) -> str:
    count = len(compared["seeds"])
    return "one seed" if count == 1 else f"{count} seeds"


def _percent(method: dict[str, Any], measure: str) -> str:
    return f"{100 * method['summary'][measure]['mean']:.1f} %"


def _table(compared: dict[str, Any]) -> str:
    head = "".join(f'<th scope="col">{page.COLUMNS[measure]}</th>' for measure in results.MEASURES)
    head += '<th scope="col">validation</th><th scope="col">balanced, difference</th>'
    body = []
    for name, method in compared["methods"].items():
        title = html.escape(method["title"])
        if name == compared["selected"]:
            title = f"<b>{title}</b><small>selected</small>"
        if method["status"] != "complete":
            reason = html.escape(method["reason"])
            body.append(f'<tr><th scope="row">{title}</th><td colspan="8">failed: {reason}</td></tr>')
            continue
        cells = "".join(f"<td>{_cell(method['summary'][measure])}</td>" for measure in results.MEASURES)
        validation = method["validation"]
        shown = "n/a"
        if validation:
            shown = f"{100 * validation['mean']:.1f} <small>± {100 * validation['standard_error']:.1f}</small>"
        difference = results.difference_in_words(method.get("difference", {}).get("balanced"))
        cells += f"<td>{shown}</td><td>{html.escape(difference)}</td>"
        body.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
    lead = (
        "Test accuracy in per cent of the last epoch: mean ± standard deviation over seeds. Validation: balanced "
        "accuracy ± its standard error. Difference to the reference, paired, with its 95 % interval over seeds and "
        "test images; within noise means that it is not significant among all methods together (Holm)."
    )
    return (
        f'<section><h2>All methods</h2><p class="lead">{html.escape(lead)}</p>{page.SCROLL}'
        f'<table class="numbers compared"><thead><tr><th scope="col">method</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _cell(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "n/a"
    return f"{100 * spread['mean']:.1f}" + (
        f" <small>± {100 * spread['std']:.1f}</small>" if spread["std"] > 1e-9 else ""
    )


def _pictures(compared: dict[str, Any]) -> str:
    title, text = "Balanced and few-shot accuracy", "One dot a seed; the bar is the mean. Best balanced accuracy first."
    drawn = page.exhibit(title, text, [("", svg.inline(svg.text(dots(compared)), page.alternative(title, "", text)))])
    return page.chapter("In pictures", "", [drawn])


def dots(compared: dict[str, Any]) -> Figure:
    """Accuracy of each method by seed: balanced, and that of the few-shot classes."""
    done = [method for method in compared["methods"].values() if method["status"] == "complete"]
    done.sort(key=lambda method: method["summary"]["balanced"]["mean"])
    figure, axes = svg.axes((6.4, 1.2 + 0.32 * len(done)), grid="x")
    for color, marker, measure in (("final", "o", "balanced"), ("few", "s", "few")):
        for row, method in enumerate(done):
            values = [x[measure] for x in method["test"] if x[measure] is not None]
            title = {"balanced": "all classes, balanced", "few": "few-shot classes"}[measure]
            label = title if row == 0 and values else None
            axes.plot(values, np.full(len(values), row), marker, color=svg.LIGHT[color], markersize=5, label=label)
            if values:
                axes.plot([np.mean(values)] * 2, [row - 0.3, row + 0.3], color=svg.LIGHT[color], linewidth=1.5)
    axes.set_yticks(range(len(done)), [method["title"] for method in done])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("test accuracy")
    svg.legend(axes, above=True)
    return figure


def _protocol(compared: dict[str, Any]) -> str:
    protocol = compared["protocol"]
    network = protocol["network"]
    facts = {
        "network": f"{network}, {protocol['parameters']:,} parameters" if network else "none: features of your own",
        "seeds": ", ".join(map(str, compared["seeds"])),
        "folds of cross-validation": compared["folds"] or "none",
        "epoch": "the last one; no test-time augmentation",
        "digest of the training images": protocol["subset_digest"],
    }
    rows = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"
