"""Tables of accuracies: by architecture, by class, and as confusion matrices."""

from collections.abc import Sequence

from dpd_eval.comparison.arm_names import SET_ARM
from dpd_eval.comparison.results import ArmResult, Evaluation, Setting
from dpd_eval.report.tables import Cell, Table, cells, difference_cell, mean_and_spread
from dpd_eval.report.wording import arm_words, count, grouped, percent, plain, points


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
                evaluation.labels,
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
    other = next((arm for arm in arms if arm.arm != SET_ARM), None)
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
