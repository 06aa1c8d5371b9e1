"""The outcome of a test: a value, its interval, the limit and a verdict (docs/reference/privacy.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["PASS", "WARN", "FAIL", "NOT RUN"]
Ends = tuple[float, float]


MOST_TIMES = 20  # more images are not worth naming: the score is then as good as at the limit
ONE_IN = 20  # copies among innocent images that a test's power is stated for


@dataclass(frozen=True)
class Power:
    """What a test is expected to score if images were copies of T.

    Args:
        all_copied: if every image is one. innocent: if none is.
    """

    all_copied: float
    innocent: float

    @property
    def few_copied(self) -> float:
        """If one in twenty is."""
        return self.innocent + (self.all_copied - self.innocent) / ONE_IN

    def most_copied(self, interval: Ends) -> float:
        """The largest share of copies that an interval does not exclude."""
        reach = self.all_copied - self.innocent
        return 1.0 if reach <= 0 else min(1.0, max(0.0, (interval[1] - self.innocent) / reach))


@dataclass(frozen=True)
class Outcome:
    """One line of audit.json. It becomes part of the bundle, so `note` contains nothing about a single real image.

    Args:
        interval: 95 %, from the bootstrap. threshold: the limit above which the test fails.
        power: where the test compares images.
    """

    name: str
    value: float | None
    interval: Ends | None
    threshold: float | None
    verdict: Verdict
    note: str = ""
    power: Power | None = None

    def to_dict(self) -> dict[str, Any]:
        interval = None if self.interval is None else [round(end, 5) for end in self.interval]
        value = None if self.value is None else round(self.value, 5)
        found: dict[str, Any] = {"name": self.name, "value": value, "interval": interval, "threshold": self.threshold}
        found["verdict"] = self.verdict
        if self.power is not None and self.interval is not None:
            most = self.power.most_copied(self.interval)
            scores = {"all_copied": self.power.all_copied, "few_copied": self.power.few_copied, "most_copied": most}
            found["power"] = {name: round(score, 5) for name, score in scores.items()}
        return found | ({"note": self.note} if self.note else {})


def judge(
    name: str,
    value: float,
    interval: Ends,
    limit: float,
    *,
    harmless: float | None = None,
    note: str = "",
    power: Power | None = None,
) -> Outcome:
    """Return FAIL if the whole interval is above the limit, PASS if none of it is above `harmless`, otherwise WARN.

    So a PASS excludes a score above that limit (a test of equivalence), and not only finds none.

    Args:
        harmless: a lower limit; None takes `limit`.
    """
    goal = limit if harmless is None else harmless
    if interval[0] > limit:
        return Outcome(name, value, interval, limit, "FAIL", note, power)
    if interval[1] <= goal:
        return Outcome(name, value, interval, limit, "PASS", note, power)
    if value < goal:
        times = ((interval[1] - value) / (goal - value)) ** 2  # an interval's width falls with the root of the number
        if times <= MOST_TIMES:
            note = f"{note}; about {times:.1f} times as many images would decide".removeprefix("; ")
    return Outcome(name, value, interval, limit, "WARN", note, power)


def not_run(name: str, reason: str) -> Outcome:
    """Return the outcome of a test that could not run; the verdict of the audit is then at best WARN."""
    return Outcome(name, None, None, None, "NOT RUN", reason)


def is_wrong(verdict: str, expected: str) -> bool:
    """Whether a control shows that the audit cannot be trusted.

    A WARN of a control that must PASS is undecided: its interval holds the limit, as is likely with few images. A WARN
    of one that must FAIL is wrong: the test does not see what it is made to see.
    """
    undecided = (verdict, expected) == ("WARN", "PASS")
    return verdict not in (expected, "NOT RUN") and not undecided


@dataclass(frozen=True)
class Control:
    """A case with a known verdict."""

    outcome: Outcome
    expected: Literal["PASS", "FAIL"]

    @property
    def wrong(self) -> bool:
        return is_wrong(self.outcome.verdict, self.expected)

    def to_dict(self) -> dict[str, Any]:
        """Convert like a test, with `expected` in addition; `verdict` is the observed one."""
        found = self.outcome.to_dict()
        said = f"must {self.expected}"
        if self.wrong:
            said += ", but does not"
        elif self.outcome.verdict == "WARN":
            said += ", undecided: its interval holds the limit"
        note = f"{said}; {self.outcome.note}" if self.outcome.note else said
        return found | {"expected": self.expected, "note": note}


def overall(tests: Sequence[Outcome], controls: Sequence[Control]) -> Literal["PASS", "WARN", "FAIL"]:
    """Return FAIL if a test fails or a control is wrong, WARN if anything warns or did not run, otherwise PASS."""
    verdicts = [test.verdict for test in tests]
    if "FAIL" in verdicts or any(control.wrong for control in controls):
        return "FAIL"
    plain = set(verdicts) == {"PASS"} and bool(controls)
    return "PASS" if plain and all(control.outcome.verdict == control.expected for control in controls) else "WARN"
