"""The little Markdown that a model card needs."""

from collections.abc import Iterable, Sequence


def line(text: object) -> str:
    """The text on one line, with nothing in it that would end a table's cell or begin code."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(line, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def facts(*rows: tuple[str, object]) -> str:
    """A table of those facts whose value is known, which is not None."""
    return table(("what", "value"), [row for row in rows if row[1] is not None])


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
