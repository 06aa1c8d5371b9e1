"""Command lines, as cards and reports show them: options by the field that they fill → words for a POSIX shell."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePath

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
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
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
