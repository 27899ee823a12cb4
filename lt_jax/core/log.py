"""Output of a run: log lines, progress bars, and `metrics.jsonl`."""

import json
import os
import sys
import time
import unicodedata
from typing import Any

from etils import epath
from tqdm import tqdm

from lt_jax.core import distributed, files

_FLUSH_SECONDS = 10.0


def say(line: str) -> None:
    """Prints one log line, above any progress bar."""
    if distributed.is_main():
        tqdm.write(encodable(f"[lt_jax] {line}", sys.stderr), file=sys.stderr)


def printable(name: str) -> str:
    """A file name on one line, with escapes for control characters and \\xNN for undecodable bytes."""
    return name if name.isprintable() else "".join(map(_escaped, name))


def _escaped(character: Any) -> Any:
    if "\udc80" <= character <= "\udcff":  # a byte that the file system encoding cannot decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character


def encodable(text: str, stream: Any) -> str:
    """The text with escapes for characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Progress:
    """Progress bar with images/s and remaining time on a terminal; otherwise a line every 15 seconds."""

    def __init__(self, stage: str, total: int, start: int, images_per_step: int):
        self._stage = stage
        self._total = total
        self._images = images_per_step
        self._terminal = sys.stderr.isatty() and distributed.is_main()
        self._bar = tqdm(total=total, initial=start, desc=stage, unit="step", disable=not self._terminal)
        self._step = start
        self._start = start
        self._began = time.monotonic()
        self._next_line = self._began + 15.0

    def update(self, step: int, **shown: float) -> None:
        self._bar.update(step - self._step)
        self._step = step
        now = time.monotonic()
        rate = (step - self._start) / max(now - self._began, 1e-9)
        values = " ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if self._terminal:
            self._bar.set_postfix_str(f"{rate * self._images:.0f} images/s {values}")
        elif now >= self._next_line:
            left = (self._total - step) / max(rate, 1e-9)
            say(f"{self._stage} {step}/{self._total} {rate * self._images:.0f} images/s {left:.0f} s left {values}")
            self._next_line = now + 15.0

    def close(self) -> None:
        self._bar.close()


class Metrics:
    """`metrics.jsonl`, one JSON object per line, always written as a whole so that it works in a bucket."""

    def __init__(self, workdir: epath.Path):
        self._path = workdir / "metrics.jsonl"
        self._lines = _read_lines(self._path)
        self._flushed = time.monotonic()

    def cut(self, stage: str, after: int) -> None:
        """Drops the lines of `stage` after step `after`, which a killed run wrote."""
        self._lines = [x for x in self._lines if x.get("stage") != stage or x.get("step", 0) <= after]

    def add(self, **values: Any) -> None:
        self._lines.append(values)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        files.write_text(self._path, "".join(json.dumps(line) + "\n" for line in self._lines))
        self._flushed = time.monotonic()


def _read_lines(path: epath.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            say(f"{os.fspath(path)}: an unreadable line is dropped")
    return lines
