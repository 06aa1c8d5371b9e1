"""Audits and timings for the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpd_eval.audit.record import Audit
from dpd_eval.reading import check_cells, convert
from dpd_eval.report.names import hide_all_paths


@dataclass(frozen=True, kw_only=True)
class NamedAudit(Audit):
    """claimed: whether it lies in a bundle that no trusted key signed, so that anybody may have written it."""

    name: str
    claimed: bool = False


@dataclass(frozen=True)
class Timings:
    """A committed result with timings: in each row a number or text for each column that it has."""

    timings: tuple[dict[str, float | str | bool | None], ...]
    hardware: str = ""
    name: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for row in self.timings for key in row))


def read_audit(content: Mapping[str, Any], name: str, where: str, *, claimed: bool = False) -> NamedAudit:
    """Read audit.json.

    Raises:
        InputError: an unknown verdict, or a value that is missing or of the wrong type.
    """
    return convert(hide_all_paths({**content, "name": name, "claimed": claimed, "private": None}), NamedAudit, where)


def read_timings(content: Mapping[str, Any], name: str, where: str) -> Timings:
    """Read `{"timings": [{column: value}, …], "hardware": …}`.

    Raises:
        InputError: `timings` is not a list of objects of numbers and texts, or has too many of them.
    """
    timings = convert(hide_all_paths({**content, "name": name}), Timings, where)
    check_cells(len(timings.timings) * len(timings.columns), where)
    return timings
