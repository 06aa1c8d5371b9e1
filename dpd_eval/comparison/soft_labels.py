"""Soft labels: class probabilities of one teacher for the images of every arm.

With soft labels, a random real subset comes close to most distilled sets (DD-Ranking, arXiv 2505.13300), so all arms
must have the same teacher. Soft labels stored in a set are not used.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dpd_eval.comparison.plan import Training
from dpd_eval.extractors.extractor import Extractor
from dpd_runtime.annotations import Float32, Images, Progress
from dpd_runtime.errors import InputError
from dpd_train.compute.device import one_thread


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
