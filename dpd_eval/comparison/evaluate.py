"""`evaluate`: the same students, recipe and budget on a distilled set and on real subsets, paired (DESIGN §4)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dpd_eval.comparison.arms import describe_student, measure_arms, plan_trainings
from dpd_eval.comparison.checks import check_arguments, count_pairs, extractor_name
from dpd_eval.comparison.inputs import read_material
from dpd_eval.comparison.plan import Progress, Training, run_plan
from dpd_eval.comparison.results import Evaluation
from dpd_eval.comparison.soft_labels import label_softly
from dpd_eval.comparison.summary import differences, summarise, too_few_pairs, verdicts
from dpd_eval.extractors.extractor import Extractor, build_extractor
from dpd_eval.metrics import SetMetrics
from dpd_eval.selection import METHODS, Seen, Sight
from dpd_eval.selection.foreground_patches import foreground_patches
from dpd_eval.selection.training_scores import training_scores
from dpd_eval.students import is_hub, student_identity
from dpd_eval.students.cache import default_folder
from dpd_eval.students.recipe import Recipe, load_recipe
from dpd_runtime.errors import InputError
from dpd_runtime.machine.versions import package_versions
from dpd_train.foreground.cropping import check_segmenter, describe_segmenter
from dpd_train.images import PLAIN, Reading, SceneSet

Stage = Callable[[str], Callable[[int, int], None]]  # title → (done, total) → None


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
    at_least: float = 1.0,
    soft: bool = False,
    metrics: bool = True,
    extractor: str | None = None,
    segmenter: str | None = None,
    val_per_class: int | None = None,
    resolution: int | None = None,
    reading: Reading = PLAIN,
    jobs: int = 1,
    cache: Path | None = None,
    progress: Progress = lambda done, total, what: None,
    stage: Stage = lambda title: lambda done, total: None,
) -> Evaluation:
    """Train students on SET and on real subsets of `train`, and test all of them on the same images.

    Pair i is student seed i, random subset i and SET i mod m. The set's arm at IPC k is the first k images of each
    class by file name. Every arm and the test images come to one size. Accuracy is the one after the last step.

    Args:
        sets: m ≥ 1 distilled sets (class folders), made with different generation seeds.
        train: labelled real images; baselines draw from its training part, never from its validation part.
        test: a folder (its test/ where it has one, else all of it), or "val": the validation part of `train`.
        students: keys of `dpd_eval.students.STUDENTS`, or `hf:ID_OR_PATH`.
        baselines: keys of `dpd_eval.selection.METHODS`.
        ipc: images a class; None takes the smallest class of the sets.
        recipe: a shipped name, the path of a TOML file, or a Recipe.
        pairs: None gives 8 up to IPC 10 and 5 above.
        at_least: the ratio r of "OA of the set ≥ r · OA of the baseline", which the verdicts are about.
        soft: students learn the probabilities of one teacher, trained on `train`, in every arm.
        metrics: compare the first pair's images of every arm with all real ones in the extractor's features.
        extractor: `own` (also for None) or `hf:ID_OR_PATH`: features for metrics and for baselines that need them.
        segmenter: what foreground finds objects by, as in `find_foreground`.
        val_per_class: size of the validation part where `train` has no val/ (None: max(1, n // 10)).
        resolution: side in pixels; None takes the first set's.
        reading: bands and stretch of the real images, as `dpd train` read them (`dpd_train.images.parse_reading`).
        jobs: processes, one torch thread each; the figures do not depend on it.
        cache: folder of finished trainings and extractors; None takes the user's cache directory.
        progress: of the trainings. stage: of what comes before them.

    Raises:
        InputError: an unknown student, baseline, extractor or recipe; a number out of range; nothing to compare.
        DataError: unreadable data, classes that differ, an IPC above a class's image count.
        DiskError: the cache cannot be written.
    """
    started = time.perf_counter()
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_arguments(sets, students, baselines, ipc, pairs, at_least, jobs)
    looking = extractor_name(extractor, baselines, metrics)
    patching = any(METHODS[name].sees == "patches" for name in baselines)
    if segmenter is not None and not patching:
        raise InputError(f"--segmenter {segmenter} has no effect without --baselines foreground: leave it out")
    check_segmenter(segmenter)
    material = read_material(sets, train, test, resolution, val_per_class, reading)
    real = material.real
    counts = count_pairs(material, baselines, ipc, pairs)
    infos = {name: describe_student(name, len(real.classes), material.side) for name in students}

    judges = _build_judges(real, looking, soft or patching, cache, stage)
    seen = _seen(real, baselines, judges, cache, stage)
    if patching and judges.teacher is not None:
        patches = foreground_patches(train, real, judges.teacher, val_per_class, reading, segmenter, stage)
        seen["patches"] = Seen(patches.scenes, patches.sure)
    plan = plan_trainings(material, infos, baselines, counts, seen)
    measured, notes = judges.measure(plan, real.labels) if metrics else ((), [])
    if soft and judges.teacher is not None:
        plan = label_softly(plan, judges.teacher, real.classes, stage("asking the teacher"))
    outcomes, cached = run_plan(plan, material.judged, settings, jobs, cache or default_folder(), progress)
    arms = summarise(plan, outcomes, cached, settings, real.classes)
    return Evaluation(
        sets=material.names,
        train=str(train),
        test=str(test),
        test_part=material.test_part,
        classes=real.classes,
        train_images=len(real.labels),
        test_images=len(material.judged.labels),
        val_per_class=val_per_class,
        resolution=material.side,
        reading=None if real.rendering is None else real.rendering.record(),
        labels="soft" if soft else "hard",
        teacher=judges.teacher.description if soft and judges.teacher else None,
        extractor=judges.extractor.description if judges.extractor else None,
        recipe=settings,
        students=infos,
        arms=arms,
        differences=differences(arms),
        at_least=at_least,
        verdicts=verdicts(arms, at_least),
        metrics=measured,
        notes=(*material.notes(), *too_few_pairs(counts), *notes, *_segmented(segmenter)),
        fingerprints=material.fingerprints() | {name: student_identity(name) for name in students if is_hub(name)},
        versions=package_versions("torch", "transformers", "numpy", "scikit-learn", "pillow"),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Judges:
    """Networks that look at images before any student is trained, and the features [n, D] of the real ones."""

    extractor: Extractor | None
    features: NDArray[np.float32] | None
    teacher: Extractor | None

    def measure(self, plan: Sequence[Training], labels: NDArray[np.int64]) -> tuple[tuple[SetMetrics, ...], list[str]]:
        assert self.extractor is not None
        assert self.features is not None
        return measure_arms(plan, (self.features, labels), self.extractor)


def _build_judges(real: SceneSet, name: str | None, teaching: bool, cache: Path | None, stage: Stage) -> _Judges:
    """The extractor called `name`, if any, and for soft labels and patches `own`, which knows the classes."""
    folder = None if cache is None else cache / "extractors"

    def build(wanted: str) -> Extractor:
        return build_extractor(wanted, real, cache=folder, progress=stage(f"training the extractor {wanted}"))

    extractor = None if name is None else build(name)
    features = None if extractor is None else extractor.features(real.images)
    teacher = None if not teaching else extractor if name == "own" else build("own")
    return _Judges(extractor, features, teacher)


def _seen(
    real: SceneSet, baselines: Sequence[str], judges: _Judges, cache: Path | None, stage: Stage
) -> dict[Sight, Seen]:
    """What the baselines see of the real images, patches apart."""
    found: dict[Sight, Seen] = {"nothing": Seen(real)}
    if judges.features is not None:
        found["features"] = Seen(real, judges.features)
    if any(METHODS[name].sees == "scores" for name in baselines):
        folder = None if cache is None else cache / "extractors"
        found["scores"] = Seen(real, training_scores(real, folder, stage("scoring the real images")))
    return found


def _segmented(segmenter: str | None) -> list[str]:
    return [] if segmenter is None else [f"foreground: objects found by {describe_segmenter(segmenter)}"]
