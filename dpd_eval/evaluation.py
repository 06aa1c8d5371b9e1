"""`evaluate`: train the same students on a distilled set and on real subsets, and compare them in pairs."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from dpd_eval.arms import (
    PlanProgress,
    Training,
    alternatives,
    describe_student,
    label_softly,
    measure_arms,
    measure_detail,
    plan_trainings,
    run_plan,
    taught_too,
)
from dpd_eval.extractor_choice import build_extractor
from dpd_eval.extractors import Extractor
from dpd_eval.inputs import (
    EvaluationInputs,
    OpenedEvaluation,
    check_sight,
    count_pairs,
    extractor_name,
    open_evaluation,
    read_inputs,
    unused_images,
)
from dpd_eval.metrics import SetDetail, SetMetrics
from dpd_eval.options import EvaluateConfig
from dpd_eval.pretrained import PROBE, TUNE, TUNE_RECIPE, is_pretrained
from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.results import (
    TEACHER,
    ArmResult,
    Difference,
    Evaluation,
    Goal,
    Repeats,
    StudentInfo,
    is_compared,
    taught_arm,
)
from dpd_eval.selection import Look, Seen, find_method
from dpd_eval.sets import Set
from dpd_eval.statistics import (
    average_accuracy,
    class_accuracy,
    cohen_kappa,
    overall_accuracy,
    paired_difference,
    ratio_verdict,
)
from dpd_eval.students import TrainingResult, default_folder, in_float32, recipe_of, student_identity
from dpd_eval.teaching import answers_of, described, teacher_of
from dpd_runtime.annotations import Float32, Int64, Progress
from dpd_runtime.bundle import Bundle
from dpd_runtime.settings import WITHHELD
from dpd_runtime.versions import package_versions
from dpd_train.compute import hardware, use_device
from dpd_train.samples import Stage
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import Scenes

PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "pillow")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def evaluate(
    sets: Sequence[Path | Scenes | Set],
    config: EvaluateConfig | None = None,
    *,
    train: Path | Scenes,
    test: Path | Scenes | Literal["val"],
    teacher: Bundle | None = None,
    recipe: Recipe | None = None,
    cache: Path | None = None,
    device: str = "cpu",
    progress: PlanProgress = lambda done, total, what: None,
    stage: Stage = lambda title: lambda done, total: None,
) -> Evaluation:
    """Train students on the sets and on real subsets of `train`, and test all of them on the same images.

    Pair i uses student seed i, random subset i and SET i mod m. If the sets come from several bundles, pairs are
    averaged within a bundle, and intervals are over bundles. At IPC k a set contributes the first k images of each
    class by file name. All images are brought to one size. Accuracy is measured after the last step.

    Args:
        sets: m ≥ 1 distilled sets (class folders), made with different generation seeds.
        config: the options; None takes the defaults.
        train: labelled real images, read and divided as `config` says, or scenes that were opened so. Baselines come
            from its training part, never from its validation part.
        test: a folder (its test/ if it has one, otherwise all of it), or "val": the validation part of `train`.
        teacher: a bundle whose classifier answers every view in further arms, of the same images and steps: of the
            set, and of every baseline but `full`.
        recipe: used instead of the recipe that `config` names.
        cache: folder for finished trainings and extractors; None takes the user's cache directory.
        device: where students and the extractor `own` are trained: cpu, cuda or auto, which takes CUDA if it works.
        progress: of the student trainings.
        stage: progress of each stage before them.

    Raises:
        InputError: an unknown student, baseline, extractor or recipe, or one that knows RGB only for images of other
            bands; a number out of range; nothing to compare; a set with other bands than `train`; a teacher that
            cannot teach, or whose audit failed it.
        BundleError: the teacher cannot be run.
        DataError: unreadable data, classes that differ, an IPC above a class's image count.
        DiskError: the cache cannot be written.
    """
    opened = open_evaluation(sets, config or EvaluateConfig(), train, test, teacher)
    return compare(opened, recipe=recipe, cache=cache, device=device, progress=progress, stage=stage)


def compare(
    opened: OpenedEvaluation,
    *,
    recipe: Recipe | None = None,
    cache: Path | None = None,
    device: str = "cpu",
    progress: PlanProgress = lambda done, total, what: None,
    stage: Stage = lambda title: lambda done, total: None,
) -> Evaluation:
    """Do what `evaluate` does, for what was opened.

    Raises:
        InputError, DataError, BundleError, DiskError: as `evaluate`, of what only the images and networks show.
    """
    started = time.perf_counter()
    place = use_device(device)
    teacher = None
    if opened.teacher is not None:
        teacher = teacher_of(opened.teacher, tuple(opened.compared.train.counts("train")))
        answers_of(teacher)  # before anything is read
        if opened.config.jobs > 1:  # each process opens its own
            answers_of.cache_clear()
    build = functools.partial(build_extractor, cache=_extractors(cache), device=str(place))
    compared, config = opened.compared, opened.config
    study = _open_study(opened, recipe or opened.recipe, build, stage)
    real, networks = study.inputs.real, study.networks
    seen = _seen(study, compared.train, cache, stage)
    others, said = alternatives(
        config, real, lambda half: build("own", half, progress=stage("training the classifier"))
    )
    plan = plan_trainings(study.inputs, study.students, config.baselines, study.pairs, seen, config.with_real, others)
    metrics, notes = networks.measure(plan, real.labels) if config.metrics else ((), [])
    detail = measure_detail(plan, study.inputs.test) if config.metrics else ()
    if config.soft_labels:
        plan = label_softly(plan, networks.teacher(), real.classes, stage("computing soft labels"))
    if opened.teacher is not None:
        plan = taught_too(plan, config.baselines)
        said += _taught_by(opened.teacher, study)
    folder = cache or default_folder()
    said += [] if place.type == "cpu" else [f"students were trained on {hardware(place)}"]
    if any(in_float32(recipe_of(name, study.recipe), place.type) for name in study.students):
        said.append("students computed in float32, as the processor has no instructions for bfloat16")
    if any(name.startswith(PROBE) for name in study.students):
        said.append(f"students {PROBE}… are fitted; recipe and steps are for the others")
    if any(name.startswith(TUNE) for name in study.students):
        tuned = load_recipe(TUNE_RECIPE)
        said.append(f"students {TUNE}… have a recipe of their own: {tuned.steps} steps of {tuned.batch}, all layers")
    said += [method.note for method in seen.values() if method.note is not None]
    outcomes, cached = run_plan(
        plan, study.inputs.test, study.recipe, config.jobs, folder, progress, str(place), teacher
    )
    arms = summarise(plan, outcomes, cached, study.recipe, real.classes)
    tested = "val" if compared.test is None else str(compared.test.root)
    return study.result(str(compared.train.root), tested, arms, metrics, detail, [*said, *notes], started)


class Build(Protocol):
    """`build_extractor` with its cache and device."""

    def __call__(self, name: str, train: SceneSet, *, progress: Progress) -> Extractor: ...


@dataclass(frozen=True)
class _Networks:
    """Networks used before any student is trained, and the features [n, D] of the real images.

    teacher: builds `own`, once.
    """

    extractor: Extractor | None
    features: Float32 | None
    teacher: Callable[[], Extractor]

    def measure(self, plan: Sequence[Training], labels: Int64) -> tuple[tuple[SetMetrics, ...], list[str]]:
        assert self.extractor is not None
        assert self.features is not None
        return measure_arms(plan, (self.features, labels), self.extractor)


@dataclass(frozen=True)
class _Study:
    """An evaluation before its trainings. pairs: IPC → number of pairs. named: whether the config names the
    recipe. read_by_options: whether it says how the images were read."""

    config: EvaluateConfig
    teacher: Bundle | None
    recipe: Recipe
    inputs: EvaluationInputs
    pairs: dict[int, int]
    repeats: Repeats
    students: dict[str, StudentInfo]
    networks: _Networks
    named: bool
    read_by_options: bool

    def options(self) -> dict[str, Any] | None:
        """The options that repeat the evaluation, but for the number of processes, on which nothing depends. None
        where no options say how the images were read.
        """
        if not self.read_by_options:
            return None
        given = asdict(replace(self.config, ipc=tuple(self.pairs), resolution=self.inputs.side))
        del given["jobs"]
        return given | ({} if self.named else {"recipe": WITHHELD})

    def teacher_words(self) -> str | None:
        if self.teacher is not None:
            return _teacher_words(self.teacher)
        return self.networks.teacher().description if self.config.soft_labels else None

    def result(
        self,
        train: str,
        test: str,
        arms: tuple[ArmResult, ...],
        metrics: tuple[SetMetrics, ...],
        detail: tuple[SetDetail, ...],
        notes: Sequence[str],
        started: float,
    ) -> Evaluation:
        config, inputs, networks = self.config, self.inputs, self.networks
        real = inputs.real
        models = {name: student_identity(name) for name in self.students if is_pretrained(name)}
        models |= {} if self.teacher is None else {TEACHER: self.teacher.hash}
        return Evaluation(
            sets=inputs.names,
            train=train,
            test=test,
            test_part=inputs.test_part,
            classes=real.classes,
            train_images=len(real.labels),
            test_images=len(inputs.test.labels),
            val_per_class=config.val_per_class,
            split=config.split,
            groups=config.groups,
            resolution=inputs.side,
            reading=None if real.rendering is None else real.rendering.record(),
            labels="soft" if config.soft_labels else "hard",
            teacher=self.teacher_words(),
            extractor=networks.extractor.description if networks.extractor else None,
            recipe=self.recipe,
            students=self.students,
            arms=arms,
            repeated=self.repeats.unit,
            differences=differences(arms, self.repeats),
            at_least=config.at_least,
            verdicts=verdicts(arms, self.repeats, config.at_least),
            metrics=metrics,
            detail=detail,
            notes=(
                *inputs.notes(),
                *unused_images(inputs, config),
                *self.repeats.notes(self.pairs),
                *notes,
            ),
            fingerprints=inputs.fingerprints() | models,
            versions=package_versions(*PACKAGES, *(RUNTIMES if self.teacher is not None else ())),
            seconds=time.perf_counter() - started,
            config=self.options(),
        )


def _taught_by(bundle: Bundle, study: _Study) -> list[str]:
    """Notes on the arms of a teacher."""
    known, usual = described(bundle), load_recipe("taught")
    said = [
        f"arms {taught_arm('…')}: the {_teacher_words(bundle)}, {known['signature']}, audit {known['audit']}, answered "
        f"every view in the place of labels, at temperature {known['temperature']:g}. It learned from all images of "
        "its run, test images too where that held out others; what it knows is not in the set"
    ]
    if any(name.startswith(TUNE) for name in study.students):
        said.append(f"students {TUNE}… of a teacher begin with a last layer that labels fitted, as the others do")
    tuned = all(name.startswith(TUNE) for name in study.students)  # by a recipe of their own, in dpd fit too
    if replace(study.recipe, name=usual.name) != usual and not tuned:
        said.append(
            f"dpd fit --teacher --student follows the recipe {usual.name} ({usual.steps} steps), these students another"
        )
    return said


def _teacher_words(bundle: Bundle) -> str:
    return f"classifier of bundle {bundle.manifest.name}, {bundle.hash[:12]}…"


def _open_study(opened: OpenedEvaluation, recipe: Recipe, build: Build, stage: Stage) -> _Study:
    """Read the images and build the networks that label or embed them."""
    compared, config = opened.compared, opened.config
    inputs = read_inputs(compared, config.resolution)
    check_sight(inputs, config, opened.teacher)
    pairs = count_pairs(inputs, config)
    students = {
        name: describe_student(
            name,
            len(inputs.real.classes),
            inputs.side,
            inputs.real.images.shape[-1],
            taught=opened.teacher is not None,
        )
        for name in config.students
    }
    networks = _build_networks(inputs.real, extractor_name(config), build, stage)
    repeats = Repeats(tuple(one.matching for one in compared.sets))
    by_options = compared.train.options is not None
    return _Study(
        config, opened.teacher, recipe, inputs, pairs, repeats, students, networks, recipe == opened.recipe, by_options
    )


def _build_networks(real: SceneSet, name: str | None, build: Build, stage: Stage) -> _Networks:
    """Build the extractor called `name`, if any; the teacher is built when it is asked for."""

    @functools.cache
    def built(wanted: str) -> Extractor:
        return build(wanted, real, progress=stage(f"training the extractor {wanted}"))

    extractor = None if name is None else built(name)
    features = None if extractor is None else extractor.features(real.images)
    return _Networks(extractor, features, lambda: built("own"))


def _extractors(cache: Path | None) -> Path | None:
    return None if cache is None else cache / "extractors"


def _seen(study: _Study, train: Scenes, cache: Path | None, stage: Stage) -> dict[str, Seen]:
    """Compute what the baselines, and random subsets, see of the real images."""
    config, real, networks = study.config, study.inputs.real, study.networks
    look = Look(train, real, networks.teacher, _extractors(cache), stage)
    seen: dict[str, Seen] = {}
    for name in dict.fromkeys(("random", *config.baselines)):
        method = find_method(name)
        if method.look is not None:
            seen[name] = method.look(look)
        else:
            seen[name] = Seen(real, networks.features if method.sees == "features" else None)
    return seen


# -- Summarise training results as accuracies of each arm, paired differences and verdicts (docs/guides/evaluate.md).


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
