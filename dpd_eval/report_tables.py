"""Tables and verdicts of a report, as data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dpd_eval.metrics import SetDetail, SetMetrics
from dpd_eval.pretrained import PROBE
from dpd_eval.ranking import dd_ranking
from dpd_eval.report_inputs import BundleRecord, RunRecord
from dpd_eval.report_records import (
    MINUS,
    SPACE,
    NamedAudit,
    NamedEvaluation,
    Timings,
    arm_words,
    count,
    duration,
    grouped,
    listed,
    percent,
    plain,
    points,
)
from dpd_eval.results import FULL_ARM, HELD_OUT, SET_ARM, ArmResult, Difference, Evaluation, Goal, Setting, is_taught
from dpd_eval.statistics import Interval, Unit, fewest_repeats, paired_difference
from dpd_eval.verdict import Outcome as AuditOutcome
from dpd_eval.verdict import numbered_notes

# -- Tables as plain data; one template macro draws all of them.


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


# -- One sentence for each comparison, and a headline for all of them (docs/guides/evaluate.md).


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
    gaps = [gap for gap in evaluation.differences if gap.arm == SET_ARM]
    others = [gap for gap in evaluation.differences if gap not in gaps]
    references = sorted(dict.fromkeys(gap.reference for gap in gaps), key=lambda name: name != "random")
    groups = [_group(evaluation, f"Against {arm_words(n)}", [g for g in gaps if g.reference == n]) for n in references]
    of_set = headline(groups)
    together = dict.fromkeys(gap.arm for gap in others)
    groups += [_group(evaluation, _capital(arm_words(n)), [g for g in others if g.arm == n]) for n in together]
    return Verdict(
        name=evaluation.name,
        headline=of_set,
        groups=tuple(groups),
        goals=tuple(_goal_sentence(evaluation, goal) for goal in evaluation.verdicts if goal.ratio != 1),
        cautions=tuple(cautions(evaluation, evaluation.differences)),
    )


def headline(groups: Sequence[Comparisons]) -> str:
    """Summarise the comparisons with the first reference (random, if it was compared)."""
    if not groups:
        return "The set was compared with nothing: the evaluation has no baseline."
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


# -- Tables of accuracies: by architecture, by class, and as confusion matrices.


def architectures(evaluation: Evaluation) -> list[Table]:
    """Make one table per IPC: a row per arm, a column per student, then the paired differences."""
    tables = []
    students = list(dict.fromkeys(s.student for s in evaluation.settings()))
    kind = "" if evaluation.labels == "hard" else f"{evaluation.labels} labels, "
    for ipc in dict.fromkeys(s.ipc for s in evaluation.settings()):
        settings = [Setting(student, ipc) for student in students]
        rows = []
        for name in evaluation.arm_names():
            arms = [evaluation.arm(name, setting) for setting in settings]
            if any(arms):
                images = next((a.images for a in arms if a and a.images), None)
                rows.append(cells(name, plain(images), *map(mean_and_spread, arms)))
        for ours, reference in dict.fromkeys((gap.arm, gap.reference) for gap in evaluation.differences):
            own = (gap for gap in evaluation.differences if (gap.arm, gap.reference) == (ours, reference))
            gaps = {gap.setting: gap.difference for gap in own}
            if any(s in gaps for s in settings):
                shown = [difference_cell(gaps[s]) if s in gaps else Cell("–") for s in settings]
                rows.append(cells(f"{ours} − {reference}", "", *shown))
        counted = {len(arm.oa_runs) for arm in evaluation.arms if arm.setting in settings}
        runs = " or ".join(count(n, "training") for n in sorted(counted))
        caption = (
            f"IPC {ipc}: {kind}overall accuracy in %, mean ± standard deviation over {runs}; "
            "paired differences in points with their 95 % interval"
        )
        tables.append(Table(caption, ("arm", "images", *students), tuple(rows)))
    return tables


def ranking_table(evaluation: Evaluation) -> Table | None:
    """Make a table of DD-Ranking's score; None without the arms it needs."""
    if evaluation.labels == "soft":
        return None
    rows = [
        cells(
            row.student,
            row.ipc,
            row.labels,
            f"{100 * row.recovery:+.2f}",
            f"{100 * row.improvement:+.2f}",
            f"{row.label_robust:.3f}",
        )
        for row in dd_ranking(evaluation)
    ]
    caption = (
        "DD-Ranking (arXiv 2505.13300): all real images minus the set, with hard labels; the set minus random real "
        "images; the label-robust score of both, 0.27 where the second equals the first"
    )
    heads = ("student", "IPC", "labels", "recovery, points", "improvement, points", "label-robust score")
    return Table(caption, heads, tuple(rows), heads=2, text_columns=frozenset({2})) if rows else None


def student_sizes(evaluation: Evaluation) -> Table | None:
    """Make a table of parameters and multiply-adds per student; None if the file has none."""
    sizes = evaluation.students.items()
    rows = [cells(name, grouped(size.parameters), grouped(size.multiply_adds)) for name, size in sizes]
    return Table("The students", ("student", "parameters", "multiply-adds per image"), tuple(rows)) if rows else None


def everything(evaluation: Evaluation) -> Table:
    rows = []
    for arm in evaluation.arms:
        rows.append(
            cells(
                arm_words(arm.arm),
                arm.student,
                arm.ipc,
                "teacher" if is_taught(arm.arm) else evaluation.labels,
                mean_and_spread(arm),
                f"{100 * arm.aa:.2f}",
                f"{arm.kappa:.4f}",
                " ".join(f"{100 * value:.1f}" for value in arm.oa_runs),
            )
        )
    return Table(
        "All arms: overall accuracy (OA), mean class accuracy (AA), Cohen's kappa, OA of each pair",
        ("arm", "student", "IPC", "labels", "OA %", "AA %", "kappa", "OA of each pair, %"),
        tuple(rows),
        heads=2,
        text_columns=frozenset({3, 7}),
    )


def class_table(evaluation: Evaluation, setting: Setting) -> Table | None:
    """Make a table with a row per class and a column per arm; the last column is the set minus the first baseline."""
    arms = [arm for arm in evaluation.arms if arm.setting == setting and arm.class_accuracy]
    if not arms:
        return None
    ours = next((arm for arm in arms if arm.arm == SET_ARM), None)
    other = next((arm for arm in arms if arm.arm != SET_ARM and not is_taught(arm.arm)), None)
    rows = []
    for name in evaluation.classes:
        accuracies = [arm.class_accuracy.get(name) for arm in arms]
        shown = [Cell("–") if v is None else Cell(f"{100 * v:.1f}", heat=round(v, 3)) for v in accuracies]
        if ours and other:
            pair = ours.class_accuracy.get(name), other.class_accuracy.get(name)
            gap = "–" if pair[0] is None or pair[1] is None else points(pair[0] - pair[1], 1)
            shown.append(Cell(gap))
        rows.append(cells(name, *shown))
    last = (f"set − {other.arm}",) if ours and other else ()
    return Table(
        "Accuracy of each class in %, mean over pairs; difference in points, without an interval",
        ("class", *(arm.arm for arm in arms), *last),
        tuple(rows),
    )


def confusion_table(arm: ArmResult, classes: Sequence[str]) -> Table | None:
    """Make a confusion table in % of each true class, with the most frequent errors as a note."""
    if not arm.confusion or len(arm.confusion) != len(classes):
        return None
    rows, mistakes = [], []
    for name, counts in zip(classes, arm.confusion, strict=True):
        total = sum(counts)
        shares = [value / total if total else 0.0 for value in counts]
        # the square root makes small shares visible
        shown = [Cell(f"{100 * s:.0f}" if s >= 0.005 else "", heat=round(s**0.5, 2) or None) for s in shares]
        rows.append(cells(name, *shown))
        mistakes += [(s, name, other) for s, other in zip(shares, classes, strict=True) if other != name]
    worst = sorted(mistakes, key=lambda entry: (-entry[0], entry[1], entry[2]))[:3]
    said = "; ".join(f"{true} classified as {other}, {percent(share, 0)}" for share, true, other in worst if share > 0)
    return Table(
        f"Confusion matrix of {arm_words(arm.arm)}: true classes in rows, predictions in columns, in %",
        ("true class", *classes),
        tuple(rows),
        note=f"Most frequent errors: {said}." if said else "",
        dense=True,
        turned=True,
    )


# -- Tables of set metrics, one per extractor, and of the detail of images.


METRICS = {
    "kid": ("KID ↓", 4),
    "kid_std": ("± KID", 4),
    "precision": ("precision ↑", 3),
    "recall": ("recall ↑", 3),
    "density": ("density ↑", 3),
    "coverage": ("coverage ↑", 3),
    "mean_max_cosine": ("mean max cosine ↑", 3),
    "intra_class_diversity": ("diversity within class", 3),
    "reference_diversity": ("diversity of real images", 3),
    "teacher_agreement": ("teacher agreement ↑", 3),
}


def metrics_tables(metrics: Sequence[SetMetrics]) -> list[Table]:
    """Make one table per extractor, because values of different extractors are not comparable."""
    tables = []
    for extractor in dict.fromkeys(entry.extractor for entry in metrics):
        own = [entry for entry in metrics if entry.extractor == extractor]
        keys = [key for key in METRICS if any(getattr(entry, key) is not None for entry in own)]
        rows = []
        for entry in own:
            values = [_figure(getattr(entry, key), METRICS[key][1]) for key in keys]
            rows.append(cells(entry.arm, entry.ipc, plain(entry.images), *values))
        heads = (METRICS[key][0] for key in keys)
        caption = f"Set metrics in the features of {extractor or 'an unnamed extractor'}"
        tables.append(Table(caption, ("arm", "IPC", "images", *heads), tuple(rows)))
    return tables


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def agreement_table(metrics: Sequence[SetMetrics]) -> Table | None:
    own = [(entry, entry.per_class_agreement) for entry in metrics if entry.per_class_agreement]
    if not own:
        return None
    names = list(dict.fromkeys(name for _, agreement in own for name in agreement))
    rows = []
    for name in names:
        values = [agreement.get(name) for _, agreement in own]
        rows.append(cells(name, *(Cell("–") if v is None else Cell(percent(v), heat=round(v, 3)) for v in values)))
    columns = ("class", *(f"{entry.arm}, IPC {entry.ipc}" for entry, _ in own))
    return Table("Share of images whose class the teacher confirms", columns, tuple(rows))


def detail_tables(detail: Sequence[SetDetail]) -> list[Table]:
    """Power by octave and fine contrast as shares of the held-out real images', and kurtosis beside theirs."""
    real = next((entry for entry in detail if entry.arm == HELD_OUT), None)
    arms = [entry for entry in detail if entry is not real and real and len(entry.octaves) == len(real.octaves)]
    if real is None or not arms:
        return []
    octaves = [f"{2**i} to {2 ** (i + 1)}" for i in range(len(real.octaves))]
    power = [
        cells(entry.arm, entry.ipc, *(_share(a, b) for a, b in zip(entry.octaves, real.octaves, strict=True)))
        for entry in arms
    ]
    heads = tuple(f"{entry.arm}, IPC {entry.ipc}" for entry in arms)
    contrast = [
        cells(name, *(_share(entry.fine_contrast.get(name), of_real) for entry in arms))
        for name, of_real in real.fine_contrast.items()
    ]
    kurtosis = [
        cells(name, _kurtosis(of_real), *(_kurtosis(entry.kurtosis.get(name)) for entry in arms))
        for name, of_real in real.kurtosis.items()
    ]
    of_real = "÷ that of the held-out real images"
    return [
        Table(f"Power by octave, in cycles an image, {of_real}", ("arm", "IPC", *octaves), tuple(power)),
        Table(f"Fine contrast {of_real}", ("class", *heads), tuple(contrast)),
        Table("Kurtosis of the finest details", ("class", HELD_OUT, *heads), tuple(kurtosis)),
    ]


def _share(value: float | None, of: float) -> str:
    return "–" if value is None or of <= 0 else f"{value / of:.2f}"


def _kurtosis(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


# -- Compare several evaluations: the settings that differ, and the accuracy of the set in each.


def ablations(evaluations: Sequence[NamedEvaluation]) -> list[Table]:
    """Make tables for each group of evaluations on the same test images. The first one is the reference."""
    groups: dict[tuple[Any, ...], list[NamedEvaluation]] = {}
    for evaluation in evaluations:
        named = (evaluation.test, evaluation.test_part, evaluation.test_images)
        tested = (evaluation.classes, evaluation.fingerprints.get("test") or named)
        groups.setdefault(tested, []).append(evaluation)
    return [table for group in groups.values() if len(group) > 1 for table in _tables(group)]


def _tables(group: Sequence[NamedEvaluation]) -> list[Table]:
    columns = list(dict.fromkeys(arm.setting for one in group for arm in one.arms if arm.arm == SET_ARM))
    grid = [[_entry(evaluation, group[0], column) for column in columns] for evaluation in group]
    names, titles = [e.name for e in group], [f"{student}, IPC {ipc}" for student, ipc in columns]
    heading = "evaluation"
    if len(columns) > len(group):  # transpose to the narrower table
        grid, names, titles, heading = [list(column) for column in zip(*grid, strict=True)], titles, names, "student"
    accuracies = Table(
        "Accuracy of the set in %, mean ± standard deviation; differences from the first evaluation in points, "
        "with 95 % interval, paired by student seed",
        (heading, *(part for title in titles for part in (title, "− first"))),
        tuple(cells(name, *(part for entry in row for part in entry)) for name, row in zip(names, grid, strict=True)),
    )
    facts = differing([_facts(evaluation) for evaluation in group])
    rows = tuple(cells(key, *(entry.get(key, "–") for entry in facts)) for key in facts[0]) if facts else ()
    words = frozenset(range(1, len(group) + 1))
    different = Table("What differs", ("", *(e.name for e in group)), rows, text_columns=words)
    return [different, accuracies] if rows else [accuracies]


def _entry(evaluation: NamedEvaluation, first: NamedEvaluation, setting: Setting) -> tuple[Cell, Cell]:
    ours, other = evaluation.arm(SET_ARM, setting), first.arm(SET_ARM, setting)
    if evaluation is first:
        return Cell(mean_and_spread(ours)), Cell("–")
    if "bundles" in (evaluation.repeated, first.repeated):  # pairs of one bundle are not independent
        return Cell(mean_and_spread(ours)), Cell("several bundles")
    return Cell(mean_and_spread(ours)), _against(ours, other, (len(evaluation.sets), len(first.sets)))


def _against(ours: ArmResult | None, first: ArmResult | None, sets: tuple[int, int]) -> Cell:
    """Return the paired difference, or no value if the seeds differ. sets: how many each evaluation has."""
    if ours is None or first is None or not ours.oa_runs:
        return Cell("–")
    if ours.seeds != first.seeds or len(ours.oa_runs) != len(first.oa_runs):
        return Cell("other seeds")
    same = [tuple(seed % count for count in sets) for seed in ours.seeds]  # a probe has no seed: its pairs are one
    return difference_cell(
        paired_difference(ours.oa_runs, first.oa_runs, same if ours.student.startswith(PROBE) else None)
    )


def _facts(evaluation: NamedEvaluation) -> dict[str, str]:
    facts = {
        "sets": ", ".join(evaluation.sets),
        "train": evaluation.train,
        "training images": plain(evaluation.train_images),
        "split": evaluation.split,
        "groups": evaluation.groups or "",
        "resolution": plain(evaluation.resolution),
        "labels": evaluation.labels,
        "teacher": evaluation.teacher or "",
    }
    facts |= {f"version of {name}": number for name, number in evaluation.versions.items()}
    return facts | {f"recipe {key}": plain(value) for key, value in sorted(evaluation.recipe.to_dict().items())}


def differing(facts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Keep, in each dict, the entries that are not equal in all of them; the keys are the same in all."""
    keys = list(dict.fromkeys(key for entry in facts for key in entry))
    kept = [key for key in keys if len({entry.get(key, "") for entry in facts}) > 1]
    return [{key: entry.get(key) or "–" for key in kept} for entry in facts]


# -- Tables of audits, timings, bundles and runs.


def audit_table(audit: NamedAudit, controls: bool) -> Table | None:
    """Make a table of the tests or the controls. Below it stands each note once, as many tests share their notes."""
    entries = audit.controls if controls else audit.tests
    if not entries:
        return None
    caption = "Controls: tests on cases with a known verdict" if controls else f"Tests of {audit.name}"
    columns = ("control" if controls else "test", "value", "95 % interval", "limit", "verdict", "note")
    notes, marks = numbered_notes(entries)
    rows = tuple(_audit_row(entry, mark)[: None if notes else 5] for entry, mark in zip(entries, marks, strict=True))
    shown = columns if notes else columns[:5]
    return Table(caption, shown, rows, text_columns=frozenset({4}), numbered=tuple(notes))


def _audit_row(entry: AuditOutcome, mark: str) -> tuple[Cell, ...]:
    ends = "–" if entry.interval is None else f"{plain(entry.interval[0])} to {plain(entry.interval[1])}"
    verdict = Cell(entry.verdict, entry.verdict.lower() if entry.verdict in ("PASS", "WARN", "FAIL") else "")
    return cells(entry.name, plain(entry.value), ends, plain(entry.threshold), verdict, mark)


def power_table(audit: NamedAudit) -> Table | None:
    """Make a table of what tests would score if images were copies; None where the audit does not say."""
    powers = [(test.name, test.power) for test in audit.tests if test.power is not None]
    rows = tuple(
        cells(name, plain(power.all_copied), plain(power.few_copied), f"{100 * power.most_copied:.0f} %")
        for name, power in powers
    )
    columns = ("test", "all copied", "one in twenty", "copies not excluded")
    return Table("Power: what copies of T would score", columns, rows) if rows else None


def timing_table(evaluations: Sequence[NamedEvaluation]) -> Table | None:
    """Make a table of training times per student and IPC, over all arms."""
    rows = []
    for evaluation in evaluations:
        for setting in evaluation.settings():
            own = [arm for arm in evaluation.arms if arm.setting == setting and arm.oa_runs]
            if own:
                trainings, seconds = sum(len(arm.oa_runs) for arm in own), sum(arm.seconds for arm in own)
                cached = sum(arm.cached for arm in own)
                times = (duration(seconds), duration(seconds / trainings))
                steps = next((arm.steps for arm in own if arm.arm != FULL_ARM), None)
                where = (evaluation.name, setting.student, setting.ipc)
                rows.append(cells(*where, plain(steps), trainings, cached, *times))
    columns = ("evaluation", "student", "IPC", "steps", "trainings", "from cache", "total time", "time per training")
    caption = "Time for training and testing the students on one thread each, including cached trainings"
    return Table(caption, columns, tuple(rows), heads=2) if rows else None


def bench_table(bench: Timings) -> Table:
    rows = tuple(tuple(Cell(plain(row.get(column))) for column in bench.columns) for row in bench.timings)
    texts = {key for row in bench.timings for key, value in row.items() if isinstance(value, str)}
    words = frozenset(i for i, column in enumerate(bench.columns) if column in texts)
    caption = f"Timings: {bench.name}" + (f", on {bench.hardware}" if bench.hardware else "")
    columns = tuple(column.replace("_", " ") for column in bench.columns)
    return Table(caption, columns, rows, text_columns=words)


def bundle_tables(bundle: BundleRecord) -> list[Table]:
    classes = tuple(cells(name, number, bundle.prompts[name]) for name, number in bundle.prototypes.items())
    facts = [(f"difference from PyTorch: {part}", value) for part, value in bundle.parity.items()]
    facts += [(f"data: {name}", value) for name, value in bundle.data.items()]
    facts += [("data: size", bundle.size)] if bundle.size else []
    facts += [(f"licence: {part}", text) for part, text in bundle.licences.items()]
    return [
        Table(
            f"Classes of {bundle.name}, their prototypes and first prompts",
            ("class", "prototypes", "prompt"),
            classes,
            text_columns=frozenset({2}),
        ),
        *([pairs_table(f"Metadata of {bundle.name}", facts)] if facts else []),
    ]


def run_tables(run: RunRecord) -> list[Table]:
    """Make a table of the metrics in run.json, and one of images and prototypes per class."""
    facts: list[tuple[str, object]] = [(name.replace("_", " "), value) for name, value in run.metrics.items()]
    facts += [(f"data: {name.replace('_', ' ')}", value) for name, value in run.data.items() if value is not None]
    facts += [("data: size", run.size)] if run.size else []
    classes = list(dict.fromkeys([*run.images, *run.prototypes]))
    rows = tuple(cells(name, *(plain(counts.get(name)) for counts in (run.images, run.prototypes))) for name in classes)
    shown = [pairs_table(f"Metrics of {run.name}, on validation images", facts)] if facts else []
    if run.noise_levels:
        shown.append(_noise_levels(run))
    if rows:
        shown.append(Table(f"Classes of {run.name}", ("class", "training images", "prototypes"), rows))
    return shown


def _noise_levels(run: RunRecord) -> Table:
    levels = run.noise_levels
    timesteps = dict.fromkeys(timestep for errors in levels.values() for timestep in errors)
    rows = tuple(
        cells(timestep, *(f"{errors[timestep]:.3f}" if timestep in errors else "–" for errors in levels.values()))
        for timestep in timesteps
    )
    return Table(
        f"Squared error of the denoised latents of {run.name} at each noise level, on validation images",
        ("timestep", *(who.replace("_", " ") for who in levels)),
        rows,
        note="The denoiser is worth its steps where its error is below that of a Gaussian with the class's mean and "
        "covariance.",
    )
