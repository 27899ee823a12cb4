"""Converts matplotlib figures to SVG that takes its colours from the page, so that one drawing fits both themes."""

import hashlib
import html
import io
import re
from typing import Any

import matplotlib
import matplotlib.text
from matplotlib.figure import Figure

# Name -> (light, dark). Figures are drawn in the light colours, which must be distinct to be replaced by name.
COLORS = {
    "ink": ("#1a1a19", "#f2f1ec"),
    "quiet": ("#6b6a65", "#a9a8a1"),
    "grid": ("#e4e3dd", "#3a3936"),
    "page": ("#fcfcfa", "#1a1a19"),
    "plain": ("#8a8984", "#a09f98"),  # the baseline
    "probe": ("#d99000", "#d99a1c"),
    "final": ("#2a78d6", "#5b9dee"),  # the balanced classifier, and the images that IP-DPP kept
    "many": ("#6a5aa8", "#a99be0"),
    "medium": ("#1c8f80", "#3cbfae"),
    "few": ("#d2463c", "#f27a6d"),
}
LIGHT = {name: pair[0] for name, pair in COLORS.items()}
SIZE = (4.4, 3.0)  # inches: fits a phone without scaling, so that the text stays readable

# Fixed ids and no date make the page reproducible. Text is kept as text, to use the font of the page.
_STYLE = {"svg.hashsalt": "lt_jax", "svg.fonttype": "none", "font.size": 9, "font.family": "DejaVu Sans"}


def axes(size: tuple[float, float] = SIZE, grid: str = "y") -> tuple[Figure, Any]:
    """A plain figure and its axes."""
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0.0)
    made = figure.subplots()
    made.patch.set_alpha(0.0)
    made.spines[["top", "right"]].set_visible(False)
    made.spines[["left", "bottom"]].set_color(LIGHT["quiet"])
    made.tick_params(colors=LIGHT["quiet"], labelsize=9)
    for axis in (made.xaxis, made.yaxis):
        axis.label.set_color(LIGHT["ink"])
        axis.label.set_size(9.5)
    if grid:
        made.grid(axis=grid, color=LIGHT["grid"], linewidth=0.8)
    made.set_axisbelow(True)
    return figure, made


def legend(made: Any, above: bool = False, columns: int = 3, **where: Any) -> None:
    position = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": columns} if above else {"loc": "best"}
    made.legend(
        frameon=False, fontsize=9, labelcolor=LIGHT["ink"], handlelength=1.4, columnspacing=1.2, **{**position, **where}
    )


def text(figure: Figure) -> str:
    """The figure as a standalone SVG file in the light colours."""
    for label in figure.findobj(matplotlib.text.Text):
        label.set_parse_math(False)  # names of classes may hold dollar signs
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # Rounds coordinates to 0.01 point. Only attributes are changed, never the text of labels.
    return re.sub(r'="[^"]*"', lambda match: re.sub(r"-?\d+\.\d{3,}", _rounded, match[0]), buffer.getvalue())


def _rounded(number: Any) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def inline(content: str, alt: str) -> str:
    """The SVG file as an `<svg>` element for the page."""
    body = content[content.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style type=\"text/css\">.*?</style>", "", body, flags=re.S)
    body = re.sub(r"font: ([^;\"]*?) 'DejaVu Sans'[^;\"]*", r"font-size: \1", body)  # use the font of the page
    body = re.sub(r"font-size: (?:[\w ]*? )?([\d.]+px)", r"font-size: \1", body)
    for name, (light, _) in COLORS.items():
        body = re.sub(rf"{light}\b", f"var(--{name})", body, flags=re.I)
    # An id must be unique in the page. Those of groups are never referred to.
    mark = "svg" + hashlib.sha256(f"{alt}{content}".encode()).hexdigest()[:8]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{mark}-", body)
    size = re.search(r'viewBox="([^"]*)"', body)[1]  # type: ignore[index]
    inside = body[body.index(">") + 1 :]
    width = 1.6 * float(size.split()[2])  # pixels: one scale, so that text has the same size in every figure
    label = html.escape(alt, quote=True)
    return f'<svg viewBox="{size}" style="max-width: {width:.0f}px" role="img" aria-label="{label}">{inside}'.strip()


def variables(theme: int) -> str:
    """The colours as CSS variables; theme 0 is light, 1 is dark."""
    return " ".join(f"--{name}: {pair[theme]};" for name, pair in COLORS.items())
