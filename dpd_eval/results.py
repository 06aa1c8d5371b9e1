"""An evaluation: what `dpd evaluate` finds, writes as JSON and `dpd report` reads again."""

from collections.abc import Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from dpd_eval.metrics import SetDetail, SetMetrics
from dpd_eval.pretrained import PROBE
from dpd_eval.recipe import Recipe
from dpd_eval.records import parse_json, read_file
from dpd_eval.selection import find_method, method_names
from dpd_eval.statistics import Interval, Unit, Verdict, fewest_repeats
from dpd_runtime.html import html_table
from dpd_runtime.text import counted
from dpd_train.records import convert

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
    """Results of one arm, student and IPC over all pairs, after the last step.

    Args:
        arm: what was trained on, such as set, random or 5 real. student: the network. ipc: images per class.
        images: of each training.
        oa_mean: overall accuracy, mean over pairs. oa_std: its sample standard deviation (n − 1), None for one pair.
        oa_runs: overall accuracy of each pair.
        aa: average accuracy of the classes, mean over pairs. kappa: Cohen's, mean over pairs.
        class_accuracy: of each class, mean over pairs.
        confusion: test images of all pairs, counted by [true, predicted].
        steps: optimiser steps of each training. seeds: of the students, one for each pair.
        cached: trainings that an earlier evaluation had made.
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
    """Overall accuracy of `arm` minus that of `reference`, paired by seed.

    Args:
        arm, reference: what is compared. student, ipc: of both.
        difference: with its interval over what `repeated` of the evaluation says.
        ratio: of the mean accuracies; None if that of the reference is 0.
    """

    arm: str
    reference: str
    student: str
    ipc: Ipc
    difference: Interval
    ratio: float | None


@dataclass(frozen=True)
class Goal(_Compared):
    """Whether an arm reaches a share of the accuracy of another one.

    Args:
        arm, reference: what is compared. student, ipc: of both.
        ratio: the share of the reference's accuracy that is to be reached.
        verdict: by the interval. interval: of the paired differences to that share.
    """

    arm: str
    reference: str
    student: str
    ipc: Ipc
    ratio: float
    verdict: Verdict
    interval: Interval


@dataclass(frozen=True)
class StudentInfo:
    """Cost and size of a student.

    Args:
        multiply_adds: of one image (see `count_multiply_adds`). parameters: number of its weights.
    """

    multiply_adds: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The whole comparison. Fields with a default are absent in files of earlier versions.

    Args:
        sets: places of the sets. train, test: places of the real images; test is val for the validation part.
        test_part: val, test or all, which is a folder without parts.
        classes: their names, sorted. train_images, test_images: numbers of images.
        val_per_class, split, groups: how validation images were held out.
        resolution: side of all images in pixels.
        reading: how bands became RGB or which are carried; None for plain images.
        labels: hard, or soft where a teacher gave probabilities; those of taught arms are the teacher's answers.
        teacher: description of that network.
        extractor: description of the network whose features baselines and metrics used.
        recipe: how each student was trained. students: cost and size of each.
        arms: the results. differences, verdicts: of arms that are compared, in one order.
        repeated: what their intervals are over. at_least: the ratio of the verdicts.
        metrics, detail: of the images of each arm.
        notes: what a reader of the results must know.
        fingerprints: sha256 of the sorted content hashes of train, test and each set, of the weights of each `hf:`
            student, of the bundle whose teacher answered, and of the data card.
        versions: of the packages. seconds: wall time of the evaluation.
        config: the options that repeat it: `dpd evaluate SET --train DATA --test DATA --config FILE`.
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
    config: dict[str, Any] | None = None

    def settings(self) -> tuple[Setting, ...]:
        return tuple(dict.fromkeys(arm.setting for arm in self.arms))

    def arm_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm.arm for arm in self.arms))

    def arm(self, name: str, setting: Setting) -> ArmResult | None:
        return next((arm for arm in self.arms if (arm.arm, arm.setting) == (name, setting)), None)

    def _repr_html_(self) -> str:
        """Accuracies by arm, with verdicts and notes, for notebooks."""
        rows = [
            (
                arm.arm,
                arm.student,
                arm.ipc,
                len(arm.oa_runs),
                f"{100 * arm.oa_mean:.2f}",
                "" if arm.oa_std is None else f"{100 * arm.oa_std:.2f}",
            )
            for arm in self.arms
        ]
        goals = [
            f"{row.arm} − {row.reference}, IPC {row.ipc}: {100 * row.difference.mean:+.2f} points; "
            f"at least {goal.ratio:g} × {goal.reference}: {goal.verdict}"
            for row, goal in zip(self.differences, self.verdicts, strict=True)
        ]
        title = f"{counted(self.test_images, 'test image')}, {self.resolution} px"
        return html_table(title, ("arm", "student", "IPC", "pairs", "OA %", "± std"), rows, [*goals, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dicts, lists, strings and finite numbers, as `--json` prints them."""
        return asdict(self)


def read_results(path: Path) -> Evaluation:
    """Read what `dpd evaluate --out` wrote.

    Raises:
        InputError: it cannot be read, or a value is missing or of the wrong type; the message names it.
    """
    return convert(parse_json(read_file(path), str(path)), Evaluation, str(path))


# -- Names of the arms of an evaluation, and which of them are compared. Loads no PyTorch: the report reads them too.


SET_ARM, FULL_ARM = "set", "full"
HELD_OUT = "held-out real"  # the images that students are tested on, where arms are compared with them
LABELS_ARM = "labels"
TEACHER = "the teacher's bundle"  # among the fingerprints
_JPEGS, _MEGABYTES = "jpegs in ", " MB"
_OWN, _WITH, _TAUGHT = " real", f"{SET_ARM} + ", "taught "


def taught_arm(arm: str) -> str:
    """The arm of the images of another one, with a bundle's teacher in the place of their labels: `taught set`."""
    return f"{_TAUGHT}{arm}"


def own_arm(count: int) -> str:
    """The arm of `count` real images per class that a site has itself: `5 real`."""
    return f"{count}{_OWN}"


def joint_arm(own: str) -> str:
    """The arm of the set together with the images of an own arm: `set + 5 real`."""
    return f"{_WITH}{own}"


def jpegs_arm(megabytes: float) -> str:
    """The arm of as many real images as fit into so many megabytes as JPEGs: `jpegs in 3.1 MB`."""
    return f"{_JPEGS}{megabytes:g}{_MEGABYTES}"


def jpeg_megabytes(arm: str) -> float | None:
    """The megabytes of an arm of JPEGs; None for other arms."""
    return float(arm.removeprefix(_JPEGS).removesuffix(_MEGABYTES)) if arm.startswith(_JPEGS) else None


def is_own(arm: str) -> bool:
    return arm.endswith(_OWN) and not is_joint(arm)


def is_joint(arm: str) -> bool:
    return arm.startswith(_WITH)


def is_taught(arm: str) -> bool:
    return arm.startswith(_TAUGHT)


def taught_part(arm: str) -> str:
    """The arm whose images a taught one has."""
    return arm.removeprefix(_TAUGHT)


def own_part(arm: str) -> str:
    """The own arm of a joint one."""
    return arm.removeprefix(_WITH)


def is_compared(arm: str, reference: str) -> bool:
    """Whether an evaluation reports `arm` − `reference`.

    The set is compared with everything made of real images alone, and a joint arm with both of its halves. Under a
    teacher the set is compared with real images under the same one, with its own labels and with all real images.
    """
    if arm == SET_ARM:
        return reference != SET_ARM and not is_joint(reference) and not is_taught(reference)
    if arm == taught_arm(SET_ARM):
        return reference != arm and (is_taught(reference) or reference in (SET_ARM, FULL_ARM))
    return is_joint(arm) and reference in (SET_ARM, own_part(arm))


# -- What an interval repeats: pairs of students or, where sets come from several trainings, the bundles.


ONE_BUNDLE = "all sets come from one bundle: the intervals repeat students, not the training that made the bundle"

SOME_UNKNOWN = "some sets do not say of which bundle they are: all intervals repeat students, not the making of bundles"


@dataclass(frozen=True)
class Repeats:
    """What the intervals of an evaluation are over.

    Args:
        bundles: for each set, what its bundle shares with its signed and audited copies: the sha256 of the prototypes.
            The bundle's own hash where it has none, "" where nothing is known.
    """

    bundles: tuple[str, ...]

    @property
    def unit(self) -> Unit:
        return "bundles" if all(self.bundles) and len(set(self.bundles)) > 1 else "pairs"

    def groups(self, arm: ArmResult, reference: ArmResult) -> list[Hashable] | None:
        """What each pair is averaged over; None if each pair counts for itself.

        It is the bundle, or the set where the pairs of one set are the same training again: a probe has no seed, and
        neither has a choice such as herding.
        """
        which = [seed % len(self.bundles) for seed in arm.seeds]
        if self.unit == "bundles":
            return [self.bundles[number] for number in which]
        chosen = reference.arm in method_names() and not find_method(reference.arm).uses_seed
        return [*which] if arm.student.startswith(PROBE) and arm.arm == SET_ARM and chosen else None

    def notes(self, pairs: dict[int, int]) -> list[str]:
        """Notes on what is not repeated, and on IPCs with too few repeats. pairs: IPC → number of pairs."""
        bundles = len(set(self.bundles))
        counts = {ipc: bundles if self.unit == "bundles" else count for ipc, count in pairs.items()}
        one = [ONE_BUNDLE] if self.unit == "pairs" and all(self.bundles) else []
        if any(self.bundles) and not all(self.bundles):
            one = [SOME_UNKNOWN]
        return one + [
            f"IPC {ipc}: {count} {self.unit.removesuffix('s') if count == 1 else self.unit}, at least "
            f"{fewest_repeats(self.unit, ipc)} are needed for a reported result"
            for ipc, count in counts.items()
            if count < fewest_repeats(self.unit, ipc)
        ]
