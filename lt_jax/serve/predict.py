"""`--stage=predict`: labels and probabilities of your images, by the classifier of a finished run."""

import csv
import io
import json
import os
import sys
from typing import Any

import numpy as np
from etils import epath

from lt_jax.core import errors, files, log
from lt_jax.serve import classifier

_AT_ONCE = 500  # images in memory at a time
_SHOWN = 3  # classes in a row of the table


def run(workdir: epath.Path, options: Any) -> None:
    """Prints one row per image, or writes them to a file.

    Args:
      workdir: of the run.
      options: flags of the command line: images (files and folders), format (table, csv or json), out (a file, or "" to
        print), method and tau as for `lt_jax.load`.

    Raises:
      BadInput: the run is not finished, there is no image, an image cannot be read, or the format is unknown.
    """
    if options.format not in FORMS:
        raise errors.BadInput(f"--format: expected one of {', '.join(FORMS)}, found {options.format!r}")
    model = classifier.load(workdir, options.method, options.tau)
    paths = classifier.find_images(options.images)
    parts = [model.predict(paths[i : i + _AT_ONCE]) for i in range(0, len(paths), _AT_ONCE)]
    log.say(f"classifier: {model.method}")
    text = FORMS[options.format]([os.fspath(path) for path in paths], model.class_names, np.concatenate(parts))
    if options.out:
        files.write_bytes(epath.Path(os.path.expanduser(options.out)), text.encode("utf-8", "surrogateescape"))
        log.say(f"{len(paths)} images: {log.printable(options.out)}")
    else:
        _print(text)


def _print(text: str) -> None:
    """Writes to standard output: file names keep their bytes if it is UTF-8, otherwise they are escaped."""
    stream = sys.stdout
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("_", "-")
    if encoding in ("utf-8", "utf8") and hasattr(stream, "buffer"):
        stream.flush()
        stream.buffer.write(text.encode("utf-8", "surrogateescape"))
        stream.buffer.flush()
    else:
        stream.write(log.encodable(text, stream))


def table(paths: list[str], names: tuple[str, ...], probabilities: np.ndarray) -> str:
    """Plain text: the three likeliest classes, one line per image; special characters in names are escaped."""
    shown = [log.printable(path) for path in paths]
    width = max(len(path) for path in shown)
    rows = []
    for path, row in zip(shown, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:_SHOWN]
        rows.append(f"{path:<{width}}  " + "  ".join(f"{names[c]} {100 * row[c]:.1f} %" for c in best))
    return "\n".join(rows) + "\n"


def as_csv(paths: list[str], names: tuple[str, ...], probabilities: np.ndarray) -> str:
    """CSV with image, label, probability and one column per class. File names keep their original bytes."""
    out = io.StringIO()
    plain = csv.writer(out, lineterminator="\n")
    quoting = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(["image", "label", "probability", *names])
    for path, row in zip(paths, probabilities, strict=True):
        writer = quoting if "\r" in path else plain  # the plain writer does not quote \r
        writer.writerow([path, names[row.argmax()], f"{row.max():.6f}", *(f"{x:.6f}" for x in row)])
    return out.getvalue()


def as_json(paths: list[str], names: tuple[str, ...], probabilities: np.ndarray) -> str:
    """JSON list of {"image", "label", "probability", "probabilities": {name: probability}}, in ASCII."""
    rows: list[dict[str, Any]] = []
    for path, row in zip(paths, probabilities, strict=True):
        each = {name: round(float(x), 6) for name, x in zip(names, row, strict=True)}
        label = names[row.argmax()]
        rows.append({"image": path, "label": label, "probability": each[label], "probabilities": each})
    return json.dumps(rows, indent=1) + "\n"


FORMS = {"table": table, "csv": as_csv, "json": as_json}
