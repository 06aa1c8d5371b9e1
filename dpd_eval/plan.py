"""The trainings of an evaluation: run here or in worker processes, each one taken from the cache where it is there."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpd_eval.cache import Outcome, images_hash, load_outcome, save_outcome, training_key
from dpd_eval.recipe import Recipe
from dpd_eval.training import train_and_test
from dpd_train.images import SceneSet

Progress = Callable[[float, int, str], None]  # trainings done (with a fraction), trainings in all, what runs now
Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Training:
    """One cell of the table: which images (rows of `source`), which student, which pair."""

    arm: str
    student: str
    ipc: int
    seed: int
    source: SceneSet
    rows: NDArray[np.int64]

    def data(self) -> Labelled:
        return self.source.images[self.rows], self.source.labels[self.rows]


def run_plan(
    plan: Sequence[Training], judged: SceneSet, recipe: Recipe, jobs: int, folder: Path, progress: Progress
) -> tuple[list[Outcome], list[bool]]:
    """Outcomes in the order of `plan`, and which of them were there already."""
    classes, test = len(judged.classes), (judged.images, judged.labels)
    test_hash = images_hash(*test)
    keys = [
        training_key(images_hash(*item.data()), test_hash, classes, item.student, recipe, item.seed) for item in plan
    ]
    known = [load_outcome(folder, key) for key in keys]
    cached = [outcome is not None for outcome in known]
    # two arms may ask for one and the same training: it is done once
    todo = list({keys[i]: i for i in range(len(plan)) if not cached[i]}.values())
    done: dict[str, Outcome] = {key: outcome for key, outcome in zip(keys, known, strict=True) if outcome is not None}
    finished = 0

    def keep(i: int, outcome: Outcome) -> None:
        nonlocal finished
        save_outcome(folder, keys[i], outcome)
        done[keys[i]] = outcome
        finished += 1
        progress(finished, len(todo), _title(plan[i]))

    if jobs == 1 or len(todo) <= 1:
        for i in todo:
            item = plan[i]

            def tell(step: int, steps: int, what: str = _title(item)) -> None:
                progress(finished + min(step / steps, 0.999), len(todo), what)

            keep(i, _timed(item.student, item.data(), test, classes, recipe, item.seed, tell))
    else:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
        with ProcessPoolExecutor(
            min(jobs, len(todo)), mp_context=context, initializer=_hold_test, initargs=(test,)
        ) as pool:
            futures = {
                pool.submit(_timed_in_worker, plan[i].student, plan[i].data(), classes, recipe, plan[i].seed): i
                for i in todo
            }
            try:
                for future in as_completed(futures):
                    keep(futures[future], future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [done[key] for key in keys], cached


def _title(item: Training) -> str:
    return f"{item.arm}, IPC {item.ipc}, {item.student}, pair {item.seed}"


def _timed(
    student: str,
    data: Labelled,
    test: Labelled,
    classes: int,
    recipe: Recipe,
    seed: int,
    tell: Callable[[int, int], None] = lambda step, steps: None,
) -> Outcome:
    started = time.perf_counter()
    confusion = train_and_test(student, data, test, classes, recipe, seed, tell)
    return Outcome(confusion, time.perf_counter() - started)


_worker_test: list[Labelled] = []  # in a worker process only: sent once, not with every training


def _hold_test(test: Labelled) -> None:
    _worker_test[:] = [test]


def _timed_in_worker(student: str, data: Labelled, classes: int, recipe: Recipe, seed: int) -> Outcome:
    return _timed(student, data, _worker_test[0], classes, recipe, seed)
