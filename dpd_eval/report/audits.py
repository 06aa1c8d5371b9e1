"""Read the JSON of privacy audits and benchmarks."""

from dataclasses import dataclass
from typing import Any

from dpd_eval.report.names import hide_paths
from dpd_eval.report.reading import Node
from dpd_eval.report.wording import plain

VERDICTS = ("PASS", "WARN", "FAIL")


@dataclass(frozen=True)
class AuditTest:
    name: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    verdict: str
    note: str


@dataclass(frozen=True)
class AuditRecord:
    """audited: hash of the bundle before the audit became a part of it; empty for a run or a set.

    reasons: why the verdict is not PASS; empty for audits of versions that said nothing.
    claimed: whether it lies in a bundle that no trusted key signed, so that anybody may have written it.
    """

    name: str
    audited: str
    verdict: str
    tests: tuple[AuditTest, ...]
    controls: tuple[AuditTest, ...]
    reasons: tuple[str, ...] = ()
    claimed: bool = False


@dataclass(frozen=True)
class BenchRecord:
    """Timings: each row has a value or None for every column."""

    name: str
    hardware: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def read_audit(node: Node, name: str, *, claimed: bool = False) -> AuditRecord:
    """Read an audit.

    Args:
        claimed: as in `AuditRecord`.

    Raises:
        InputError: an unknown verdict, or a value of the wrong type.
    """
    verdict = node.text("verdict")
    if verdict not in VERDICTS:
        raise node.wrong("verdict", "one of " + ", ".join(VERDICTS))
    tests, controls = (tuple(_test(item) for item in node.children(key)) for key in ("tests", "controls"))
    audited = node.child("audited")
    bundle = "" if audited is None else audited.text("bundle_hash")
    return AuditRecord(name, bundle, verdict, tests, controls, node.texts("reasons"), claimed)


def _test(node: Node) -> AuditTest:
    interval = node.content.get("interval")
    ends: tuple[float | None, float | None] = (None, None)
    if isinstance(interval, dict):
        found = Node(interval, node.where)
        ends = (found.maybe_number("low"), found.maybe_number("high"))
    elif interval is not None:
        listed = node.numbers("interval")
        if len(listed) != 2:
            raise node.wrong("interval", "two numbers")
        ends = (listed[0], listed[1])
    note = "; ".join(filter(None, (node.text("note") or node.text("reason"), _power(node.child("power")))))
    value, threshold = node.maybe_number("value"), node.maybe_number("threshold")
    return AuditTest(node.text("name"), value, *ends, threshold, node.text("verdict"), note)


def _power(node: Node | None) -> str:
    """What the test would score if images were copies; empty where the audit does not say."""
    if node is None:
        return ""
    every, few, most = (node.maybe_number(name) for name in ("all_copied", "few_copied", "most_copied"))
    said = f"if all images were copies of T: {plain(every)}, one in twenty: {plain(few)}"
    return said + (f"; copies not excluded: {100 * most:.0f} % of the images" if most is not None else "")


def read_bench(node: Node, name: str) -> BenchRecord:
    """Read `{"timings": [{column: value}, …], "hardware": …}`.

    Raises:
        InputError: `timings` is not a list of objects of numbers and texts.
    """
    rows = node.children("timings")
    columns = tuple(dict.fromkeys(key for row in rows for key in row.content))
    table = []
    for row in rows:
        for key in row.content:
            if isinstance(row.content[key], list | dict):
                raise row.wrong(key, "a number or text")
        values = (row.content.get(key) for key in columns)
        table.append(tuple(hide_paths(value) if isinstance(value, str) else value for value in values))
    return BenchRecord(name, node.text("hardware"), tuple(map(hide_paths, columns)), tuple(table))
