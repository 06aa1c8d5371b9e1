"""Sentences and command lines for people: numbers of things, lists of words, text that a terminal shows as it is."""

import csv
import io
import math
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath

from dpd_runtime.errors import InputError
from dpd_runtime.settings import studied

# -- Texts that people read: which letters may stand in them, and how the others are shown.


LONGEST_NAME = 200
LONGEST_TEXT = 2_000
# Letters that cannot be seen although their Unicode categories (Lo, Mn, So) are those of visible ones: fillers, blanks,
# joiners and variation selectors. str.isprintable() refuses Cc, Cf (zero width, bidirectional), Cs, Co, Cn, Zl, Zp and
# all spaces but the usual one.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc"
    "\U0001107f\U00016fe4\U0001d159\U000e0000-\U000e0fff]"
)
# Control characters, line and paragraph separators; bidirectional overrides, which display another name.
_UNSEEN = frozenset({"Cc", "Zl", "Zp"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # OWASP's, with their full-width forms
_SEPARATORS = frozenset(',;\t"\r\n')  # of any program: where it takes another one, a cell begins behind it
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: PurePath | str) -> str:
    """`text` for a message: one line, with backslash escapes for bytes that are not UTF-8 and control characters."""
    decoded = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(_escaped(c) if c in _OVERRIDES or unicodedata.category(c) in _UNSEEN else c for c in decoded)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with what it counts: `1 image`, `10 images`, `2 training classes`.

    Args:
        one: of one. many: of several or none, where words change too: "file shows", "files show". None for the plural.
    """
    return f"{number} {one if number == 1 else many or plural(one)}"


def plural(noun: str) -> str:
    """Of a noun, which may have words before it: `class` → `classes`, `copy` → `copies`."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if re.search("[^aeiou]y$", noun) else f"{noun}s"


def differing(names: Iterable[str]) -> str:
    """What is not the same: `another seed, provider and other classes`. The name of an option is one, as --steps."""

    def is_plural(name: str) -> bool:
        word = name.split()[0]
        return word.endswith("s") and not word.startswith("--")

    kept = list(names)
    single, several = ([name for name in kept if is_plural(name) == wanted] for wanted in (False, True))
    return " and ".join(f"{word} {', '.join(own)}" for word, own in (("another", single), ("other", several)) if own)


def composed(name: str) -> str:
    """`name` with composed letters (NFC). macOS decomposes those of file names, which then look the same and differ."""
    return unicodedata.normalize("NFC", name)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def is_visible(text: str) -> bool:
    """Whether every letter can be seen: no control, formatting, private, unassigned or blank letters but the space."""
    return text.isprintable() and not _INVISIBLE.search(text)


def is_readable(content: object, longest: int = LONGEST_TEXT) -> bool:
    """Whether all texts in parsed JSON are visible and have at most `longest` letters."""
    if isinstance(content, dict):
        return all(is_readable(key, longest) and is_readable(value, longest) for key, value in content.items())
    if isinstance(content, list | tuple):
        return all(is_readable(value, longest) for value in content)
    return not isinstance(content, str) or (len(content) <= longest and is_visible(content))


def csv_line(cells: Iterable[str]) -> str:
    """A line of a CSV file, whose cells no spreadsheet takes for formulas.

    A text that begins with =, +, -, @, a tab or the end of a line gets an apostrophe before it, as OWASP advises and
    spreadsheets show texts; so does a text that begins with an apostrophe. Who takes one leading apostrophe away has
    each text as it was.
    """
    return ",".join(map(_cell, cells)) + "\n"


def _cell(text: str) -> str:
    safe = f"'{text}" if text.startswith((*_FORMULA, "'")) else text
    return '"{}"'.format(safe.replace('"', '""')) if _SEPARATORS & set(safe) else safe


# -- Command lines, as cards and reports show them: options by the field that they fill → words for a POSIX shell.


Option = tuple[str, ...]  # ("--seed", "3"), or a flag alone


def option(field: str) -> str:
    """The option of a field: `--` and the name with hyphens."""
    return "--" + field.replace("_", "-")


def called(config: type, field: str) -> str:
    """What a message calls a field of a config: its option, or `--set NAME`."""
    return f"--set {field}" if field in studied(config) else option(field)


def option_words(options: Mapping[str, object], by_set: Collection[str] = ()) -> list[Option]:
    """Each option that has a value. True is a flag; None and False are left out; a sequence is joined by commas.

    Args:
        by_set: names that are given as `--set NAME=VALUE`.
    """
    words: list[Option] = []
    for name, value in options.items():
        if name in by_set:
            if value is not None:
                words.append(("--set", f"{name}={joined(value) if isinstance(value, list | tuple) else value}"))
        elif value is True:
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


def number_or_nan(text: str) -> float:
    """The number that `text` says; nan where it says none, which no range holds."""
    try:
        return float(text)
    except ValueError:
        return math.nan


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
