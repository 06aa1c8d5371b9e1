"""Geometry of the charts, drawn by the templates. An arm has the same colour and marker in every chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dpd_eval.report_records import arm_words, percent
from dpd_eval.results import FULL_ARM, ArmResult, Evaluation
from dpd_eval.statistics import t_interval

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 250, 42, 12, 12, 38
KNOWN = ("set", "random", "herding", "k-center", "k-means", "full", "tdds")
MARKERS = (  # paths around (0, 0)
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.2 -4.2h8.4v8.4h-8.4z",
    "M0 -5.4L5.2 4.2H-5.2z",
    "M0 -5.8L5.2 0L0 5.8L-5.2 0z",
    "M0 5.4L5.2 -4.2H-5.2z",
    "M-4.8 -1.6h3.2v-3.2h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2z",
    "M0 -5.5L4.8 -2.7V2.7L0 5.5L-4.8 2.7V-2.7z",
)
DODGE = 7


@dataclass(frozen=True)
class Style:
    number: int
    marker: str


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    top: float | None
    bottom: float | None


@dataclass(frozen=True)
class Line:
    words: str
    style: Style
    points: tuple[Point, ...]
    across: float | None


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    title: str
    description: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def style(arm: str, arms: Sequence[str]) -> Style:
    """Return the style of an arm: known arms have fixed styles, the others of `arms` share those that are left."""
    if arm in KNOWN:
        number = KNOWN.index(arm)
        return Style(number, MARKERS[number])
    left = [place for place, name in enumerate(KNOWN) if name not in arms] or [KNOWN.index(FULL_ARM)]
    again, place = divmod([name for name in arms if name not in KNOWN].index(arm), len(left))
    return Style(left[place], MARKERS[(left[place] + again) % len(MARKERS)])  # a colour's second arm has another marker


def accuracy_interval(arm: ArmResult) -> tuple[float, float] | None:
    """Return the 95 % t-interval of the mean accuracy, clipped to [0, 1]; None for fewer than two trainings."""
    interval = t_interval(arm.oa_runs) if arm.oa_runs else None
    if interval is None or interval.low is None or interval.high is None:
        return None
    return max(0.0, interval.low), min(1.0, interval.high)


def curves(evaluation: Evaluation, student: str, name: str) -> Chart:
    """Draw accuracy over images per class (log scale) for every arm; `full` has no IPC and is a horizontal line."""
    arms = [arm for arm in evaluation.arms if arm.student == student]
    ends = [end for arm in arms for end in (accuracy_interval(arm) or (arm.oa_mean, arm.oa_mean))]
    y_ticks = nice_ticks(100 * min(ends), 100 * max(ends))
    low, high = y_ticks[0], y_ticks[-1]
    ipcs = sorted({arm.ipc for arm in arms if arm.arm != FULL_ARM}) or [arms[0].ipc]

    def y(share: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - 100 * share) / (high - low), 2)

    names = list(dict.fromkeys(arm.arm for arm in arms))
    dodged = [name for name in names if name != FULL_ARM]
    lines = []
    for arm_name in names:
        own = sorted((arm for arm in arms if arm.arm == arm_name), key=lambda arm: arm.ipc)
        shift = 0.0 if arm_name == FULL_ARM else DODGE * (dodged.index(arm_name) - (len(dodged) - 1) / 2)
        points = []
        for arm in own if arm_name != FULL_ARM else []:
            interval = accuracy_interval(arm)
            top, bottom = (y(interval[1]), y(interval[0])) if interval else (None, None)
            points.append(Point(round(_x(arm.ipc, ipcs) + shift, 2), y(arm.oa_mean), top, bottom))
        across = y(own[0].oa_mean) if arm_name == FULL_ARM else None
        lines.append(Line(arm_words(arm_name), style(arm_name, evaluation.arm_names()), tuple(points), across))
    return Chart(
        title=name,
        description=describe(arms),
        lines=tuple(lines),
        x_ticks=tuple(Tick(_x(ipc, ipcs), str(ipc)) for ipc in ipcs),
        y_ticks=tuple(Tick(y(tick / 100), f"{tick:g}") for tick in y_ticks),
    )


def _x(ipc: int, ipcs: Sequence[int]) -> float:
    """Return the position on the logarithmic axis, with room for marks side by side."""
    margin = 36
    if len(ipcs) == 1:
        return (LEFT + WIDTH - RIGHT) / 2
    share = math.log(ipc / ipcs[0]) / math.log(ipcs[-1] / ipcs[0])
    return round(LEFT + margin + share * (WIDTH - LEFT - RIGHT - 2 * margin), 2)


def describe(arms: Sequence[ArmResult]) -> str:
    """Describe the chart in words, for screen readers."""
    parts = []
    for name in dict.fromkeys(arm.arm for arm in arms):
        own = sorted((arm for arm in arms if arm.arm == name), key=lambda arm: arm.ipc)
        if name == FULL_ARM:
            parts.append(f"{arm_words(name)}: {percent(own[0].oa_mean)}")
        else:
            values = ", ".join(f"{percent(arm.oa_mean)} at IPC {arm.ipc}" for arm in own)
            parts.append(f"{arm_words(name)}: {values}")
    return "Overall accuracy. " + "; ".join(parts) + "."


def nice_ticks(low: float, high: float) -> list[float]:
    """Choose two to seven round values around [low, high], all within 0 … 100 percent."""
    span = high - low
    step = next((step for step in (0.5, 1, 2, 5, 10, 20) if span / step <= 5), 25)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        first, last = (first, last + 1) if step * (last + 1) <= 100 else (first - 1, last)
    return [step * i for i in range(first, last + 1)]


@dataclass(frozen=True)
class Strip:
    """An interval on a shared scale, in percent of the width."""

    zero: float
    low: float | None
    high: float | None
    mean: float


def strip(interval: tuple[float, float | None, float | None], low: float, high: float) -> Strip:
    """Place (mean, low, high) between the ends of its group, with a margin of 4 % on each side."""
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(4 + 92 * (value - low) / span, 2)

    mean, left, right = interval
    return Strip(at(0), None if left is None else at(left), None if right is None else at(right), at(mean))


def student_titles(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return (student, title) of every chart of an evaluation."""
    kind = "" if evaluation.labels == "hard" else f", {evaluation.labels} labels"
    return [(student, f"{student}{kind}") for student in dict.fromkeys(s.student for s in evaluation.settings())]
