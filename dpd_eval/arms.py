"""The arms of an evaluation: their plan, their images, their students."""

import io
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from dpd_eval.extractors import Extractor, images_hash
from dpd_eval.inputs import EvaluationInputs, check_labels
from dpd_eval.metrics import FEWEST_IMAGES, SetDetail, SetMetrics, set_detail, set_metrics
from dpd_eval.options import EvaluateConfig
from dpd_eval.pretrained import PROBE
from dpd_eval.recipe import Recipe
from dpd_eval.results import (
    FULL_ARM,
    HELD_OUT,
    LABELS_ARM,
    SET_ARM,
    StudentInfo,
    is_joint,
    is_own,
    joint_arm,
    jpegs_arm,
    own_arm,
    taught_arm,
)
from dpd_eval.selection import Seen, find_method, random_subset, select
from dpd_eval.students import (
    TrainingResult,
    at_inference,
    build_student,
    check_taught,
    count_multiply_adds,
    in_float32,
    load_result,
    recipe_of,
    save_result,
    soft_labels_hash,
    student_identity,
    train_and_test,
    training_key,
)
from dpd_eval.teaching import Teacher, answers_of
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.errors import DataError, DpdError, InputError
from dpd_runtime.formats import Encoding
from dpd_train.compute import hardware, one_thread, use_device
from dpd_train.networks import count_parameters
from dpd_train.scene_set import SceneSet

# -- Run the trainings of an evaluation, here or in worker processes, unless their results are in the cache.


POLL_SECONDS = 1.0
"""How often the progress of trainings in other processes is looked at."""
PlanProgress = Callable[[float, int, str], None]
"""Called with the trainings done (with a fraction), the trainings in all and the one that runs now."""
Labelled = tuple[Images, Int64]
Part = tuple[SceneSet, Int64]
"""Images, and the rows of those that are meant."""


@dataclass(frozen=True)
class Training:
    """One student, trained on the images of `parts`; seed is the number of the pair.

    soft: a teacher's labels [images, C], used instead of the hard ones. taught: whether a bundle's teacher answers
    every view instead. cost: of one image relative to the other students, used only to estimate the remaining time.
    """

    arm: str
    student: str
    ipc: int
    seed: int
    parts: tuple[Part, ...]
    soft: Float32 | None = None
    taught: bool = False
    cost: float = 1.0

    def data(self) -> Labelled:
        parts = [(scenes.images[rows], scenes.labels[rows]) for scenes, rows in self.parts]
        if len(parts) == 1:  # joining would copy the images once more
            return parts[0]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(len(rows) for _, rows in self.parts)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parts[0][0].classes

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the student's recipe with the number of steps of this training: equal for all arms of an IPC except
        `full`.

        Args:
            recipe: of students that have none of their own.
        """
        full = self.arm == FULL_ARM
        return recipe_of(self.student, recipe).for_training(self.images if full else self.ipc * len(self.classes), full)

    def work(self, recipe: Recipe) -> float:
        """What it costs relative to the others: a probe sees each image once, and has no gradient."""
        own = self.recipe(recipe)
        return self.cost * (self.images if self.student.startswith(PROBE) else 3 * own.steps * own.batch)

    def key(self, recipe: Recipe, test_hash: str, identity: str, teacher: str | None = None) -> str:
        """Return the key under which the result is stored; `identity` is the student's, `teacher` the teacher's."""
        return training_key(
            images_hash(*self.data()),
            test_hash,
            len(self.classes),
            identity,
            self.recipe(recipe),
            self.seed,
            teacher if self.taught else None if self.soft is None else soft_labels_hash(self.soft),
        )

    def title(self) -> str:
        return f"{self.arm}, IPC {self.ipc}, {self.student}, pair {self.seed}"


@dataclass(frozen=True)
class _Job:
    """What a worker process needs for one training, but for the test images and the teacher."""

    student: str
    data: Labelled
    soft: Float32 | None
    taught: bool
    classes: int
    recipe: Recipe
    seed: int
    device: str

    def run(self, test: Labelled, teacher: Teacher | None, tell: Progress = lambda step, steps: None) -> TrainingResult:
        started = time.perf_counter()
        answers = answers_of(teacher) if teacher is not None and self.taught else None
        parts = self.student, self.data, test, self.classes, self.recipe, self.seed, tell, self.soft, answers
        return TrainingResult(train_and_test(*parts, device=self.device), time.perf_counter() - started)


def _job(item: Training, recipe: Recipe, device: str) -> _Job:
    classes = len(item.classes)
    return _Job(item.student, item.data(), item.soft, item.taught, classes, item.recipe(recipe), item.seed, device)


def run_plan(
    plan: Sequence[Training],
    tested: SceneSet,
    recipe: Recipe,
    jobs: int,
    folder: Path,
    progress: PlanProgress,
    device: str = "cpu",
    teacher: Teacher | None = None,
) -> tuple[list[TrainingResult], list[bool]]:
    """Return the results in the order of `plan`, and which of them came from the cache.

    Args:
        device: cpu or cuda. Results of one are not taken for those of the other.
        teacher: answers in trainings that are taught.
    """
    test = (tested.images, tested.labels)
    test_hash = images_hash(*test)
    where = "" if device == "cpu" else f" on {hardware(torch.device(device))}"
    identities = {
        name: student_identity(name) + where + (" in float32" if in_float32(recipe_of(name, recipe), device) else "")
        for name in dict.fromkeys(item.student for item in plan)
    }
    teaches = None if teacher is None else teacher.identity
    keys = [item.key(recipe, test_hash, identities[item.student], teaches) for item in plan]
    known = {key: load_result(folder, key) for key in dict.fromkeys(keys)}
    cached = [known[key] is not None for key in keys]
    done = {key: outcome for key, outcome in known.items() if outcome is not None}
    # two arms may need the same training: it is done once
    todo = list({key: item for key, item in zip(keys, plan, strict=True) if key not in done}.items())
    work = {key: item.work(recipe) for key, item in todo}
    finished = 0.0

    def report(item: Training, more: float) -> None:
        """Report progress in trainings of mean cost, because a progress bar assumes parts of equal length."""
        progress(len(todo) * (finished + more) / sum(work.values()), len(todo), item.title())

    def run_here() -> Iterator[tuple[str, Training, TrainingResult]]:
        for key, item in todo:

            def tell(step: int, steps: int, item: Training = item, part: float = work[key]) -> None:
                report(item, part * min(step / steps, 0.999))

            yield key, item, _job(item, recipe, device).run(test, teacher, tell)

    def tell_shares(shares: Mapping[str, float]) -> None:
        report(next(item for key, item in todo if key in shares), sum(work[key] * part for key, part in shares.items()))

    def run_apart() -> Iterator[tuple[str, Training, TrainingResult]]:
        return _run_in_workers(todo, (test, teacher), recipe, jobs, device, tell_shares)

    for key, item, outcome in run_here() if jobs == 1 or len(todo) <= 1 else run_apart():
        save_result(folder, key, outcome)
        done[key] = outcome
        finished += work[key]
        report(item, 0)
    return [done[key] for key in keys], cached


def _run_in_workers(
    todo: Sequence[tuple[str, Training]],
    shared: tuple[Labelled, Teacher | None],
    recipe: Recipe,
    jobs: int,
    device: str,
    tell: Callable[[Mapping[str, float]], None],
) -> Iterator[tuple[str, Training, TrainingResult]]:
    """Yield results as they finish. The queue is kept short because each job holds a copy of its images.

    Args:
        shared: the test images and the teacher, which each process gets once, and not with every training.
        tell: called every second with the finished shares of the trainings that run, by key. It may raise an interrupt.
    """
    context = multiprocessing.get_context("spawn")  # a forked process may hang in torch's thread pool
    workers = min(jobs, len(todo))
    shares = context.Array("d", len(todo), lock=False)  # each number has one writer
    others = set(multiprocessing.active_children())  # of the program that called us
    initial = (shared, shares, device)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=initial) as pool:
        waiting = enumerate(todo)
        running: dict[Future[TrainingResult], tuple[int, str, Training]] = {}
        try:
            while True:
                for number, (key, item) in waiting:
                    job = _job(item, recipe, device)
                    with _without_script():
                        running[pool.submit(_run_in_worker, number, job)] = number, key, item
                    if len(running) > workers:
                        break
                if not running:
                    return
                ready, _ = wait(running, POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in ready:
                    _, key, item = running.pop(future)
                    yield key, item, future.result()
                if not ready:
                    tell({key: shares[number] for number, key, _ in running.values()})
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:  # leaving the pool would wait for them
                worker.terminate()
            raise


_starting = threading.Lock()  # as there is one `__main__` for all threads


@contextmanager
def _without_script() -> Iterator[None]:
    """Start processes that do not run the caller's script again. They know what packages offer as students, and nothing
    that the script has added.

    A script without `if __name__ == "__main__"` would evaluate once more in each of them. Python then ends the process,
    and the one that starts it waits for ever to send what the process was to get.
    """
    with _starting:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


_worker: list[tuple[Labelled, Teacher | None, Any]] = []
"""In worker processes: the test images, the teacher, and the shares of trainings that they have done."""


def _start_worker(shared: tuple[Labelled, Teacher | None], shares: Any, device: str) -> None:
    if device != "cpu":  # its arithmetic is set in each process
        use_device(device)
    _worker[:] = [(*shared, shares)]


def _run_in_worker(number: int, job: _Job) -> TrainingResult:
    ((test, teacher, shares),) = _worker

    def tell(step: int, steps: int) -> None:
        shares[number] = min(step / steps, 0.999)

    return job.run(test, teacher, tell)


# -- Arms of what could travel in place of a bundle: a trained classifier that names a site's own images, and JPEGs.


QUALITY = 90
JPEG = Encoding("jpeg", ".jpg", QUALITY)
Alternatives = dict[str, Callable[[int, int], Part]]
"""Arm → (IPC, seed) → what its students are trained on."""


def alternatives(
    config: EvaluateConfig, real: SceneSet, classifier: Callable[[SceneSet], Extractor]
) -> tuple[Alternatives, list[str]]:
    """The arms that `config` asks for, and notes on what they are.

    Args:
        classifier: trains a network that knows the classes.

    Raises:
        DataError: not one JPEG of each class fits into the megabytes, or a class is too small to be halved.
    """
    arms: Alternatives = {}
    notes = []
    if config.labels:
        arms[LABELS_ARM], note = _named(real, classifier)
        notes.append(note)
    if config.jpegs is not None:
        arms[jpegs_arm(config.jpegs)], note = _jpegs(real, config.jpegs)
        notes.append(note)
    return arms, notes


def _named(real: SceneSet, classifier: Callable[[SceneSet], Extractor]) -> tuple[Callable[[int, int], Part], str]:
    """As many images as the set has, whose classes nobody but a classifier knows.

    It is trained on a random half of each class and names images of the other half, as a site's images are not those
    that it was trained on. So it knows half as much as the classifier of all images.
    """
    counts = dict(zip(real.classes, np.bincount(real.labels).tolist(), strict=True))
    check_labels(counts, 0)
    halves = [np.flatnonzero(real.labels == label) for label in range(len(real.classes))]
    rng = np.random.default_rng(0)
    learned = np.sort(np.concatenate([rng.permutation(rows)[: len(rows) // 2] for rows in halves]))
    others = real.only(np.setdiff1d(np.arange(len(real.labels)), learned))
    network = classifier(real.only(learned))
    shares = network.probabilities(others.images)
    assert shares is not None
    named = replace(others, labels=shares.argmax(axis=1).astype(np.int64))
    right = float((named.labels == others.labels).mean())

    def part(ipc: int, seed: int) -> Part:
        check_labels(counts, ipc)
        rows = np.random.default_rng([seed, 1]).permutation(len(named.labels))[: ipc * len(real.classes)]
        return named, np.sort(rows).astype(np.int64)

    return part, (
        f"{LABELS_ARM}: images of one half of the real ones, named by one classifier of the other half, which is right "
        f"in {100 * right:.1f} %; intervals repeat neither"
    )


def _jpegs(real: SceneSet, megabytes: float) -> tuple[Callable[[int, int], Part], str]:
    """Random real images, as many of each class as fit; each pair draws others."""
    content = [JPEG.encode(pixels) for pixels in real.images]
    mean = float(np.mean([len(one) for one in content]))
    each = min(int(1e6 * megabytes / (mean * len(real.classes))), int(np.bincount(real.labels).min()))
    if each < 1:
        raise DataError(
            f"--jpegs {megabytes:g}: a JPEG of each class takes {mean * len(real.classes) / 1e6:.2g} MB; give more"
        )
    scenes = replace(real, images=_decoded(content))

    @cache
    def part(ipc: int, seed: int) -> Part:
        return scenes, random_subset(real.labels, each, seed, real.classes)

    return part, f"{jpegs_arm(megabytes)}: {each} of each class, {mean / 1e3:.1f} kB each at quality {QUALITY}"


def _decoded(content: list[bytes]) -> Images:
    return np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in content])


# -- Soft labels: class probabilities of one teacher for the images of every arm.
#
# With soft labels, a random real subset comes close to most distilled sets (DD-Ranking, arXiv 2505.13300), so all arms
# must have the same teacher. Soft labels stored in a set are not used.


def soft_labels(teacher: Extractor, images: Images, classes: tuple[str, ...]) -> Float32:
    """Compute probabilities [n, C] in the order of `classes`, averaged over the eight symmetries of the square.

    This uses one thread, because every bit enters the key of the stored training.

    Raises:
        InputError: a teacher that does not know these classes, or returns no probabilities.
    """
    if teacher.classes is None or set(teacher.classes) != set(classes):
        raise InputError(
            f"teacher {teacher.name!r} has no labels for these classes; soft labels need the teacher 'own'"
        )
    with one_thread():
        probabilities = teacher.probabilities(images)
    if (
        probabilities is None
        or probabilities.shape != (len(images), len(classes))
        or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
    ):
        raise InputError(f"teacher {teacher.name!r} gave no probabilities of {len(classes)} classes; use another one")
    columns = [teacher.classes.index(name) for name in classes]
    return np.ascontiguousarray(probabilities[:, columns], dtype=np.float32)


def label_softly(
    plan: Sequence[Training],
    teacher: Extractor,
    classes: tuple[str, ...],
    progress: Progress = lambda done, total: None,
) -> list[Training]:
    """Return `plan` with the teacher's labels for the images of every training. Equal images are labelled once."""
    known: dict[tuple[tuple[int, bytes], ...], Float32] = {}
    labelled = []
    for done, item in enumerate(plan, start=1):
        key = tuple((id(scenes), rows.tobytes()) for scenes, rows in item.parts)
        if key not in known:
            known[key] = soft_labels(teacher, item.data()[0], classes)
        labelled.append(replace(item, soft=known[key]))
        progress(done, len(plan))
    return labelled


# -- The trainings that an evaluation needs, for the set's arm and for every baseline, paired by seed.


def describe_student(name: str, classes: int, side: int, in_channels: int = 3, *, taught: bool = False) -> StudentInfo:
    """Count a student's parameters and its multiply-adds for one image of `side` pixels and so many bands.

    Raises:
        InputError: the student cannot be built, cannot process such images, or, if it is to be taught, asks no teacher.
    """
    built = build_student(name, classes, 0, in_channels)
    if taught:
        check_taught(name, built)
    model = at_inference(built)
    try:
        cost = count_multiply_adds(model, side, side, in_channels)
    except DpdError:
        raise
    except Exception as error:  # a hub model may raise anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"student {name} cannot process images of {side} px ({reason}): give another --resolution"
        ) from None
    return StudentInfo(cost, count_parameters(model))


def plan_trainings(
    inputs: EvaluationInputs,
    students: Mapping[str, StudentInfo],
    baselines: Sequence[str],
    pairs: Mapping[int, int],
    seen: Mapping[str, Seen],
    with_real: Sequence[int] = (),
    others: Alternatives | None = None,
) -> list[Training]:
    """Plan the trainings: pair i uses student seed i, SET i mod m and each baseline with seed i.

    A baseline without randomness has the same images in every pair.

    Args:
        pairs: IPC → number of pairs.
        seen: what each baseline, and `random`, chooses from.
        with_real: as in `EvaluateConfig`. others: further arms.
    """
    plan: list[Training] = []
    methods = {name: find_method(name) for name in baselines}  # once: that of another package is opened anew each time

    @cache
    def subset(name: str, size: int, seed: int) -> Part:
        source = seen[name]
        return source.scenes, select(name, source.scenes, size, seed, source.features)

    for ipc, count in pairs.items():
        for seed in range(count):
            which = seed % len(inputs.sets)
            ours: Part = inputs.sets[which], inputs.prefix(which, ipc)
            arms: dict[str, tuple[Part, ...]] = {SET_ARM: (ours,)}
            for name, method in methods.items():
                arms[method.name] = (subset(name, ipc, seed if method.uses_seed else 0),)
            arms |= {name: (part(ipc, seed),) for name, part in (others or {}).items()}
            for size in with_real:
                own, few = own_arm(size), subset("random", size, seed)
                arms |= {own: (few,), joint_arm(own): (ours, few)}
            for student, info in students.items():
                cost = float(info.multiply_adds)
                plan += [Training(arm, student, ipc, seed, parts, cost=cost) for arm, parts in arms.items()]
    return plan


def taught_too(plan: Sequence[Training], baselines: Sequence[str]) -> list[Training]:
    """The plan, and the trainings of the set and of every baseline but `full` once more, for a teacher's answers."""
    arms = {SET_ARM, *(find_method(name).name for name in baselines)} - {FULL_ARM}
    return [*plan, *(replace(item, arm=taught_arm(item.arm), taught=True) for item in plan if item.arm in arms)]


def measure_arms(
    plan: Sequence[Training], real: tuple[Float32, Int64], extractor: Extractor
) -> tuple[tuple[SetMetrics, ...], list[str]]:
    """Compute set metrics for the first pair's images of the set and of every baseline except `full`, the reference.

    Args:
        real: features [n, D] of the real training images, and labels [n].

    Returns:
        The metrics, and notes on arms that are too small for them.
    """
    measured, notes = [], []
    for item in _first_pairs(plan):
        if item.images < FEWEST_IMAGES:
            notes.append(f"{item.arm}, IPC {item.ipc}: {item.images} images are too few for set metrics")
            continue
        data = item.data()
        if len(np.unique(data[1])) < len(item.classes):
            notes.append(f"{item.arm}, IPC {item.ipc}: a class has no image, so there are no set metrics")
            continue
        measured.append(set_metrics(item.arm, item.ipc, data, real, extractor, item.classes, seed=0))
    return tuple(measured), notes


def measure_detail(plan: Sequence[Training], test: SceneSet) -> tuple[SetDetail, ...]:
    """Measure the detail of the images that students are tested on, and of the same arms' images as `measure_arms`."""
    held_out = set_detail(HELD_OUT, None, (test.images, test.labels), test.classes)
    return held_out, *(set_detail(item.arm, item.ipc, item.data(), item.classes) for item in _first_pairs(plan))


def _first_pairs(plan: Sequence[Training]) -> list[Training]:
    """The first pair's training of the set and of every baseline except `full`, for each IPC."""

    def wanted(arm: str) -> bool:
        return arm != FULL_ARM and not is_own(arm) and not is_joint(arm)

    return list({(item.arm, item.ipc): item for item in plan if item.seed == 0 and wanted(item.arm)}.values())
