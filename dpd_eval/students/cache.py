"""Stored results of trainings, one JSON file each, so that an interrupted or larger evaluation can continue."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpd_eval.extractors.cache import store
from dpd_eval.students.recipe import Recipe
from dpd_runtime.annotations import Float32, Int64
from dpd_runtime.files import cache_folder, read_cached

FORMAT = 1  # increase this whenever a change to the training or to a student changes results


@dataclass(frozen=True)
class TrainingResult:
    """Confusion matrix [true, predicted] of one student on the test images, and the seconds it took."""

    confusion: Int64
    seconds: float


def default_folder() -> Path:
    return cache_folder("evaluate")


def soft_labels_hash(soft: Float32) -> str:
    """Return the sha256 over shape and values of soft labels [n, C]."""
    return hashlib.sha256(json.dumps(soft.shape, allow_nan=False).encode() + soft.astype("<f4").tobytes()).hexdigest()


def training_key(
    train_hash: str,
    test_hash: str,
    num_classes: int,
    student: str,
    recipe: Recipe,
    seed: int,
    soft_hash: str | None = None,
) -> str:
    """Return the sha256 of everything that decides a training's result on one type of machine.

    Args:
        student: its `student_identity`.
        recipe: with its final number of steps (`Recipe.for_training`).
        soft_hash: hash of the soft labels; None for hard labels.
    """
    parts = [FORMAT, train_hash, test_hash, num_classes, student, recipe.key_dict(), seed, str(torch.__version__)]
    if soft_hash is not None:
        parts.append(soft_hash)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def load_result(folder: Path, key: str) -> TrainingResult | None:
    """Load a stored result; None if it is missing or damaged (the training is then repeated)."""
    raw = read_cached(folder / f"{key}.json")
    if raw is None:
        return None
    try:
        stored = json.loads(raw)
        confusion = np.array(stored["confusion"], dtype=np.int64)
        if stored["key"] != key or confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
            return None
        return TrainingResult(confusion, float(stored["seconds"]))
    except (ValueError, KeyError, TypeError):
        return None


def save_result(folder: Path, key: str, result: TrainingResult) -> None:
    """Write atomically: a reader sees the whole file or none.

    Raises:
        DiskError: the folder cannot be written.
    """
    text = json.dumps({"key": key, "confusion": result.confusion.tolist(), "seconds": result.seconds}, allow_nan=False)
    store(folder / f"{key}.json", text.encode())
