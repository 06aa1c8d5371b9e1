"""Audits and timings for the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpd_eval.audit.record import Audit
from dpd_eval.reading import check_cells, convert
from dpd_eval.report.names import hide_all_paths
from dpd_runtime.checks.bench import BenchResult
from dpd_runtime.text import counted

Row = dict[str, float | str | bool | None]


@dataclass(frozen=True, kw_only=True)
class NamedAudit(Audit):
    """claimed: whether it lies in a bundle that no trusted key signed, so that anybody may have written it."""

    name: str
    claimed: bool = False


@dataclass(frozen=True)
class Timings:
    """Timings of any kind: in each row a number or text for each column that it has."""

    timings: tuple[Row, ...]
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


def read_bench(content: Mapping[str, Any], name: str, where: str) -> Timings:
    """Read what `dpd bench --json` printed, as timings.

    Raises:
        InputError: a value is missing or of the wrong type, or there are too many networks.
    """
    bench = convert(hide_all_paths(content), BenchResult, where)
    check_cells(len(bench.networks), where)
    kinds = {"decoded": bench.decoded, "re-noised": bench.renoised, "sampled": bench.sampled}
    made: list[Row] = [
        {
            "what": f"{kind} images",
            "images": speed.images,
            "seconds": speed.seconds,
            "images_per_second": speed.images_per_second,
        }
        for kind, speed in kinds.items()
        if speed is not None
    ]
    called: list[Row] = [
        {"what": f"calls of {part}", "calls": of.calls, "median_ms": of.median_ms, "share_of_the_time": of.share}
        for part, of in bench.networks.items()
    ]
    loading: Row = {"what": "loading", "seconds": bench.load_seconds}
    rows = (*made, loading, *called)
    return Timings(rows, f"{bench.provider}, {counted(bench.threads, 'thread')}", name)


def read_timings(content: Mapping[str, Any], name: str, where: str) -> Timings:
    """Read `{"timings": [{column: value}, …], "hardware": …}`.

    Raises:
        InputError: `timings` is not a list of objects of numbers and texts, or has too many of them.
    """
    timings = convert(hide_all_paths({**content, "name": name}), Timings, where)
    check_cells(len(timings.timings) * len(timings.columns), where)
    return timings
