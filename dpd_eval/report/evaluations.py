"""What the page shows of an evaluation, as frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpd_eval.metrics.detail import SetDetail
from dpd_eval.statistics import Interval, Unit

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, order=True)
class Setting:
    """What two arms must have in common to be compared; ipc ≥ 1."""

    labels: str
    student: str
    ipc: int


@dataclass(frozen=True)
class Arm:
    """One arm, student, IPC and kind of labels over all pairs. Accuracies in [0, 1].

    confusion: [true, predicted], counts or shares; () if the file has none.
    """

    name: str
    setting: Setting
    images: int | None
    steps: int | None
    oa_mean: float
    oa_std: float | None
    oa_runs: tuple[float, ...]
    aa: float | None
    kappa: float | None
    class_accuracy: Mapping[str, float]
    confusion: Matrix
    seeds: tuple[int, ...]
    cached: int | None
    seconds: float | None


@dataclass(frozen=True)
class Gap:
    """OA of `arm` − OA of `reference` in shares, paired by seed."""

    arm: str
    reference: str
    setting: Setting
    interval: Interval
    ratio: float | None


@dataclass(frozen=True)
class GoalRecord:
    """A ratio that the set should reach, and the verdict of the interval."""

    arm: str
    reference: str
    setting: Setting
    ratio: float
    verdict: str
    interval: Interval


@dataclass(frozen=True)
class Metrics:
    """Set metrics of one arm in the features of one extractor, by name, in the order of the file."""

    arm: str
    ipc: int
    images: int | None
    extractor: str
    values: Mapping[str, float]
    agreement: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationRecord:
    name: str
    sets: tuple[str, ...]
    train: str
    test: str
    test_part: str
    classes: tuple[str, ...]
    train_images: int | None
    test_images: int | None
    resolution: int | None
    reading: Mapping[str, Any]
    val_per_class: int | None
    split: str  # "names" in records of versions that had nothing else
    groups: str
    recipe: Mapping[str, Any]
    teacher: str
    extractor: str
    students: Mapping[str, Mapping[str, float]]
    arms: tuple[Arm, ...]
    repeated: Unit
    gaps: tuple[Gap, ...]
    goals: tuple[GoalRecord, ...]
    metrics: tuple[Metrics, ...]
    detail: tuple[SetDetail, ...]
    notes: tuple[str, ...]
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float | None
    context: tuple[tuple[str, str], ...]

    def settings(self) -> tuple[Setting, ...]:
        return tuple(dict.fromkeys(arm.setting for arm in self.arms))

    def arm_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm.name for arm in self.arms))

    def arm(self, name: str, setting: Setting) -> Arm | None:
        return next((arm for arm in self.arms if (arm.name, arm.setting) == (name, setting)), None)
