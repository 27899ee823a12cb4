"""Runs the code cells of a notebook in this Python, without Jupyter; --write saves their outputs in the file.

    LT_JAX_SMOKE=1 LT_JAX_DATA=DIR python notebooks/execute.py notebooks/cifar_lt_demo.ipynb [--write]

Figures become PNG, printed lines become text. A cell with the tag `shows-images` shows images of the data set, which
may not be redistributed: its figures are drawn, but never written.
"""

import base64
import contextlib
import io
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(words):
    path = pathlib.Path(words[0])
    notebook = json.loads(path.read_text())
    execute(notebook)
    if "--write" in words:
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def execute(notebook):
    """Runs all cells in one namespace and replaces their outputs. The traceback of an error names the cell."""
    namespace = {"__name__": "__main__"}
    number = 0
    for index, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        number += 1
        printed, figures = _run("".join(cell["source"]), f"cell {index}", namespace)
        sys.stdout.write(printed)
        shown = [] if "shows-images" in cell["metadata"].get("tags", []) else figures
        cell["execution_count"] = number
        cell["outputs"] = _text(printed) + [_figure(content) for content in shown]


def _run(source, name, namespace):
    """Returns (printed text, PNG of each figure)."""
    figures = []

    def show():
        for number in plt.get_fignums():
            buffer = io.BytesIO()
            plt.figure(number).savefig(buffer, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
            figures.append(buffer.getvalue())
        plt.close("all")

    before, plt.show = plt.show, show
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(source, name, "exec"), namespace)
            show()
    finally:
        plt.show = before
    return printed.getvalue(), figures


def _text(printed):
    lines = printed.splitlines(keepends=True)
    return [{"output_type": "stream", "name": "stdout", "text": lines}] if printed else []


def _figure(content):
    data = {"image/png": base64.b64encode(content).decode(), "text/plain": ["<Figure>"]}
    return {"output_type": "display_data", "data": data, "metadata": {}}


if __name__ == "__main__":
    main(sys.argv[1:])
