"""Command lines, as cards and reports show them: options by the field that they fill → words for a POSIX shell."""

from collections.abc import Mapping

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
