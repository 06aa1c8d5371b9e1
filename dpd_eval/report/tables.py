"""Tables as plain data; one template macro draws all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dpd_eval.comparison.results import ArmResult
from dpd_eval.report.verdicts import outcome
from dpd_eval.report.wording import plain, points
from dpd_eval.statistics import Interval


@dataclass(frozen=True)
class Cell:
    """A cell. tone: ahead, behind, not-resolved, pass, warn or fail. heat: shade in [0, 1]."""

    text: str
    tone: str = ""
    heat: float | None = None


@dataclass(frozen=True)
class Table:
    """A table. heads: number of header cells per row. text_columns: columns with words; the others have numbers.

    dense: small type for many narrow columns. turned: vertical column names. numbered: notes that cells name by number.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int = 1
    note: str = ""
    numbered: tuple[str, ...] = ()
    dense: bool = False
    turned: bool = False
    text_columns: frozenset[int] = field(default_factory=frozenset)


def cells(*values: object) -> tuple[Cell, ...]:
    return tuple(value if isinstance(value, Cell) else Cell(str(value)) for value in values)


def mean_and_spread(arm: ArmResult | None) -> str:
    if arm is None:
        return "–"
    spread = "" if arm.oa_std is None else f" ± {100 * arm.oa_std:.2f}"
    return f"{100 * arm.oa_mean:.2f}{spread}"


def difference_cell(interval: Interval) -> Cell:
    ends = ""
    if interval.low is not None and interval.high is not None:
        ends = f" ({points(interval.low)} to {points(interval.high)})"
    return Cell(f"{points(interval.mean)}{ends}", outcome(interval).replace(" ", "-"))


def pairs_table(caption: str, rows: Sequence[tuple[str, Any]]) -> Table:
    """Make a table of names and values."""
    return Table(
        caption, ("", "value"), tuple(cells(name, plain(value)) for name, value in rows), text_columns=frozenset({1})
    )
