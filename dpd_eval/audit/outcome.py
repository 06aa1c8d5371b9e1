"""What one test says: a value, its interval, the limit and a verdict (METHOD §9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["PASS", "WARN", "FAIL", "NOT RUN"]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """One line of audit.json. It goes into the bundle: `note` says nothing about a single real image.

    Args:
        interval: 95 %, from the bootstrap. threshold: the limit beyond which the test fails.
    """

    name: str
    value: float | None
    interval: Ends | None
    threshold: float | None
    verdict: Verdict
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        interval = None if self.interval is None else [round(end, 5) for end in self.interval]
        value = None if self.value is None else round(self.value, 5)
        found = {"name": self.name, "value": value, "interval": interval, "threshold": self.threshold}
        return found | {"verdict": self.verdict} | ({"note": self.note} if self.note else {})


def judge(
    name: str, value: float, interval: Ends, limit: float, *, warn_above: float | None = None, note: str = ""
) -> Outcome:
    """FAIL when the interval's near end is beyond the limit, WARN when only the value is.

    Args:
        warn_above: a lower limit for WARN; None is `limit`.
    """
    verdict: Verdict = "PASS"
    if interval[0] > limit:
        verdict = "FAIL"
    elif value > (limit if warn_above is None else warn_above):
        verdict = "WARN"
    return Outcome(name, value, interval, limit, verdict, note)


def not_run(name: str, reason: str) -> Outcome:
    """A test that could not run: the verdict is then WARN at best."""
    return Outcome(name, None, None, None, "NOT RUN", reason)


@dataclass(frozen=True)
class Control:
    """A case whose verdict is known beforehand."""

    outcome: Outcome
    expected: Literal["PASS", "FAIL"]

    @property
    def holds(self) -> bool:
        return self.outcome.verdict == self.expected

    def to_dict(self) -> dict[str, Any]:
        """As a test, with `expected`; its `verdict` is what was found."""
        found = self.outcome.to_dict()
        said = f"must {self.expected}" + ("" if self.holds else ", and does not")
        note = f"{said}; {self.outcome.note}" if self.outcome.note else said
        return found | {"expected": self.expected, "note": note}


def overall(tests: Sequence[Outcome], controls: Sequence[Control]) -> Literal["PASS", "WARN", "FAIL"]:
    """FAIL when a test fails, or a control that ran does not come out; WARN when something warns or did not run."""
    verdicts = [test.verdict for test in tests]
    ran = [control for control in controls if control.outcome.verdict != "NOT RUN"]
    if "FAIL" in verdicts or not all(control.holds for control in ran):
        return "FAIL"
    missing = len(ran) < len(controls) or not controls or not tests
    return "WARN" if missing or set(verdicts) - {"PASS"} else "PASS"
