"""Finished trainings on disk: one small JSON file each, so that an interrupted or widened evaluation goes on."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dpd_eval.extractors.cache import store
from dpd_eval.students.recipe import Recipe
from dpd_runtime.files import cache_folder

FORMAT = 1  # raise it whenever dpd_eval.students.training or a student changes what a training gives


@dataclass(frozen=True)
class TrainingResult:
    """Confusion matrix [true, predicted] of one training on the test images, and the seconds that it took."""

    confusion: NDArray[np.int64]
    seconds: float


def default_folder() -> Path:
    return cache_folder("evaluate")


def soft_labels_hash(soft: NDArray[np.float32]) -> str:
    """sha256 over shape and values of soft labels [n, C]."""
    return hashlib.sha256(json.dumps(soft.shape).encode() + soft.astype("<f4").tobytes()).hexdigest()


def training_key(
    train_hash: str,
    test_hash: str,
    num_classes: int,
    student: str,
    recipe: Recipe,
    seed: int,
    soft_hash: str | None = None,
) -> str:
    """sha256 of everything that decides a training's outcome on one type of machine.

    Args:
        student: `dpd_eval.students.student_identity` of it.
        recipe: with its number of steps settled (`Recipe.for_training`).
        soft_hash: of the soft labels; None for hard ones.
    """
    parts = [FORMAT, train_hash, test_hash, num_classes, student, recipe.key_dict(), seed, str(torch.__version__)]
    if soft_hash is not None:
        parts.append(soft_hash)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_result(folder: Path, key: str) -> TrainingResult | None:
    """The stored outcome, or None where there is none or the file is damaged (it is then trained again)."""
    try:
        stored = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        confusion = np.array(stored["confusion"], dtype=np.int64)
        if stored["key"] != key or confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
            return None
        return TrainingResult(confusion, float(stored["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_result(folder: Path, key: str, result: TrainingResult) -> None:
    """Write atomically: a reader sees the whole file or none.

    Raises:
        DiskError: the folder cannot be written.
    """
    text = json.dumps({"key": key, "confusion": result.confusion.tolist(), "seconds": result.seconds})
    store(folder / f"{key}.json", text.encode())
