"""The outcome of a test: a value, its interval, the limit and a verdict (docs/reference/privacy.md)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["PASS", "WARN", "FAIL", "NOT RUN"]
Ends = tuple[float, float]


COMPARABLE = "comparable hold-out"
"""The test on which all others rest that compare with H."""
WOULD_TELL = "images of H would tell"  # ends its note where it stays open
FEWEST_IMAGES = 500  # with fewer tested images, or fewer in the hold-out, a WARN is to be expected
MOST_TIMES = 20  # more images are not worth naming: the score is then as good as at the limit
ONE_IN = 20  # copies among innocent images that a test's power is stated for


@dataclass(frozen=True)
class Power:
    """What a test would score if images were copies of T.

    Args:
        all_copied: if every image were one. few_copied: if one in twenty were. most_copied: the largest share of copies
            that the test's interval does not exclude.
    """

    all_copied: float
    few_copied: float
    most_copied: float


def power(all_copied: float, innocent: float, interval: Ends) -> Power:
    """The power of a test that scores `innocent` without copies, and so much if every image is one."""
    reach = all_copied - innocent
    most = 1.0 if reach <= 0 else min(1.0, max(0.0, (interval[1] - innocent) / reach))
    return Power(all_copied, innocent + reach / ONE_IN, most)


@dataclass(frozen=True)
class FewHeld:
    """A test that is open because H is small.

    Args:
        times: as many images of H as this would do, by the test's own rule; None where the rule names no number.
    """

    times: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One line of audit.json. It becomes part of the bundle, so `note` contains nothing about a single real image.

    Args:
        interval: 95 %, from the bootstrap. threshold: the limit above which the test fails.
        power: where the test compares images.
        few: where H decides nothing as it is small; not stored.
    """

    name: str
    value: float | None
    interval: Ends | None
    threshold: float | None
    verdict: Verdict
    note: str = ""
    power: Power | None = None
    few: FewHeld | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert for JSON; `power` and `note` are left out where there is none."""
        fields: dict[str, Any] = _rounded({key: value for key, value in asdict(self).items() if key != "few"})
        return {key: value for key, value in fields.items() if value or key not in ("power", "note")}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def decide(
    name: str,
    value: float,
    interval: Ends,
    limit: float,
    *,
    harmless: float | None = None,
    note: str = "",
    power: Power | None = None,
    of_held: bool = False,
) -> Outcome:
    """Return FAIL if the whole interval is above the limit, PASS if none of it is above `harmless`, otherwise WARN.

    So a PASS excludes a score above that limit (a test of equivalence), and not only finds none.

    Args:
        harmless: a lower limit; None takes `limit`.
        of_held: whether the interval is as wide as it is because H is small, so that more images of H would narrow it.
    """
    goal = limit if harmless is None else harmless
    if interval[0] > limit:
        return Outcome(name, value, interval, limit, "FAIL", note, power)
    if interval[1] <= goal:
        return Outcome(name, value, interval, limit, "PASS", note, power)
    times = None
    if value < goal:
        would = ((interval[1] - value) / (goal - value)) ** 2  # an interval's width falls with the root of the number
        if would <= MOST_TIMES:
            times, note = would, f"{note}; about {would:.1f} times as many images would decide".removeprefix("; ")
    return Outcome(name, value, interval, limit, "WARN", note, power, FewHeld(times) if of_held else None)


def not_run(name: str, reason: str, few: FewHeld | None = None) -> Outcome:
    """Return the outcome of a test that could not run; the verdict of the audit is then at best WARN."""
    return Outcome(name, None, None, None, "NOT RUN", reason, few=few)


def is_wrong(verdict: str, expected: str) -> bool:
    """Whether a control shows that the audit cannot be trusted.

    A WARN of a control that must PASS is undecided: its interval holds the limit, as is likely with few images. A WARN
    of one that must FAIL is wrong: the test does not see what it is made to see.
    """
    undecided = (verdict, expected) == ("WARN", "PASS")
    return verdict not in (expected, "NOT RUN") and not undecided


@dataclass(frozen=True)
class Control(Outcome):
    """A case with a known verdict. verdict: the observed one. note: begins with the expected one."""

    expected: Literal["PASS", "FAIL"] = "PASS"

    @property
    def wrong(self) -> bool:
        return is_wrong(self.verdict, self.expected)


def control(outcome: Outcome, expected: Literal["PASS", "FAIL"]) -> Control:
    said = f"must {expected}"
    if is_wrong(outcome.verdict, expected):
        said += ", but does not"
    elif outcome.verdict == "WARN":
        said += ", undecided: its interval holds the limit"
    note = f"{said}; {outcome.note}" if outcome.note else said
    return Control(**{**vars(outcome), "note": note}, expected=expected)


def overall(tests: Sequence[Outcome], controls: Sequence[Control]) -> Literal["PASS", "WARN", "FAIL"]:
    """Return FAIL if a test fails or a control is wrong, WARN if anything warns or did not run, otherwise PASS."""
    verdicts = [test.verdict for test in tests]
    if "FAIL" in verdicts or any(one.wrong for one in controls):
        return "FAIL"
    plain = set(verdicts) == {"PASS"} and bool(controls)
    return "PASS" if plain and all(one.verdict == one.expected for one in controls) else "WARN"
