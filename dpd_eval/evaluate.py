"""`evaluate`: the same students, recipe and budget on a distilled set and on real subsets, paired (DESIGN §4)."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from dpd_eval.cache import Outcome, default_folder
from dpd_eval.plan import Progress, Training, run_plan
from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.results import ArmResult, Difference, Evaluation, StudentInfo
from dpd_eval.statistics import average_accuracy, class_accuracy, cohen_kappa, overall_accuracy, paired_difference
from dpd_eval.students import build_student, count_multiply_adds
from dpd_eval.subsets import random_subset
from dpd_runtime.errors import DataError, InputError
from dpd_train.images import SceneSet, read_scenes, split_folders

BASELINES = ("random",)
SET_ARM = "set"


def evaluate(
    sets: Sequence[Path],
    *,
    train: Path,
    test: Path | Literal["val"],
    students: Sequence[str] = ("convnet",),
    baselines: Sequence[str] = ("random",),
    ipc: Sequence[int] | None = None,
    recipe: str | Recipe = "quick",
    pairs: int | None = None,
    val_per_class: int | None = None,
    resolution: int | None = None,
    jobs: int = 1,
    cache: Path | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Evaluation:
    """Train students on SET and on real subsets of `train`, and test all of them on the same images.

    Pair i is student seed i, random subset i and SET i mod m. The set's arm at IPC k is the first k images of each
    class by file name. Every arm and the test images come to one size. Accuracy is the one after the last step.

    Args:
        sets: m ≥ 1 distilled sets (class folders), made with different generation seeds.
        train: labelled real images; baselines draw from its training part, never from its validation part.
        test: a folder (its test/ where it has one, else all of it), or "val": the validation part of `train`.
        ipc: images a class; None takes the smallest class of the sets.
        recipe: a shipped name, the path of a TOML file, or a Recipe.
        pairs: None gives 8 up to IPC 10 and 5 above.
        val_per_class: size of the validation part where `train` has no val/ (None: max(1, n // 10)).
        resolution: side in pixels; None takes the first set's.
        jobs: processes, one torch thread each; the figures do not depend on it.
        cache: folder of finished trainings; None takes the user's cache directory.

    Raises:
        InputError: an unknown student, baseline or recipe; a number out of range; nothing to compare.
        DataError: unreadable data, classes that differ, an IPC above a class's image count.
        DiskError: the cache cannot be written.
    """
    started = time.perf_counter()
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    _check_arguments(sets, students, baselines, ipc, pairs, jobs)

    first = read_scenes(Path(sets[0]), part="all", resolution=resolution)
    side = int(first.images.shape[1])
    arms = [first] + [read_scenes(Path(path), part="all", resolution=side) for path in sets[1:]]
    real = read_scenes(train, part="train", resolution=side, val_per_class=val_per_class)
    if test == "val":
        test_part: Literal["val", "test", "all"] = "val"
        judged = read_scenes(train, part="val", resolution=side, val_per_class=val_per_class)
    else:
        folders = split_folders(Path(test)) if Path(test).is_dir() else ()
        if folders and "test" not in folders:
            raise DataError(
                f"--test {test}: has {', '.join(folders)} but no test/; give the test images, or --test val"
            )
        test_part = "test" if folders else "all"
        judged = read_scenes(Path(test), part=test_part, resolution=side)
    _check_overlap(judged, real, f"--test {test}", f"--train {train}")
    _check_classes(judged.classes, real.classes, f"--test {test}", f"--train {train}")
    for path, arm in zip(sets, arms, strict=True):
        _check_classes(arm.classes, real.classes, f"SET {path}", f"--train {train}")
    ipcs = tuple(ipc) if ipc else (min(int(_class_counts(arm).min()) for arm in arms),)
    for path, arm in zip(sets, arms, strict=True):
        _check_ipc(path, arm, max(ipcs))

    plan: list[Training] = []
    for size in ipcs:
        for seed in range(pairs if pairs is not None else (8 if size <= 10 else 5)):
            arm = arms[seed % len(arms)]
            prefix = np.concatenate([np.flatnonzero(arm.labels == c)[:size] for c in range(len(arm.classes))])
            for student in students:
                plan.append(Training(SET_ARM, student, size, seed, arm, prefix))
                if "random" in baselines:
                    rows = random_subset(real.labels, size, seed, real.classes)
                    plan.append(Training("random", student, size, seed, real, rows))
    outcomes, cached = run_plan(plan, judged, settings, jobs, cache or default_folder(), progress)

    results = [
        _summary(arm, student, size, plan, outcomes, cached, real.classes)
        for size in ipcs
        for student in students
        for arm in (SET_ARM, *baselines)
    ]
    return Evaluation(
        sets=tuple(str(path) for path in sets),
        train=str(train),
        test=str(test),
        test_part=test_part,
        classes=real.classes,
        train_images=len(real.labels),
        test_images=len(judged.labels),
        resolution=side,
        recipe=settings,
        students={name: _describe(name, len(real.classes), side) for name in students},
        arms=tuple(results),
        differences=tuple(_differences(results)),
        notes=tuple(_notes(sets, arms, real, judged)),
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        seconds=time.perf_counter() - started,
    )


def _check_arguments(
    sets: Sequence[Path],
    students: Sequence[str],
    baselines: Sequence[str],
    ipc: Sequence[int] | None,
    pairs: int | None,
    jobs: int,
) -> None:
    if not sets:
        raise InputError("no SET given: name at least one folder of a distilled set")
    if not students:
        raise InputError("no student given: --students convnet")
    for name in students:
        build_student(name, 2, 0)  # raises for an unknown name
    for name in baselines:
        if name not in BASELINES:
            raise InputError(f"no baseline {name!r}: there are {', '.join(BASELINES)}")
    for flag, values in (("students", students), ("baselines", baselines), ("ipc", ipc or ())):
        if len(set(values)) != len(values):
            raise InputError(f"--{flag} names something twice: {', '.join(str(value) for value in values)}")
    if ipc is not None and (not ipc or min(ipc) < 1):
        raise InputError("--ipc: give one or more numbers ≥ 1, such as --ipc 10,50")
    if pairs is not None and pairs < max(1, len(sets)):
        raise InputError(f"--pairs is {pairs}: give at least {max(1, len(sets))}, so that every SET is used")
    fewest = 8 if ipc is not None and max(ipc) <= 10 else 5
    if pairs is None and len(sets) > fewest:
        raise InputError(f"{len(sets)} sets are more than the default {fewest} pairs use: pass --pairs {len(sets)}")
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}: give at least 1")


def _check_classes(found: tuple[str, ...], expected: tuple[str, ...], what: str, reference: str) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [f"it lacks {', '.join(missing)}"] if missing else []
        parts += [f"it has also {', '.join(extra)}"] if extra else []
        raise DataError(
            f"{what}: its classes are not those of {reference}: {'; '.join(parts)}; "
            "the class folders must have the same names"
        )


def _check_overlap(judged: SceneSet, real: SceneSet, what: str, reference: str) -> None:
    """A few shared images are a note; a test part that mostly is training images is a mistake."""
    shared = len(set(judged.hashes) & set(real.hashes))
    if 10 * shared > len(judged.labels):
        raise DataError(
            f"{what}: {shared} of its {len(judged.labels)} images are training images of {reference}; "
            "give images which were not trained on, or --test val"
        )


def _class_counts(scenes: SceneSet) -> NDArray[np.int64]:
    return np.bincount(scenes.labels, minlength=len(scenes.classes)).astype(np.int64)


def _check_ipc(path: Path, arm: SceneSet, largest: int) -> None:
    counts = _class_counts(arm)
    smallest = int(counts.argmin())
    if largest > counts[smallest]:
        raise DataError(
            f"SET {path}: class {arm.classes[smallest]} has {counts[smallest]} images, --ipc asks for {largest}: "
            f"give --ipc {counts[smallest]} or less, or generate more images"
        )


def _notes(sets: Sequence[Path], arms: Sequence[SceneSet], real: SceneSet, judged: SceneSet) -> list[str]:
    """What a reader of the figures has to know and no figure says."""
    notes = []
    tested = set(judged.hashes)
    named = [("--train", real), *((f"SET {path}", arm) for path, arm in zip(sets, arms, strict=True))]
    for name, scenes in named:
        shared = len(tested.intersection(scenes.hashes))
        if shared:
            notes.append(f"{shared} test images are also in {name}, byte for byte: the accuracies are too high")
    for name, scenes in (*named, ("--test", judged)):
        if scenes.rejected:
            notes.append(
                f"{name}: {len(scenes.rejected)} files left out, first {scenes.rejected[0].path}: "
                f"{scenes.rejected[0].reason}"
            )
    return notes


def _summary(
    arm: str,
    student: str,
    ipc: int,
    plan: Sequence[Training],
    outcomes: Sequence[Outcome],
    cached: Sequence[bool],
    classes: tuple[str, ...],
) -> ArmResult:
    cells = [i for i, item in enumerate(plan) if (item.arm, item.student, item.ipc) == (arm, student, ipc)]
    confusions = [outcomes[i].confusion for i in cells]
    oas = [overall_accuracy(confusion) for confusion in confusions]
    by_class = np.mean([class_accuracy(confusion) for confusion in confusions], axis=0).tolist()
    return ArmResult(
        arm=arm,
        student=student,
        ipc=ipc,
        images=len(plan[cells[0]].rows),
        oa_mean=float(np.mean(oas)),
        oa_std=float(np.std(oas, ddof=1)) if len(oas) > 1 else None,
        oa_runs=tuple(oas),
        aa=float(np.mean([average_accuracy(confusion) for confusion in confusions])),
        kappa=float(np.mean([cohen_kappa(confusion) for confusion in confusions])),
        class_accuracy=dict(zip(classes, by_class, strict=True)),
        seeds=tuple(plan[i].seed for i in cells),
        cached=sum(cached[i] for i in cells),
        seconds=sum(outcomes[i].seconds for i in cells),
    )


def _differences(results: Sequence[ArmResult]) -> list[Difference]:
    """The set's arm against every baseline of the same student and IPC."""
    return [
        Difference(
            arm=ours.arm,
            reference=other.arm,
            student=ours.student,
            ipc=ours.ipc,
            difference=paired_difference(ours.oa_runs, other.oa_runs),
            ratio=ours.oa_mean / other.oa_mean if other.oa_mean else None,
        )
        for ours in results
        for other in results
        if ours.arm == SET_ARM and other.arm != SET_ARM and (ours.student, ours.ipc) == (other.student, other.ipc)
    ]


def _describe(name: str, classes: int, side: int) -> StudentInfo:
    model = build_student(name, classes, 0)
    return StudentInfo(count_multiply_adds(model, side, side), sum(p.numel() for p in model.parameters()))
