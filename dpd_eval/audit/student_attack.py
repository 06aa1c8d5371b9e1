"""Membership by students: do networks trained on the released images know the training images better than others?

The score of an image is the log-odds of its class (Carlini et al. 2022, §IV.C) by students of the released images minus
those by students of as many images of H1 (calibration by difficulty, Watson et al. 2022). Members are images of T, the
others are H2. No student has seen either, unless the released images repeat T.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dpd_eval.audit.data import SEED, AuditData, Rows
from dpd_eval.audit.membership import Scores, membership_tests
from dpd_eval.audit.outcome import Control, Outcome, not_run
from dpd_eval.students.recipe import Recipe
from dpd_eval.students.training import train_student
from dpd_runtime.annotations import Images, Int64, Progress
from dpd_train.images import to_float

NAME, CONTROL = "students of the generated images", "students of T replayed"
STUDENT, STUDENTS = "convnet", 2
FEWEST = 50  # images in each half of H
CALL = 256
RECIPE = Recipe(
    name="attack",
    steps=600,
    batch=64,
    optimizer="adamw",
    peak_rate=3e-3,
    warmup=50,
    weight_decay=0.05,
    precision="bf16",
)
"""No smoothing, shifts and mixing, which would hide what a set knows; symmetries, as a set may hold an image turned."""


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [n, S, S, 3] with labels [n] in the data's order."""

    images: Images
    labels: Int64

    def drawn(self, counts: Int64) -> "LabelledImages":
        """At most counts[c] random images of each class c."""
        rng = np.random.default_rng(SEED)
        of_class = (np.flatnonzero(self.labels == label) for label in range(len(counts)))
        rows = np.concatenate([rng.permutation(rows)[:n] for rows, n in zip(of_class, counts, strict=True)])
        return LabelledImages(self.images[rows], self.labels[rows])


def student_tests(
    released: LabelledImages, data: AuditData, progress: Progress, *, recipe: Recipe = RECIPE
) -> tuple[list[Outcome], list[Control]]:
    """Attack the released images; as a control attack as many images of T, which must FAIL.

    Returns:
        NOT RUN for both if there is one class only, or a half of H has fewer than FEWEST images.
    """
    classes, train = len(data.classes), LabelledImages(data.train.images, data.train.labels)
    first, second = (_part(data, rows) for rows in (data.first, data.second))
    if reason := _hindrance(classes, len(first.labels)):
        missing = [not_run(f"membership of the {name}", reason) for name in (NAME, CONTROL)]
        return missing[:1], [Control(missing[1], "FAIL")]

    def number(part: LabelledImages) -> Int64:
        return np.bincount(part.labels, minlength=classes)

    each = np.minimum(number(released), number(first))
    both = np.minimum(number(train), number(second))
    members, others, copied = train.drawn(both), second.drawn(both), train.drawn(each)
    groups = []
    for done, part in enumerate((released.drawn(each), first.drawn(each), copied)):
        groups.append([_student(part, classes, recipe, seed) for seed in range(STUDENTS)])
        progress(done + 1, 3)
    of_released, of_held, of_copies = groups

    def attack(name: str, students: Sequence[nn.Module], known: LabelledImages) -> list[Outcome]:
        sides = [log_odds(students, side) - log_odds(of_held, side) for side in (known, others)]
        return membership_tests(name, {"log-odds": Scores(*sides)})

    control = attack(CONTROL, of_copies, copied)
    return attack(NAME, of_released, members), [Control(t, "FAIL") for t in control if t.name.endswith("AUC")]


def _part(data: AuditData, rows: Rows) -> LabelledImages:
    return LabelledImages(data.held.images[rows], data.held.labels[rows])


def _hindrance(classes: int, half: int) -> str:
    if classes < 2:
        return "students need two classes"
    if half < FEWEST:
        return f"students need {FEWEST} images in each half of the hold-out, which has {half}: give more"
    return ""


def _student(part: LabelledImages, classes: int, recipe: Recipe, seed: int) -> nn.Module:
    return train_student(STUDENT, part.images, part.labels, classes, recipe, SEED + seed)


@torch.no_grad()
def log_odds(students: Sequence[nn.Module], part: LabelledImages) -> NDArray[np.float64]:
    """ln(p / (1 − p)) [n] of each image's class, the mean over students.

    It is the class's logit minus the log-sum-exp of the others, which has no rounding near p = 1.
    """
    found = np.zeros(len(part.labels))
    for start in range(0, len(part.labels), CALL):
        pixels = to_float(torch.from_numpy(np.ascontiguousarray(part.images[start : start + CALL])))
        labels = torch.from_numpy(part.labels[start : start + CALL])[:, None]
        for student in students:
            logits = student(pixels.contiguous(memory_format=torch.channels_last)).double()
            rest = logits.scatter(1, labels, -torch.inf).logsumexp(1)
            found[start : start + CALL] += (logits.gather(1, labels)[:, 0] - rest).numpy() / len(students)
    return found
