"""Interprets the labels of a table: as names or as numbers, decided for the whole column."""

import re
from collections.abc import Iterable
from typing import Any

from lt_jax.core import errors, log
from lt_jax.data.sources import textfiles

MOST_CLASSES = 1_000_000  # limit for numeric labels: larger numbers are identifiers, not class numbers
_WHOLE = re.compile(r"([0-9]{1,18})(\.0+)?")
_SHOWN = 3

Labels = list[tuple[int, str]]  # line and label


def with_class_file(labels: Labels, file: str, table: str) -> tuple[tuple[str, ...], list[int]]:
    """(class names, class number of each label) for a table whose classes are the lines of a file.

    If every label is a class name, labels are read as names; else, if every label is a whole number below the number
    of classes, as positions from 0.

    Raises:
      BadInput: a class is listed twice, or a label is neither a name nor a position.
    """
    names = _names_in(file)
    numbers = {name: c for c, name in enumerate(names)}
    texts = [label for _, label in labels]
    if not all(text in numbers for text in texts):
        texts = _whole_texts(texts)
    positions = [int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1 for text in texts]
    are_positions = all(0 <= position < len(names) for position in positions)
    if all(text in numbers for text in texts):
        by_name = [numbers[text] for text in texts]
        if are_positions and by_name != positions:
            shown = log.printable(file)
            log.say(f"table {table}: labels are read as the names in {shown}, not as positions from 0")
        return tuple(map(log.printable, names)), by_name
    if are_positions:
        return tuple(map(log.printable, names)), positions
    raise errors.BadInput(_first_bad(labels, texts, positions, numbers, file, table))


def without_class_file(labels: Labels, table: str) -> tuple[tuple[str, ...], list[int]]:
    """(class names, class number of each label): 0..max if all labels are whole numbers, else the sorted names.

    Raises:
      BadInput: names differ only in case, or numbers are too large to be class numbers.
    """
    if not labels:
        raise errors.BadInput(f"{table} has no rows")
    texts = _whole_texts([label for _, label in labels])
    if all(_WHOLE.fullmatch(text) for text in texts):
        values = [int(text) for text in texts]
        if max(values) >= MOST_CLASSES:
            raise errors.BadInput(
                f"{table}: labels run up to {max(values)}: expected fewer than {MOST_CLASSES} classes, from 0 on; "
                "number them so, or name the classes in a file and give config.data.classes"
            )
        say_gaps(f"table {table}", values, "in your table", " or give config.data.classes")
        return tuple(str(c) for c in range(max(values) + 1)), values
    names = sorted(set(texts))
    refuse_same_by_case(names, table)
    numbers = {name: c for c, name in enumerate(names)}
    return tuple(map(log.printable, names)), [numbers[text] for text in texts]


def say_gaps(source: str, values: Iterable[int], where: str, or_else: str) -> None:
    """Logs one line if some of the numbers 0..max are not used: how many classes have no image, and the fix."""
    used = set(values)
    low, high = min(used), max(used)
    empty = high + 1 - len(used)
    if not empty:
        return
    run = f"{source}: labels run from {low} to {high}: "
    if used == set(range(1, high + 1)):
        log.say(f"{run}class 0 has no image; if labels start from 1 {where}, subtract 1{or_else}")
        return
    first = [str(c) for c in range(high) if c not in used][:_SHOWN] if empty <= _SHOWN else _first_gaps(used)
    what = f"class {first[0]} has no image" if empty == 1 else f"{empty} classes have no image ({', '.join(first)})"
    log.say(f"{run}{what}; number the classes without gaps{or_else}")


def refuse_same_by_case(names: Iterable[str], where: str) -> None:
    """Raises BadInput for two classes that are equal or differ only in case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            other = seen[name.casefold()]
            how = "appears twice" if other == name else f"and {other!r} differ by case alone; rename or merge one"
            raise errors.BadInput(f"{where}: the class {name!r} {how}")
        seen[name.casefold()] = name


def _names_in(file: Any) -> list[str]:
    text, _ = textfiles.read(file, "config.data.classes")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    refuse_same_by_case(names, log.printable(file))
    if not names:
        raise errors.BadInput(
            f"config.data.classes: {log.printable(file)}: expected a class name a line, found nothing"
        )
    return names


def _whole_texts(texts: list[str]) -> list[str]:
    """The labels without a trailing `.0`, if the whole column consists of whole numbers."""
    matches = [_WHOLE.fullmatch(text) for text in texts]
    whole = [match[1] for match in matches if match is not None]
    return whole if len(whole) == len(texts) else texts


def _first_bad(
    labels: list[tuple[int, str]],
    texts: list[str],
    positions: list[int],
    numbers: dict[str, int],
    file: Any,
    table: Any,
) -> str:
    """Error message for the first label that does not fit the interpretation of most labels."""
    are_names = [text in numbers for text in texts]
    are_positions = [0 <= position < len(numbers) for position in positions]
    by_position = sum(are_positions) > sum(are_names)
    line, label = labels[(are_positions if by_position else are_names).index(False)]
    hint = f", nor a position below {len(numbers)}" if by_position else ""
    return f"line {line} of {table}: label {label!r} is not in the class list {log.printable(file)}{hint}"


def _first_gaps(used: Any) -> Any:
    gaps = (str(c) for c in range(max(used)) if c not in used)
    return [next(gaps) for _ in range(_SHOWN)] + ["..."]
