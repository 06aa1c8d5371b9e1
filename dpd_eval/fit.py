"""`fit`: train a classifier on a distilled set and a site's own images, by their labels or a teacher's answers.

The training is that of an evaluation's students, so that an evaluation says what to expect.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest  # type: ignore[import-untyped]
from torch import nn

from dpd_eval.backbones import open_backbone
from dpd_eval.inputs import FitInputs, check_overlap
from dpd_eval.options import FitConfig
from dpd_eval.recipe import Recipe
from dpd_eval.statistics import average_accuracy, confusion_matrix, overall_accuracy
from dpd_eval.students import (
    TEMPERATURE,
    Answers,
    Lesson,
    begun,
    build_student,
    check_taught,
    labelled_lesson,
    predict,
    taught_lesson,
    train_on,
)
from dpd_eval.teaching import Unlabelled, described, open_teacher, read_unlabelled
from dpd_runtime.annotations import Array, Images, Int64, Progress
from dpd_runtime.errors import DataError
from dpd_train.compute import use_device
from dpd_train.config import HUB
from dpd_train.reading import HeldOut, choose_groups, joined
from dpd_train.scene_set import SceneSet, fingerprint, look_over
from dpd_train.symmetry import near_groups

log = logging.getLogger(__name__)
CHECK_SHARE, CHECK_STEPS = 5, 4
"""Without own images a fifth of the set's images is held out of a second training, with a quarter of the steps: the
classifier itself has seen all of them. It is cheap, and what it reaches is rather too little than too much."""


@dataclass(frozen=True)
class Fitted:
    """A trained network in evaluation mode, and what its record says.

    Args:
        examples: two of its training images, uint8 [2, side, side, 3].
        validation: `images`, `oa`, `aa` and the 95 % interval `low`, `high` (Wilson 1927) of oa, on own images that
            were held out; empty without any.
        training: what it was trained on, and how. `set_check`, without own images: such figures on a fifth of the set,
            and the `steps` of the second training, on the others.
    """

    network: nn.Module
    classes: tuple[str, ...]
    examples: Images
    validation: dict[str, float]
    training: dict[str, Any]

    @property
    def side(self) -> int:
        return int(self.examples.shape[1])


@dataclass(frozen=True)
class Material:
    """What a network is trained on.

    Args:
        parts, labels: uint8 [n, side, side, 3] each, and int64 of all, with which a last layer begins.
        lessons: what is learned then. taught: whether a teacher answers in one of them.
        classes: how many.
    """

    parts: tuple[Images, ...]
    labels: Int64
    lessons: tuple[Lesson, ...]
    taught: bool
    classes: int

    def __len__(self) -> int:
        return sum(map(len, self.lessons))


def material_of(
    made: SceneSet, own: SceneSet | None, recipe: Recipe, answers: Answers | None, unlabelled: Unlabelled | None
) -> Material:
    """The set and own images by their labels. Where a teacher answers, it does so for the set, in the place of its
    labels, and for unlabelled images; own images keep their labels, and have half of each batch.
    """
    labelled = [part for part in (made, own) if part is not None]
    parts = tuple(part.images for part in labelled)
    labels = np.concatenate([part.labels for part in labelled])
    if answers is None:
        lessons = [labelled_lesson(parts, labels, recipe.label_smoothing)]
    else:
        asked = (made.images,) if unlabelled is None else (made.images, unlabelled.images)
        lessons = [taught_lesson(asked, answers, TEMPERATURE)]
        lessons += [] if own is None else [labelled_lesson((own.images,), own.labels, recipe.label_smoothing)]
    return Material(parts, labels, tuple(lessons), answers is not None, len(made.classes))


def fit(inputs: FitInputs, *, device: str = "cpu", progress: Progress = lambda done, total: None) -> Fitted:
    """Train a classifier.

    Raises:
        InputError: a network that cannot be used, or a student that would pass the teacher over.
        DataError: unreadable images, or images that are held out and in the set too.
        BundleError: the teacher cannot be run.
    """
    config, recipe, made_of, mine_of = inputs.config, inputs.recipe, inputs.distilled, inputs.own
    place = use_device(device)
    made = made_of.scenes.part("all", config.resolution)
    side, parts, held = int(made.images.shape[1]), {"set": made}, None
    if mine_of is not None:
        parts["own"] = mine_of.part("train", side)
        if config.val_per_class != 0:
            held = mine_of.part("val", side)
            check_overlap(
                held,
                parts["own"],
                f"the images of --own {mine_of.root} that are held out",
                "the others",
                "put others into val/, or let --val-per-class hold some out",
            )
            if shared := len(set(held.hashes) & set(made.hashes_as(held.rendering))):
                raise DataError(
                    f"--own {mine_of.root}: {shared} of the images that are held out are also in {made_of.root}, so "
                    "they would measure nothing; leave them out of one"
                )
    _tell(parts, held)
    training: dict[str, Any] = {name: fingerprint(part) for name, part in parts.items()}
    answers, others = None, None
    if inputs.teacher is not None:
        answers = open_teacher(inputs.teacher, made.classes, torch.get_num_threads())
        training["teacher"] = described(inputs.teacher)
    if inputs.unlabelled is not None:
        rendering = None if mine_of is None else parts["own"].rendering
        known = {digest for part in (*parts.values(), held) if part is not None for digest in part.hashes_as(rendering)}
        others = read_unlabelled(inputs.unlabelled, inputs.files, side, rendering, known)
        training["unlabelled"] = others.record()
    material = material_of(made, parts.get("own"), recipe, answers, others)
    recipe = recipe.for_training(len(material))
    rows = held_out_of_set(made, made_of.prototypes) if mine_of is None else None
    more = 0 if rows is None else max(1, recipe.steps // CHECK_STEPS)  # of the second training
    total = recipe.steps + more
    network = _train(config, material, recipe, lambda n, _: progress(n, total), place)
    checked: dict[str, float] = {}
    if rows is not None:
        rest = material_of(made.only(np.flatnonzero(~rows)), None, recipe, answers, others)
        short = replace(recipe, steps=more, warmup=min(recipe.warmup, more - 1))
        second = _train(config, rest, short, lambda n, _: progress(recipe.steps + n, total), place)
        checked = _measure(second, made.only(np.flatnonzero(rows))) | {"steps": 0 if config.steps == 0 else more}
    followed = recipe.to_dict() | ({"steps": 0} if config.steps == 0 else {})
    training |= {"recipe": followed, "seed": config.seed} | ({"set_check": checked} if checked else {})
    validation = {} if held is None else _measure(network, held)
    return Fitted(network, made.classes, made.images[:2], validation, training)


def _tell(parts: Mapping[str, SceneSet], held: SceneSet | None) -> None:
    """Warn of files that are left out, of copies and of the like, as a training does."""
    of_own = {"--own": parts.get("own"), "the held-out part of --own": held}
    for beside in ({"the set": parts["set"]}, {name: part for name, part in of_own.items() if part is not None}):
        for line in look_over(beside).messages():
            log.warning(line)


def held_out_of_set(made: SceneSet, prototypes: Mapping[str, int]) -> Array | None:
    """Which images are held out: a fifth of the smallest class from each, at least one, whole groups at a time.

    Images that show one scene stay on one side: near duplicates, and those that were made from one prototype.

    Args:
        prototypes: of images by path; those of one class and prototype are one group, and near duplicates are, too.

    Returns:
        [n] bool; None if fewer than two images of a class would be left to train on.
    """
    near = dict(enumerate(near_groups(made.images, made.hashes).tolist()))
    origin = {row: (made.labels[row], prototypes[path]) for row, path in enumerate(made.paths) if path in prototypes}
    classes = {
        name: {row: made.hashes[row] for row in np.flatnonzero(made.labels == label).tolist()}
        for label, name in enumerate(made.classes)
    }
    wanted = max(1, min(map(len, classes.values())) // CHECK_SHARE)
    try:
        rows = choose_groups(classes, joined(near, origin), HeldOut(val_per_class=wanted))
    except DataError:  # too few images, or one group holds a whole class
        return None
    held = np.isin(np.arange(len(made.hashes)), list(rows))
    left = np.bincount(made.labels[~held], minlength=len(made.classes))
    return held if left.min() >= 2 else None


def new_network(config: FitConfig, classes: int) -> nn.Module:
    """The config's student, or its backbone with a new last layer, before the training.

    Raises:
        InputError: it cannot be built or opened.
    """
    if config.backbone is None:
        return build_student(config.network, classes, config.seed)
    backbone = open_backbone(config.network.removeprefix(HUB), classes)
    return backbone if config.steps == 0 else backbone.reduced()


def _train(
    config: FitConfig, material: Material, recipe: Recipe, progress: Progress, device: torch.device
) -> nn.Module:
    model = new_network(config, material.classes)
    if config.backbone is None and material.taught:
        check_taught(config.network, model)
    done = begun(model, lambda: (np.concatenate(material.parts), material.labels, None))
    if done or config.steps == 0:
        return model.eval()
    return train_on(model, material.lessons, recipe, config.seed, progress, device=device)


def _measure(network: nn.Module, held: SceneSet) -> dict[str, float]:
    predicted = predict(network, held.images, "fp32")
    confusion = confusion_matrix(held.labels, predicted, len(held.classes))
    hits, count = int(np.trace(confusion)), len(held.labels)
    ends = binomtest(hits, count).proportion_ci(0.95, "wilson")
    return {
        "images": count,
        "oa": round(overall_accuracy(confusion), 4),
        "aa": round(average_accuracy(confusion), 4),
        "low": round(float(ends.low), 4),
        "high": round(float(ends.high), 4),
    }
