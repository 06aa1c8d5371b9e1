"""Summarise training results as accuracies of each arm, paired differences and verdicts (docs/guides/evaluate.md)."""

from collections.abc import Iterator, Sequence

import numpy as np

from dpd_eval.comparison.arm_names import is_compared
from dpd_eval.comparison.plan import Training
from dpd_eval.comparison.repeats import Repeats
from dpd_eval.comparison.results import ArmResult, Difference, Goal
from dpd_eval.statistics import (
    average_accuracy,
    class_accuracy,
    cohen_kappa,
    overall_accuracy,
    paired_difference,
    ratio_verdict,
)
from dpd_eval.students.cache import TrainingResult
from dpd_eval.students.recipe import Recipe


def summarise(
    plan: Sequence[Training],
    outcomes: Sequence[TrainingResult],
    cached: Sequence[bool],
    recipe: Recipe,
    classes: tuple[str, ...],
) -> tuple[ArmResult, ...]:
    """Summarise each arm, student and IPC, in the order in which they occur in the plan."""
    arms, students, ipcs = (
        list(dict.fromkeys(getattr(item, field) for item in plan)) for field in ("arm", "student", "ipc")
    )
    cells = [(arm, student, ipc) for ipc in ipcs for student in students for arm in arms]
    members: dict[tuple[str, str, int], list[int]] = {cell: [] for cell in cells}
    for i, item in enumerate(plan):
        members[item.arm, item.student, item.ipc].append(i)
    return tuple(
        _arm_result([plan[i] for i in rows], [outcomes[i] for i in rows], sum(cached[i] for i in rows), recipe, classes)
        for rows in members.values()
    )


def _arm_result(
    items: Sequence[Training], outcomes: Sequence[TrainingResult], cached: int, recipe: Recipe, classes: tuple[str, ...]
) -> ArmResult:
    confusions = [outcome.confusion for outcome in outcomes]
    oas = [overall_accuracy(confusion) for confusion in confusions]
    by_class = np.mean([class_accuracy(confusion) for confusion in confusions], axis=0).tolist()
    return ArmResult(
        arm=items[0].arm,
        student=items[0].student,
        ipc=items[0].ipc,
        images=items[0].images,
        oa_mean=float(np.mean(oas)),
        oa_std=float(np.std(oas, ddof=1)) if len(oas) > 1 else None,
        oa_runs=tuple(oas),
        aa=float(np.mean([average_accuracy(confusion) for confusion in confusions])),
        kappa=float(np.mean([cohen_kappa(confusion) for confusion in confusions])),
        class_accuracy=dict(zip(classes, by_class, strict=True)),
        confusion=tuple(tuple(row) for row in np.sum(confusions, axis=0).tolist()),
        steps=items[0].recipe(recipe).steps,
        seeds=tuple(item.seed for item in items),
        cached=cached,
        seconds=sum(outcome.seconds for outcome in outcomes),
    )


def _compared(results: Sequence[ArmResult]) -> Iterator[tuple[ArmResult, ArmResult]]:
    """Yield the arms that are compared, of the same student and IPC."""
    for ours in results:
        for other in results:
            if is_compared(ours.arm, other.arm) and (ours.student, ours.ipc) == (other.student, other.ipc):
                yield ours, other


def differences(results: Sequence[ArmResult], repeats: Repeats) -> tuple[Difference, ...]:
    """Return the paired differences of the arms that are compared (`is_compared`)."""
    return tuple(
        Difference(
            arm=ours.arm,
            reference=other.arm,
            student=ours.student,
            ipc=ours.ipc,
            difference=paired_difference(ours.oa_runs, other.oa_runs, repeats.groups(ours, other)),
            ratio=ours.oa_mean / other.oa_mean if other.oa_mean else None,
        )
        for ours, other in _compared(results)
    )


def verdicts(results: Sequence[ArmResult], repeats: Repeats, ratio: float) -> tuple[Goal, ...]:
    """Decide for the same arms whether the first reaches `ratio` times the OA of the second."""
    goals = []
    for ours, other in _compared(results):
        verdict = ratio_verdict(ours.oa_runs, other.oa_runs, ratio, repeats.groups(ours, other))
        goals.append(Goal(ours.arm, other.arm, ours.student, ours.ipc, ratio, verdict.verdict, verdict.interval))
    return tuple(goals)
