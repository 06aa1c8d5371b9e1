"""The results of `evaluate`, as frozen dataclasses that convert to one JSON object."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dpd_eval.metrics.detail import SetDetail
from dpd_eval.metrics.set_metrics import SetMetrics
from dpd_eval.statistics import Interval, Unit, Verdict
from dpd_eval.students.recipe import Recipe


@dataclass(frozen=True)
class ArmResult:
    """Results of one arm, student and IPC over all pairs. Accuracies are shares in [0, 1], after the last step.

    oa_std: sample standard deviation (n − 1), None for one pair. aa, kappa, class_accuracy: means over pairs.
    confusion: test images of all pairs, counted by [true, predicted]. steps: optimiser steps of each training.
    seconds: sum of training and testing times, including cached trainings.
    """

    arm: str
    student: str
    ipc: int
    images: int
    oa_mean: float
    oa_std: float | None
    oa_runs: tuple[float, ...]
    aa: float
    kappa: float
    class_accuracy: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]
    steps: int
    seeds: tuple[int, ...]
    cached: int
    seconds: float


@dataclass(frozen=True)
class Difference:
    """OA of `arm` − OA of `reference`, paired by seed, with its 95 % t-interval over what `Evaluation` repeats.

    ratio: mean OA / mean OA, None if the reference's is 0.
    """

    arm: str
    reference: str
    student: str
    ipc: int
    difference: Interval
    ratio: float | None


@dataclass(frozen=True)
class Goal:
    """Whether OA of `arm` ≥ `ratio` · OA of `reference`; interval: of the paired left − right."""

    arm: str
    reference: str
    student: str
    ipc: int
    ratio: float
    verdict: Verdict
    interval: Interval


@dataclass(frozen=True)
class StudentInfo:
    """Cost of one image (see `count_multiply_adds`) and size of a student."""

    multiply_adds: int
    parameters: int


@dataclass(frozen=True)
class Evaluation:
    """The whole comparison.

    test_part: "val", "test" or "all" (a folder without parts). reading: how bands became RGB, None for plain images.
    teacher: description of the network that gave the soft labels. extractor: description of the network whose features
    were used by baselines and metrics. repeated: what the intervals of differences and verdicts are over. verdicts:
    about the ratio `at_least`. fingerprints: sha256 of the sorted content hashes of train, test and each set, and of
    the weights of each `hf:` student.
    """

    sets: tuple[str, ...]
    train: str
    test: str
    test_part: str
    classes: tuple[str, ...]
    train_images: int
    test_images: int
    val_per_class: int | None
    split: str
    groups: str | None
    resolution: int
    reading: dict[str, Any] | None
    labels: Literal["hard", "soft"]
    teacher: str | None
    extractor: str | None
    recipe: Recipe
    students: dict[str, StudentInfo]
    arms: tuple[ArmResult, ...]
    repeated: Unit
    differences: tuple[Difference, ...]
    at_least: float
    verdicts: tuple[Goal, ...]
    metrics: tuple[SetMetrics, ...]
    detail: tuple[SetDetail, ...]
    notes: tuple[str, ...]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dicts, lists, strings and finite numbers, as `--json` prints them."""
        return asdict(self)
