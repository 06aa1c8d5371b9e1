"""An evaluation: what `dpd evaluate` finds, writes as JSON and `dpd report` reads again."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from dpd_eval.metrics.detail import SetDetail
from dpd_eval.metrics.set_metrics import SetMetrics
from dpd_eval.statistics import Interval, Unit, Verdict
from dpd_eval.students.recipe import Recipe

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Ipc = Annotated[int, Meta(ge=1)]
Few = Meta(max_length=1_000)
"""Of what the page compares with each other, which takes the square of the number; evaluations have a tenth of it."""
Many = Meta(max_length=10_000)


class Setting(NamedTuple):
    """What two arms must have in common to be compared."""

    student: str
    ipc: int


class _Compared:
    """What belongs to one setting."""

    student: str
    ipc: int

    @property
    def setting(self) -> Setting:
        return Setting(self.student, self.ipc)


@dataclass(frozen=True)
class ArmResult(_Compared):
    """Results of one arm, student and IPC over all pairs. Accuracies are shares in [0, 1], after the last step.

    oa_std: sample standard deviation (n − 1), None for one pair. aa, kappa, class_accuracy: means over pairs.
    confusion: test images of all pairs, counted by [true, predicted]. steps: optimiser steps of each training.
    seconds: sum of training and testing times, including cached trainings.
    """

    arm: str
    student: str
    ipc: Ipc
    images: Count
    oa_mean: Share
    oa_std: float | None
    oa_runs: tuple[Share, ...]
    aa: Share
    kappa: float
    class_accuracy: dict[str, Share]
    confusion: tuple[tuple[Count, ...], ...]
    steps: Count
    seeds: tuple[int, ...]
    cached: Count
    seconds: float

    def __post_init__(self) -> None:
        if any(len(row) != len(self.confusion) for row in self.confusion):
            raise ValueError("confusion is no square matrix")


@dataclass(frozen=True)
class Difference(_Compared):
    """OA of `arm` − OA of `reference`, paired by seed, with its 95 % t-interval over what `Evaluation` repeats.

    ratio: mean OA / mean OA, None if the reference's is 0.
    """

    arm: str
    reference: str
    student: str
    ipc: Ipc
    difference: Interval
    ratio: float | None


@dataclass(frozen=True)
class Goal(_Compared):
    """Whether OA of `arm` ≥ `ratio` · OA of `reference`; interval: of the paired left − right."""

    arm: str
    reference: str
    student: str
    ipc: Ipc
    ratio: float
    verdict: Verdict
    interval: Interval


@dataclass(frozen=True)
class StudentInfo:
    """Cost of one image (see `count_multiply_adds`) and size of a student."""

    multiply_adds: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The whole comparison.

    test_part: "val", "test" or "all" (a folder without parts). reading: how bands became RGB or which are carried, None
    for plain images. teacher: description of the network that gave the soft labels. extractor: description of the
    network whose features were used by baselines and metrics. repeated: what the intervals of differences and verdicts
    are over. verdicts: about the ratio `at_least`. fingerprints: sha256 of the sorted content hashes of train, test and
    each set, and of the weights of each `hf:` student. Fields with a default are absent in files of earlier versions.
    """

    sets: Annotated[tuple[str, ...], Few]
    train: str
    test: str
    test_part: str
    classes: Annotated[tuple[str, ...], Many]
    train_images: Count
    test_images: Count
    val_per_class: Count | None
    split: str = "names"
    groups: str | None = None
    resolution: Count
    reading: dict[str, Any] | None = None
    labels: Literal["hard", "soft"]
    teacher: str | None
    extractor: str | None
    recipe: Recipe
    students: Annotated[dict[str, StudentInfo], Few]
    arms: Annotated[tuple[ArmResult, ...], Few]
    repeated: Unit = "pairs"
    differences: Annotated[tuple[Difference, ...], Few]
    at_least: float
    verdicts: Annotated[tuple[Goal, ...], Few]
    metrics: Annotated[tuple[SetMetrics, ...], Few]
    detail: Annotated[tuple[SetDetail, ...], Few] = ()
    notes: Annotated[tuple[str, ...], Few]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    seconds: float

    def settings(self) -> tuple[Setting, ...]:
        return tuple(dict.fromkeys(arm.setting for arm in self.arms))

    def arm_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm.arm for arm in self.arms))

    def arm(self, name: str, setting: Setting) -> ArmResult | None:
        return next((arm for arm in self.arms if (arm.arm, arm.setting) == (name, setting)), None)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dicts, lists, strings and finite numbers, as `--json` prints them."""
        return asdict(self)
