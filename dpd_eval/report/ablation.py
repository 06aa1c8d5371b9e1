"""Compare several evaluations: the settings that differ, and the accuracy of the set in each."""

from collections.abc import Sequence
from typing import Any

from dpd_eval.comparison.arm_names import SET_ARM
from dpd_eval.comparison.results import ArmResult, Setting
from dpd_eval.report.evaluations import NamedEvaluation
from dpd_eval.report.tables import Cell, Table, cells, difference_cell, mean_and_spread
from dpd_eval.report.wording import plain
from dpd_eval.statistics import paired_difference


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
    return Cell(mean_and_spread(ours)), _against(ours, other)


def _against(ours: ArmResult | None, first: ArmResult | None) -> Cell:
    """Return the paired difference, or no value if the seeds differ."""
    if ours is None or first is None or not ours.oa_runs:
        return Cell("–")
    if ours.seeds != first.seeds or len(ours.oa_runs) != len(first.oa_runs):
        return Cell("other seeds")
    return difference_cell(paired_difference(ours.oa_runs, first.oa_runs))


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
