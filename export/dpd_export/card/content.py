"""What a model card is written from, and the Markdown that it needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpd_runtime.bundle.manifest import Manifest

Record = Mapping[str, Any]


@dataclass(frozen=True)
class CardContent:
    """What a model card is written from.

    Args:
        run: the content of run.json, with "base_pretraining" (the base's pretrain.json) and "hardware" if it has them.
        manifest: with the final parity, and all files except the card.
        classes: the content of classes.json.
        parameters: number of parameters of each graph, by its path.
        options: options of `dpd export` that the manifest does not hold, by name.
    """

    run: Record
    manifest: Manifest
    classes: Record
    parameters: Mapping[str, int]
    options: Record = field(default_factory=dict)


def line(text: object) -> str:
    """The text on one line, without characters that would end a table cell or begin code."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(line, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def facts(*rows: tuple[str, object]) -> str:
    """A table of names and values, without rows whose value is None."""
    return table(("what", "value"), [row for row in rows if row[1] is not None])


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
