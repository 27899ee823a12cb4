"""Command line of the comparison page, `python -m lt_jax.report`; see `USAGE`."""

import sys
from typing import Any

from lt_jax.core import errors
from lt_jax.report import compare

# A constant, since python -OO removes docstrings.
USAGE = """\
Compare runs from their work directories: python -m lt_jax.report DIR DIR ... [--out=FILE]

Runs that differ only in the seed share a row of the table: mean and spread over seeds. FILE defaults to
comparison.html. Exit status: 0 done, 2 bad input.
"""


def main(argv: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0 if argv else 2
    try:
        out, folders = _parse(argv)
        compare.write(folders, out)
        return 0
    except tuple(errors.EXIT_STATUS) as error:
        print(f"lt_jax: {error}", file=sys.stderr)
        return errors.EXIT_STATUS[type(error)]


def _parse(argv: Any) -> Any:
    out = "comparison.html"
    folders = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--out" and words:
            out = words.pop(0)
        elif word.startswith("--out="):
            out = word.partition("=")[2]
        elif word.startswith("-"):
            raise errors.BadInput(f"unknown flag {word}: expected work directories and --out=FILE")
        else:
            folders.append(word)
    if not folders:
        raise errors.BadInput("expected at least one work directory")
    return out, folders


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
