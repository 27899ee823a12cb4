"""Reads text files in several encodings."""

import pathlib
from typing import Any

from lt_jax.core import errors, log

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read(file: Any, key: str = "") -> tuple[str, str]:
    """(content, encoding): UTF-16 by its byte-order mark, UTF-8, else Windows-1252 or Latin-1 with a log line.

    Args:
      key: the setting that names the file, for the error message.

    Raises:
      BadInput: the file cannot be read.
    """
    content = read_bytes(file, key)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise errors.BadInput(
                f"{log.printable(str(file))}: no readable {encoding} text ({error.reason})"
            ) from error
    log.say(f"{log.printable(str(file))} is not UTF-8: read as Windows-1252 (Latin-1)")
    try:
        return content.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:  # five bytes are undefined in Windows-1252
        return content.decode("latin-1"), "latin-1"


def read_bytes(file: Any, key: str = "") -> bytes:
    """The content of the file. Raises BadInput if it cannot be read."""
    try:
        return pathlib.Path(file).read_bytes()
    except OSError as error:
        reason = errors.reason(error)
        raise errors.BadInput(f"{key + ': ' if key else ''}{log.printable(str(file))}: {reason}") from error


def lines_of_names(file: Any) -> list[str]:
    """Lines of a list of file names; bytes that are not UTF-8 are escaped like in `os.fsdecode`.

    Raises:
      BadInput: the file cannot be read.
    """
    content = read_bytes(file)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding, "surrogateescape" if "16" not in encoding else "replace").split("\n")
