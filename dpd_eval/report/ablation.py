"""Compare several evaluations: the settings that differ, and the accuracy of the set in each."""

from collections.abc import Sequence
from typing import Any

from dpd_eval.comparison.arm_names import SET_ARM
from dpd_eval.report.evaluations import Arm, EvaluationRecord
from dpd_eval.report.tables import Cell, Table, cells, difference_cell, mean_and_spread
from dpd_eval.report.wording import plain
from dpd_eval.statistics import paired_difference


def ablations(evaluations: Sequence[EvaluationRecord]) -> list[Table]:
    """Make tables for each group of evaluations on the same test images. The first one is the reference."""
    groups: dict[tuple[Any, ...], list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        named = (evaluation.test, evaluation.test_part, evaluation.test_images)
        tested = (evaluation.classes, evaluation.fingerprints.get("test") or named)
        groups.setdefault(tested, []).append(evaluation)
    return [table for group in groups.values() if len(group) > 1 for table in _tables(group)]


def _tables(group: Sequence[EvaluationRecord]) -> list[Table]:
    settings = [arm.setting for evaluation in group for arm in evaluation.arms if arm.name == SET_ARM]
    columns = list(dict.fromkeys((setting.student, setting.ipc) for setting in settings))
    grid = [[_entry(evaluation, group[0], *column) for column in columns] for evaluation in group]
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


def _entry(evaluation: EvaluationRecord, first: EvaluationRecord, student: str, ipc: int) -> tuple[Cell, Cell]:
    ours, other = _set_arm(evaluation, student, ipc), _set_arm(first, student, ipc)
    return Cell(mean_and_spread(ours)), Cell("–") if evaluation is first else _against(ours, other)


def _set_arm(evaluation: EvaluationRecord, student: str, ipc: int) -> Arm | None:
    """Find the set's arm, whatever its labels: they may be what differs between the evaluations."""
    own = (arm for arm in evaluation.arms if arm.name == SET_ARM)
    return next((arm for arm in own if (arm.setting.student, arm.setting.ipc) == (student, ipc)), None)


def _against(ours: Arm | None, first: Arm | None) -> Cell:
    """Return the paired difference, or no value if the seeds differ."""
    if ours is None or first is None or not ours.oa_runs:
        return Cell("–")
    if ours.seeds != first.seeds or len(ours.oa_runs) != len(first.oa_runs):
        return Cell("other seeds")
    return difference_cell(paired_difference(ours.oa_runs, first.oa_runs))


def _facts(evaluation: EvaluationRecord) -> dict[str, str]:
    facts = {
        "sets": ", ".join(evaluation.sets),
        "train": evaluation.train,
        "training images": plain(evaluation.train_images),
        "resolution": plain(evaluation.resolution),
        "labels": ", ".join(dict.fromkeys(setting.labels for setting in evaluation.settings())),
        "teacher": evaluation.teacher,
    }
    return facts | {f"recipe {key}": plain(value) for key, value in sorted(evaluation.recipe.items())}


def differing(facts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Keep, in each dict, the entries that are not equal in all of them; the keys are the same in all."""
    keys = list(dict.fromkeys(key for entry in facts for key in entry))
    kept = [key for key in keys if len({entry.get(key, "") for entry in facts}) > 1]
    return [{key: entry.get(key) or "–" for key in kept} for entry in facts]
