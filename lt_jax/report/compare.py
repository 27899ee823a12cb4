"""Comparison page of several work directories: mean and spread over seeds, and differences between experiments.

Runs whose configs differ only in the seed form one row. Paths, devices and logging settings are ignored.
"""

import dataclasses
import html
import json
import math
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lt_jax import statistics
from lt_jax.core import errors, files, log
from lt_jax.report import figures, page, svg
from lt_jax.run import dependencies, results

# Keys that do not change the experiment, and files that are compared by content instead.
_IGNORED = (
    "seed", "init_from", "stages", "report.", "host.", "log.", "checkpoint.",
    "data.dir", "data.list", "data.classes", "data.workers", "encoder.weights",
)  # fmt: skip
_COLORS = ("final", "probe", "medium", "few", "many", "plain", "ink")


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs of one experiment with different seeds; the label names the settings that distinguish it."""

    label: str
    results: list[dict[str, Any]]

    def values(self, key: str, split: str = "test") -> np.ndarray:
        """One measure of every run; NaN where a run does not have it."""
        measures = [result[split][key] for result in self.results]
        return np.array([np.nan if value is None else value for value in measures], float)

    @property
    def seeds(self) -> list[int]:
        return [result["seed"] for result in self.results]


def write(folders: list[str], out: str) -> None:
    """Writes the comparison page of the work directories `folders` to `out`.

    Raises:
      BadInput: a folder has no finished run, or the runs were tested on different images.
    """
    rows = grouped([_read(folder) for folder in folders])
    text = document(rows, folders)
    files.write_text(epath.Path(out).expanduser(), text)
    log.say(f"the comparison is {out}")


def _read(folder: Any) -> Any:
    config, result = results.read(files.expand(folder, "work directory"))
    if not result.get("digests"):
        log.say(f"{folder} was made by an older lt_jax without digests: its images are not compared")
    return {".".join(path): value for path, value in dependencies.flattened(config).items()}, result


def grouped(runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Row]:
    """(flat config, result) of every run -> rows, in order of first appearance.

    A row is named by the keys in which it differs from the other rows.

    Raises:
      BadInput: the runs used different data, or two runs of a row have the same seed.
    """
    data = {(result["dataset"]["name"], result["dataset"]["num_classes"]) for _, result in runs}
    if len(data) > 1:
        raise errors.BadInput(f"runs on different data sets cannot be compared: {', '.join(n for n, _ in data)}")
    if len(_digests_of(runs, "test")) > 1:
        raise errors.BadInput(f"the runs were tested on other images of {data.pop()[0]}: they cannot be compared")
    settings = [{key: value for key, value in config.items() if not key.startswith(_IGNORED)} for config, _ in runs]
    # A key that only some configs have belongs to another method (`method` differs then) or to a newer config version.
    common = sorted(set.intersection(*(set(config) for config in settings)))
    differing = [key for key in common if len({json.dumps(config[key]) for config in settings}) > 1]
    rows: dict[str, list[Any]] = {}
    for config, run in zip(settings, runs, strict=True):
        rows.setdefault(_label(config, differing), []).append(run)
    for label, members in rows.items():
        _check_row(label, members)
    return [Row(label, [result for _, result in members]) for label, members in rows.items()]


def _check_row(label: Any, runs: Any) -> Any:
    """Raises BadInput unless the runs of a row differ only in the seed."""
    seeds = [result["seed"] for _, result in runs]
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice is not None:
        raise errors.BadInput(f"two runs of {label} have the seed {twice}")
    for split, words in (("train", "training images"), ("weights", "encoder weights")):
        if len(_digests_of(runs, split)) > 1:
            raise errors.BadInput(f"the runs of {label} have equal settings, but were made from other {words}")


def _digests_of(runs: Any, key: Any) -> Any:
    """The set of distinct digests in the results; results of older versions have none."""
    return {result["digests"][key] for _, result in runs if result.get("digests", {}).get(key)}


def _label(config: Any, differing: Any) -> Any:
    pairs = [f"{key}={config[key]}" for key in differing]
    return ", ".join(pairs) or "this experiment"


def difference(first: Row, other: Row, key: str) -> tuple[float, float, int] | None:
    """(mean, half width of its 95 % interval, pairs) of other - first over shared seeds; None for fewer than two."""
    ours = dict(zip(first.seeds, first.values(key), strict=True))
    theirs = dict(zip(other.seeds, other.values(key), strict=True))
    seeds = [s for s in sorted(ours.keys() & theirs.keys()) if not math.isnan(ours[s] + theirs[s])]
    gain = statistics.paired([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds])
    return None if gain is None else (gain["mean"], gain["half_width"], len(seeds))


def document(rows: list[Row], folders: list[str]) -> str:
    """The HTML of the comparison page."""
    name = rows[0].results[0]["dataset"]["name"]
    lead = (
        f"{name}: {len(folders)} runs, {len(rows)} experiment{'s' if len(rows) > 1 else ''}. "
        "Runs that differ by the seed alone share a row: mean ± standard deviation over seeds."
    )
    drawn = [
        _exhibit(
            "By group",
            "Test accuracy: each seed, and their mean with one standard deviation up and down.",
            by_group(rows),
        ),
        _exhibit("By class size", "Mean over seeds, from the largest classes to the smallest.", by_class_size(rows)),
    ]
    content = f'<p class="lead">{html.escape(lead)}</p>{_table(rows)}{_differences(rows)}'
    return page.page(f"{name}: comparison", content + page.chapter("In pictures", "", drawn))


def _exhibit(title: str, text: str, figure: Any) -> Any:
    return page.exhibit(title, text, [("", svg.inline(svg.text(figure), page.alternative(title, "", text)))])


def _table(rows: Any) -> Any:
    head = "".join(f'<th scope="col">{title}</th>' for title in page.COLUMNS.values())
    body = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{_cell(key, statistics.spread(row.values(key)))}</td>" for key in page.COLUMNS)
        seeds = f"seed{'s' if len(row.seeds) > 1 else ''} {', '.join(map(str, sorted(row.seeds)))}"
        dot = f'<span class="dot" style="background: var(--{_COLORS[number % len(_COLORS)]})"></span>'
        body.append(
            f'<tr><th scope="row">{dot}{html.escape(row.label)}<small>{html.escape(seeds)}</small></th>{cells}</tr>'
        )
    return (
        f'{page.SCROLL}<table class="numbers compared"><thead><tr><th scope="col">experiment</th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(key: str, spread: dict[str, float] | None) -> str:
    if spread is None:
        return "n/a"
    text = page.cell(key, spread["mean"])
    return f"{text} <small>± {page.cell(key, spread['std'])}</small>" if spread["std"] > 0 else text


def _differences(rows: Any) -> Any:
    """HTML table of the differences from the first row, over shared seeds."""
    table_rows = []
    for row in rows[1:]:
        cells = [difference(rows[0], row, key) for key in ("overall", "few", "worst_class")]
        if cells[0] is not None:
            gaps = "".join(f"<td>{_gap(cell)}</td>" for cell in cells)
            table_rows.append(f'<tr><th scope="row">{html.escape(row.label)}</th><td>{cells[0][2]}</td>{gaps}</tr>')
    if not table_rows:
        return ""
    return (
        f"<section><h2>Against {html.escape(rows[0].label)}</h2>"
        '<p class="lead">Mean difference over the seeds that both have, in points, with its 95 % interval.</p>'
        f'{page.SCROLL}<table class="numbers compared"><thead><tr><th scope="col">experiment</th>'
        '<th scope="col">seeds</th><th scope="col">overall</th><th scope="col">few</th><th scope="col">worst class</th>'
        f"</tr></thead><tbody>{''.join(table_rows)}</tbody></table></div></section>"
    )


def _gap(cell: Any) -> Any:
    return "n/a" if cell is None else f"{100 * cell[0]:+.1f} <small>± {100 * cell[1]:.1f}</small>"


def by_group(rows: list[Row]) -> Figure:
    """Accuracy overall and by group: one colour per row, a pale dot per seed, bars of one standard deviation."""
    keys = [key for key in ("overall", *figures.GROUPS) if any(statistics.spread(row.values(key)) for row in rows)]
    figure, axes = svg.axes((4.4, 3.0 + 0.2 * len(rows)))
    for number, row in enumerate(rows):
        color = svg.LIGHT[_COLORS[number % len(_COLORS)]]
        x_positions = np.arange(len(keys)) + (number - (len(rows) - 1) / 2) * min(0.2, 0.8 / len(rows))
        for x, key in zip(x_positions, keys, strict=True):
            axes.plot(np.full(len(row.seeds), x), row.values(key), "o", markersize=3, color=color, alpha=0.4)
        spreads = [statistics.spread(row.values(key)) or {"mean": np.nan, "std": np.nan} for key in keys]
        axes.errorbar(
            x_positions, [x["mean"] for x in spreads], yerr=[x["std"] for x in spreads], linestyle="none", capsize=3,
            linewidth=1.6, marker=figures.MARKERS[number % 3], markersize=6, color=color, label=_short(row.label),
        )  # fmt: skip
    axes.set_xticks(np.arange(len(keys)), keys)
    axes.set_xlim(-0.5, len(keys) - 0.5)
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    svg.legend(axes, above=True, columns=1)
    return figure


def by_class_size(rows: list[Row]) -> Figure:
    """Accuracy of each class, averaged over seeds, against its number of training images."""
    figure, axes = svg.axes((4.4, 3.0 + 0.2 * len(rows)))
    for number, row in enumerate(rows):
        lines = [figures.by_class_size(r["dataset"]["counts"], r["test"]["per_class"]) for r in row.results]
        color = svg.LIGHT[_COLORS[number % len(_COLORS)]]
        axes.plot(
            lines[0][0], np.mean([y for _, y in lines], axis=0), marker=figures.MARKERS[number % 3], markersize=4,
            linewidth=1.4, color=color, label=_short(row.label),
        )  # fmt: skip
    figures.by_size_axis(axes)
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    svg.legend(axes, above=True, columns=1)
    return figure


def _short(label: Any) -> Any:
    return label if len(label) <= 52 else label[:51] + "…"
