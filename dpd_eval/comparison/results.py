"""What `evaluate` returns, as frozen dataclasses which turn into one JSON object."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dpd_eval.metrics.set_metrics import SetMetrics
from dpd_eval.statistics import Interval, Verdict
from dpd_eval.students.recipe import Recipe


@dataclass(frozen=True)
class ArmResult:
    """One arm, student and IPC over all pairs. Accuracies are shares in [0, 1], after the last step.

    oa_std is the sample standard deviation (n − 1), None for one pair; aa, kappa and class_accuracy are means over
    pairs; confusion [true, predicted] counts the test images of all pairs; steps are the optimiser steps of each
    training; seconds is the sum of training and testing times, of cached trainings too.
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
    """OA of `arm` − OA of `reference`, paired by seed, with its 95 % t-interval.

    ratio is mean OA / mean OA (None where the reference's is 0).
    """

    arm: str
    reference: str
    student: str
    ipc: int
    difference: Interval
    ratio: float | None


@dataclass(frozen=True)
class Goal:
    """Whether OA of `arm` ≥ `ratio` · OA of `reference`; the interval is that of left − right, in pairs (DESIGN §4)."""

    arm: str
    reference: str
    student: str
    ipc: int
    ratio: float
    verdict: Verdict
    interval: Interval


@dataclass(frozen=True)
class StudentInfo:
    """Cost of one image, see `dpd_eval.students.cost`, and size."""

    multiply_adds: int
    parameters: int


@dataclass(frozen=True)
class Evaluation:
    """The whole comparison.

    test_part is "val", "test" or "all" (a folder without parts); reading is how bands became RGB, None for plain
    images; teacher describes who gave the soft labels, extractor whose features chose the baselines and measured the
    sets; verdicts are about `at_least`; fingerprints are sha256: of the sorted content hashes of train, test and each
    set, and of the weights of each `hf:` student.
    """

    sets: tuple[str, ...]
    train: str
    test: str
    test_part: str
    classes: tuple[str, ...]
    train_images: int
    test_images: int
    val_per_class: int | None
    resolution: int
    reading: dict[str, Any] | None
    labels: Literal["hard", "soft"]
    teacher: str | None
    extractor: str | None
    recipe: Recipe
    students: dict[str, StudentInfo]
    arms: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    at_least: float
    verdicts: tuple[Goal, ...]
    metrics: tuple[SetMetrics, ...]
    notes: tuple[str, ...]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and finite numbers: what `--json` prints."""
        return asdict(self)
