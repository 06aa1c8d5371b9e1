"""Run the trainings of an evaluation, here or in worker processes, unless their results are in the cache."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpd_eval.comparison.arm_names import FULL_ARM
from dpd_eval.extractors.cache import images_hash
from dpd_eval.students.cache import TrainingResult, load_result, save_result, soft_labels_hash, training_key
from dpd_eval.students.recipe import Recipe
from dpd_eval.students.student import student_identity
from dpd_eval.students.training import in_float32, train_and_test
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_train.images import SceneSet

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

    soft: a teacher's labels [images, C], used instead of the hard ones. cost: of one step relative to the other
    students, used only to estimate the remaining time.
    """

    arm: str
    student: str
    ipc: int
    seed: int
    parts: tuple[Part, ...]
    soft: Float32 | None = None
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
        """Return `recipe` with the number of steps of this training: equal for all arms of an IPC except `full`."""
        full = self.arm == FULL_ARM
        return recipe.for_training(self.images if full else self.ipc * len(self.classes), full)

    def key(self, recipe: Recipe, test_hash: str, identity: str) -> str:
        """Return the key under which the result is stored; `identity` is the student's."""
        return training_key(
            images_hash(*self.data()),
            test_hash,
            len(self.classes),
            identity,
            self.recipe(recipe),
            self.seed,
            None if self.soft is None else soft_labels_hash(self.soft),
        )

    def title(self) -> str:
        return f"{self.arm}, IPC {self.ipc}, {self.student}, pair {self.seed}"


@dataclass(frozen=True)
class _Job:
    """What a worker process needs for one training."""

    student: str
    data: Labelled
    soft: Float32 | None
    classes: int
    recipe: Recipe
    seed: int
    device: str

    def run(self, test: Labelled, tell: Progress = lambda step, steps: None) -> TrainingResult:
        started = time.perf_counter()
        confusion = train_and_test(
            self.student, self.data, test, self.classes, self.recipe, self.seed, tell, self.soft, device=self.device
        )
        return TrainingResult(confusion, time.perf_counter() - started)


def _job(item: Training, recipe: Recipe, device: str) -> _Job:
    return _Job(item.student, item.data(), item.soft, len(item.classes), item.recipe(recipe), item.seed, device)


def run_plan(
    plan: Sequence[Training],
    tested: SceneSet,
    recipe: Recipe,
    jobs: int,
    folder: Path,
    progress: PlanProgress,
    device: str = "cpu",
) -> tuple[list[TrainingResult], list[bool]]:
    """Return the results in the order of `plan`, and which of them came from the cache.

    Args:
        device: cpu or cuda. Results of one are not taken for those of the other.
    """
    test = (tested.images, tested.labels)
    test_hash = images_hash(*test)
    where = "" if device == "cpu" else f" on {device}"
    where += " in float32" if in_float32(recipe, device) else ""
    identities = {name: student_identity(name) + where for name in dict.fromkeys(item.student for item in plan)}
    keys = [item.key(recipe, test_hash, identities[item.student]) for item in plan]
    known = {key: load_result(folder, key) for key in dict.fromkeys(keys)}
    cached = [known[key] is not None for key in keys]
    done = {key: outcome for key, outcome in known.items() if outcome is not None}
    # two arms may need the same training: it is done once
    todo = list({key: item for key, item in zip(keys, plan, strict=True) if key not in done}.items())
    work = {key: item.cost * item.recipe(recipe).steps for key, item in todo}
    finished = 0.0

    def report(item: Training, more: float) -> None:
        """Report progress in trainings of mean cost, because a progress bar assumes parts of equal length."""
        progress(len(todo) * (finished + more) / sum(work.values()), len(todo), item.title())

    def run_here() -> Iterator[tuple[str, Training, TrainingResult]]:
        for key, item in todo:

            def tell(step: int, steps: int, item: Training = item, part: float = work[key]) -> None:
                report(item, part * min(step / steps, 0.999))

            yield key, item, _job(item, recipe, device).run(test, tell)

    def tell_shares(shares: Mapping[str, float]) -> None:
        report(next(item for key, item in todo if key in shares), sum(work[key] * part for key, part in shares.items()))

    here = jobs == 1 or len(todo) <= 1
    for key, item, outcome in run_here() if here else _run_in_workers(todo, test, recipe, jobs, device, tell_shares):
        save_result(folder, key, outcome)
        done[key] = outcome
        finished += work[key]
        report(item, 0)
    return [done[key] for key in keys], cached


def _run_in_workers(
    todo: Sequence[tuple[str, Training]],
    test: Labelled,
    recipe: Recipe,
    jobs: int,
    device: str,
    tell: Callable[[Mapping[str, float]], None],
) -> Iterator[tuple[str, Training, TrainingResult]]:
    """Yield results as they finish. The queue is kept short because each job holds a copy of its images.

    Args:
        tell: called every second with the finished shares of the trainings that run, by key. It may raise an interrupt.
    """
    context = multiprocessing.get_context("spawn")  # a forked process may hang in torch's thread pool
    workers = min(jobs, len(todo))
    shares = context.Array("d", len(todo), lock=False)  # each number has one writer
    others = set(multiprocessing.active_children())  # of the program that called us
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(test, shares)) as pool:
        waiting = enumerate(todo)
        running: dict[Future[TrainingResult], tuple[int, str, Training]] = {}
        try:
            while True:
                for number, (key, item) in waiting:
                    running[pool.submit(_run_in_worker, number, _job(item, recipe, device))] = number, key, item
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


_worker: list[tuple[Labelled, Any]] = []
"""In worker processes: the test images, sent once and not with every training, and the shares that they have done."""


def _start_worker(test: Labelled, shares: Any) -> None:
    _worker[:] = [(test, shares)]


def _run_in_worker(number: int, job: _Job) -> TrainingResult:
    ((test, shares),) = _worker

    def tell(step: int, steps: int) -> None:
        shares[number] = min(step / steps, 0.999)

    return job.run(test, tell)
