"""One sentence for each comparison, and a headline for all of them (docs/guides/evaluate.md)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpd_eval.comparison.arm_names import FULL_ARM, SET_ARM
from dpd_eval.comparison.results import Difference, Evaluation, Goal, Setting
from dpd_eval.report.evaluations import NamedEvaluation
from dpd_eval.report.wording import SPACE, arm_words, count, listed, percent, points
from dpd_eval.statistics import Interval, Unit, fewest_repeats

Outcome = Literal["ahead", "behind", "not resolved"]


@dataclass(frozen=True)
class Sentence:
    outcome: Outcome
    text: str
    interval: Interval


@dataclass(frozen=True)
class Comparisons:
    """Comparisons that are shown together. low, high: range of the intervals and zero, in shares."""

    reference: str
    title: str
    sentences: tuple[Sentence, ...]
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    name: str
    headline: str
    groups: tuple[Comparisons, ...]
    goals: tuple[Sentence, ...]
    cautions: tuple[str, ...]


def outcome(interval: Interval) -> Outcome:
    """Return ahead if the lower end is ≥ 0 (and the interval is not just 0), behind if the upper end is < 0."""
    if interval.low is None or interval.high is None or (interval.low == interval.high == 0):
        return "not resolved"
    return "ahead" if interval.low >= 0 else "behind" if interval.high < 0 else "not resolved"


def setting_words(setting: Setting, labels: str = "hard") -> str:
    kind = "" if labels == "hard" else f" and {labels} labels"
    return f"at IPC {setting.ipc} with student {setting.student}{kind}"


def verdict(evaluation: NamedEvaluation) -> Verdict:
    gaps = [gap for gap in evaluation.differences if gap.arm == SET_ARM] or list(evaluation.differences)
    others = [gap for gap in evaluation.differences if gap not in gaps]
    references = sorted(dict.fromkeys(gap.reference for gap in gaps), key=lambda name: name != "random")
    groups = [_group(evaluation, f"Against {arm_words(n)}", [g for g in gaps if g.reference == n]) for n in references]
    together = dict.fromkeys(gap.arm for gap in others)
    groups += [_group(evaluation, _capital(arm_words(n)), [g for g in others if g.arm == n]) for n in together]
    return Verdict(
        name=evaluation.name,
        headline=headline(groups),
        groups=tuple(groups),
        goals=tuple(_goal_sentence(evaluation, goal) for goal in evaluation.verdicts if goal.ratio != 1),
        cautions=tuple(cautions(evaluation, evaluation.differences)),
    )


def headline(groups: Sequence[Comparisons]) -> str:
    """Summarise the comparisons with the first reference (random, if it was compared)."""
    if not groups:
        return "Nothing was compared: the evaluation has no baseline."
    first = groups[0]
    counts = Counter(sentence.outcome for sentence in first.sentences)
    total, words = len(first.sentences), arm_words(first.reference)
    if len(counts) == 1:
        only = first.sentences[0].outcome
        where = {1: "in the only comparison", 2: "in both comparisons"}.get(total, f"in all {total} comparisons")
        if only == "not resolved":
            return f"The set and {words} cannot be told apart {where}."
        return f"The set is {only} {'of ' if only == 'ahead' else ''}{words} {where}."
    parts = [f"{kind} in {counts[kind]}" for kind in ("ahead", "behind", "not resolved") if counts[kind]]
    return f"Against {words} the set is {listed(parts)} of {total} comparisons."


def _group(evaluation: Evaluation, title: str, gaps: Sequence[Difference]) -> Comparisons:
    ends = [0.0]
    for gap in gaps:
        ends += [end for end in (gap.difference.mean, gap.difference.low, gap.difference.high) if end is not None]
    return Comparisons(
        reference=gaps[0].reference,
        title=title,
        sentences=tuple(_sentence(evaluation, gap) for gap in gaps),
        low=min(ends),
        high=max(ends),
    )


def _sentence(evaluation: Evaluation, gap: Difference) -> Sentence:
    kind = outcome(gap.difference)
    where = setting_words(gap.setting, evaluation.labels)
    capital, other = _capital(arm_words(gap.arm)), arm_words(gap.reference)
    if kind == "not resolved":
        text = f"{capital} and {other} cannot be told apart {where}"
    else:
        text = f"{capital} is {kind} {'of ' if kind == 'ahead' else ''}{other} {where}"
    return Sentence(kind, f"{text}: {_figures(evaluation, gap)}.{_weakness(gap, evaluation.repeated)}", gap.difference)


def _capital(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"


def _figures(evaluation: Evaluation, gap: Difference) -> str:
    ours, theirs = (evaluation.arm(name, gap.setting) for name in (gap.arm, gap.reference))
    pair = f"{percent(ours.oa_mean)} against {percent(theirs.oa_mean)}, " if ours and theirs else ""
    share = f", {percent(gap.ratio)} of its accuracy" if gap.reference == FULL_ARM and gap.ratio is not None else ""
    return f"{pair}{interval_words(gap.difference, evaluation.repeated)}{share}"


def interval_words(interval: Interval, repeated: Unit) -> str:
    """Format as `−1.86 points (95 % interval −3.38 to −0.34, 8 pairs)`."""
    middle, repeats = f"{points(interval.mean)}{SPACE}points", count(interval.n, repeated.removesuffix("s"))
    if interval.low is None or interval.high is None:
        return f"{middle} ({repeats}, no interval)"
    ends = f"{points(interval.low)} to {points(interval.high)}"
    return f"{middle} (95{SPACE}% interval {ends}, {repeats})"


def _weakness(gap: Difference, repeated: Unit) -> str:
    fewest = fewest_repeats(repeated, gap.ipc)
    if gap.difference.n >= fewest:
        return ""
    return f" Preliminary: results at this IPC need at least {fewest} {repeated}."


def _goal_sentence(evaluation: Evaluation, goal: Goal) -> Sentence:
    kinds: dict[str, Outcome] = {"met": "ahead", "not met": "behind"}
    ends = "no interval"
    who = "Goal of " if goal.arm == SET_ARM else f"Goal for {arm_words(goal.arm)} of "
    if goal.interval.low is not None and goal.interval.high is not None:
        ends = f"95{SPACE}% interval {points(goal.interval.low)} to {points(goal.interval.high)}"
    text = (
        f"{who}{percent(goal.ratio, 0)} of the accuracy of {arm_words(goal.reference)} "
        f"{setting_words(goal.setting, evaluation.labels)}: {goal.verdict} "
        f"({points(goal.interval.mean)}{SPACE}points beyond it, {ends}, "
        f"{count(goal.interval.n, evaluation.repeated.removesuffix('s'))})."
    )
    return Sentence(kinds.get(goal.verdict, "not resolved"), text, goal.interval)


def cautions(evaluation: Evaluation, gaps: Sequence[Difference]) -> list[str]:
    """List the limitations of these results, including the evaluation's own notes."""
    said = []
    if evaluation.test_part == "val":
        said.append("Tested on validation images, which are also used to make choices: not a final result.")
    pairs = max((len(arm.oa_runs) for arm in evaluation.arms), default=0)
    if gaps and evaluation.repeated == "pairs" and 0 < len(evaluation.sets) < pairs:
        said.append(
            f"{count(len(evaluation.sets), 'generated set')} for {count(pairs, 'pair')}: the intervals include "
            f"{'nothing' if len(evaluation.sets) == 1 else 'little'} of the variation between generation seeds."
        )
    resolved = sum(outcome(gap.difference) != "not resolved" for gap in gaps)
    if len(gaps) >= 10 and resolved:
        said.append(
            f"{len(gaps)} comparisons, each at 95{SPACE}%: about one in twenty is resolved by chance even if nothing "
            "differs."
        )
    return [*said, *evaluation.notes]
