"""Command lines, as cards and reports show them: options by the field that they fill → words for a POSIX shell."""

import csv
import io
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath

from dpd_runtime.errors import InputError
from dpd_runtime.text import composed

Option = tuple[str, ...]  # ("--seed", "3"), or a flag alone


def option(field: str) -> str:
    """The option of a field: `--` and the name with hyphens."""
    return "--" + field.replace("_", "-")


def option_words(options: Mapping[str, object]) -> list[Option]:
    """Each option that has a value. True is a flag; None and False are left out; a sequence is joined by commas."""
    words: list[Option] = []
    for name, value in options.items():
        if value is True:
            words.append((option(name),))
        elif value is not None and value is not False:
            text = joined(value) if isinstance(value, list | tuple) else str(value)
            words.append((option(name), text))
    return words


def shown(words: Iterable[str | PurePath], options: Iterable[Option] = (), between: str = " ") -> str:
    """A command for a person to paste into a POSIX shell: every word is quoted, whoever wrote it.

    Args:
        words: the command and what it is given. options: in the order in which they are shown.
        between: what stands before each option.
    """
    return between.join([_quoted(words), *map(_quoted, options)])


def _quoted(words: Iterable[str | PurePath]) -> str:
    return " ".join(shlex.quote(str(word)) for word in words)


def joined(values: Iterable[object]) -> str:
    """Values with commas between, as `listed_names` reads them: one that has a comma itself in double quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(map(str, values))
    return text.getvalue()


def listed_names(text: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """The names in a text with commas between. One that has a comma itself is in `known`, or in double quotes.

    Args:
        known: names that the text may hold; letters may be composed in another way in it.

    Raises:
        InputError: the text can be read in several ways.
    """
    names = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), None) or [""])
    same = {composed(name): name for name in known}
    commas = max((name.count(",") for name in known), default=0)
    if not commas or '"' in text:
        return tuple(same.get(composed(name), name) for name in names)
    parts = [composed(part) for part in text.split(",")]
    readings: list[list[tuple[str, ...]]] = [[()]]  # at most two of the first 0, 1, 2 … parts
    for end in range(1, len(parts) + 1):
        starts = range(max(0, end - commas - 1), end)
        found = ((same.get(",".join(parts[start:end]).strip()), start) for start in starts)
        readings.append([(*before, name) for name, start in found if name for before in readings[start]][:2])
    if len(readings[-1]) > 1:
        ways = " or as ".join(map(joined, readings[-1]))
        raise InputError(f"{text!r} can be read as {ways}: put each name into double quotes")
    return readings[-1][0] if readings[-1] else tuple(same.get(composed(name), name) for name in names)
