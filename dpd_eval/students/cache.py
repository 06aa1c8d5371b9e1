"""Finished trainings on disk: one small JSON file each, so that an interrupted or widened evaluation goes on."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dpd_eval.students.recipe import Recipe
from dpd_runtime.errors import DiskError
from dpd_runtime.files import cache_folder

FORMAT = 1  # raise it whenever dpd_eval.students.training or a student changes what a training gives


@dataclass(frozen=True)
class Outcome:
    """Confusion matrix [true, predicted] of one training on the test images, and the seconds that it took."""

    confusion: NDArray[np.int64]
    seconds: float


def default_folder() -> Path:
    return cache_folder("evaluate")


def images_hash(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """sha256 over shape, pixels [n, H, W, 3] and labels [n], in their order (which decides the batches)."""
    digest = hashlib.sha256(json.dumps(images.shape).encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


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


def store(path: Path, content: bytes) -> None:
    """Keep what a training on real images left; under a name of its own first: two processes may make the same.

    Raises:
        DiskError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # it remembers training images
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError as error:
        raise DiskError(
            f"{path.parent}: what was learnt from the images cannot be stored ({error.strerror}); "
            "set XDG_CACHE_HOME elsewhere"
        ) from None


def load_outcome(folder: Path, key: str) -> Outcome | None:
    """The stored outcome, or None where there is none or the file is damaged (it is then trained again)."""
    try:
        stored = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        confusion = np.array(stored["confusion"], dtype=np.int64)
        if stored["key"] != key or confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
            return None
        return Outcome(confusion, float(stored["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_outcome(folder: Path, key: str, outcome: Outcome) -> None:
    """Write atomically: a reader sees the whole file or none.

    Raises:
        DiskError: the folder cannot be written.
    """
    text = json.dumps({"key": key, "confusion": outcome.confusion.tolist(), "seconds": outcome.seconds})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".partial", delete=False, encoding="utf-8") as file:
            file.write(text)
        Path(file.name).replace(folder / f"{key}.json")
    except OSError as error:
        raise DiskError(
            f"{folder}: a finished training cannot be stored ({error.strerror}); set XDG_CACHE_HOME elsewhere"
        ) from None
