"""`fit`: train a classifier on a distilled set and a site's own images, by their labels or a teacher's answers.

The training is that of an evaluation's students, so that an evaluation says what to expect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest  # type: ignore[import-untyped]
from torch import nn

from dpd_eval.backbones import open_backbone
from dpd_eval.inputs import check_fit
from dpd_eval.options import FitConfig
from dpd_eval.recipe import Recipe
from dpd_eval.sets import Set, open_set
from dpd_eval.statistics import average_accuracy, confusion_matrix, overall_accuracy
from dpd_eval.students import (
    Answers,
    Lesson,
    begun,
    build_student,
    labelled_lesson,
    predict,
    taught_lesson,
    train_on,
)
from dpd_eval.teaching import TEMPERATURE, Unlabelled, described, open_teacher, read_unlabelled
from dpd_runtime.annotations import Array, Images, Int64, Progress
from dpd_runtime.bundle import Bundle
from dpd_runtime.classifier import images_below
from dpd_runtime.errors import DataError, InputError
from dpd_train.compute import use_device
from dpd_train.config import HUB
from dpd_train.reading import HeldOut, choose_groups, joined
from dpd_train.scene_set import SceneSet, fingerprint
from dpd_train.scenes import Scenes, opened
from dpd_train.symmetry import near_groups

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
        images, labels: uint8 [n, side, side, 3] and int64 [n], with which a last layer begins.
        lessons: what is learned then. taught: whether a teacher answers in one of them.
        classes: how many.
    """

    images: Images
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
    images = np.concatenate([part.images for part in labelled])
    labels = np.concatenate([part.labels for part in labelled])
    if answers is None:
        lessons = [labelled_lesson(images, labels, recipe.label_smoothing)]
    else:
        asked = (made.images,) if unlabelled is None else (made.images, unlabelled.images)
        lessons = [taught_lesson(asked, answers, TEMPERATURE)]
        lessons += [] if own is None else [labelled_lesson(own.images, own.labels, recipe.label_smoothing)]
    return Material(images, labels, tuple(lessons), answers is not None, len(made.classes))


def fit(
    distilled: Path | Scenes | Set,
    config: FitConfig | None = None,
    *,
    own: Path | Scenes | None = None,
    teacher: Bundle | None = None,
    unlabelled: Path | None = None,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> Fitted:
    """Train a classifier on a distilled set, or on any folder of labelled images.

    Args:
        own: the site's own labelled images of the same classes. A part of them is held out and measures the accuracy;
            the rest is trained on together with the set.
        teacher: a bundle whose classifier answers every view of the set's images, in the place of their labels. Own
            images keep their labels, and have half of each batch then.
        unlabelled: folder of the site's images without labels, which the teacher answers too.
        device: cpu, cuda or auto, which takes CUDA if it works.

    Raises:
        InputError: an unknown student or recipe, a backbone that cannot be used, options for own images without any,
            unlabelled images without a teacher, or a teacher that `open_teacher` refuses.
        DataError: unreadable images, one class, classes that differ, or a set of several sizes without `resolution`.
    """
    config = config or FitConfig()
    made_of, mine_of = open_set(distilled), None if own is None else opened(own, config)
    config = config if mine_of is None else mine_of.settle(config)
    recipe, place = check_fit(made_of, config, mine_of, teacher, unlabelled), use_device(device)
    made = made_of.scenes.part("all", config.resolution)
    side, parts, held = int(made.images.shape[1]), {"set": made}, None
    if mine_of is not None:
        parts["own"] = mine_of.part("train", side)
        if config.val_per_class != 0:
            held = mine_of.part("val", side)
            if shared := len(set(held.hashes) & set(made.hashes)):
                raise DataError(
                    f"--own {mine_of.root}: {shared} of the images that are held out are also in {made_of.root}, so "
                    "they would measure nothing; leave them out of one"
                )
    training: dict[str, Any] = {name: fingerprint(part) for name, part in parts.items()}
    answers, others = None, None
    if teacher is not None:
        answers = open_teacher(teacher, made.classes, torch.get_num_threads())
        training["teacher"] = described(teacher)
    if unlabelled is not None:
        known = {digest for part in (*parts.values(), held) if part is not None for digest in part.hashes}
        rendering = None if mine_of is None else parts["own"].rendering
        others = read_unlabelled(unlabelled, images_below(unlabelled), side, rendering, known)
        training["unlabelled"] = others.record()
    material = material_of(made, parts.get("own"), recipe, answers, others)
    recipe = recipe.for_training(len(material))
    more = recipe.steps // CHECK_STEPS if own is None else 0  # of the second training
    total = recipe.steps + more
    network = _train(config, material, recipe, lambda n, _: progress(n, total), place)
    checked: dict[str, float] = {}
    if own is None and more and (rows := held_out_of_set(made, made_of.prototypes)) is not None:
        rest = material_of(made.only(np.flatnonzero(~rows)), None, recipe, answers, others)
        short = replace(recipe, steps=more, warmup=min(recipe.warmup, more - 1))
        second = _train(config, rest, short, lambda n, _: progress(recipe.steps + n, total), place)
        checked = _measure(second, made.only(np.flatnonzero(rows))) | {"steps": more}
    followed = recipe.to_dict() | ({"steps": 0} if config.steps == 0 else {})
    training |= {"recipe": followed, "seed": config.seed} | ({"set_check": checked} if checked else {})
    validation = {} if held is None else _measure(network, held)
    return Fitted(network, made.classes, made.images[:2], validation, training)


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
    return np.isin(np.arange(len(made.hashes)), list(rows))


def _train(
    config: FitConfig, material: Material, recipe: Recipe, progress: Progress, device: torch.device
) -> nn.Module:
    def labelled() -> tuple[Images, Int64, None]:
        return material.images, material.labels, None

    if config.backbone is None:
        model = build_student(config.network, material.classes, config.seed)
    else:
        model = open_backbone(config.network.removeprefix(HUB), material.classes)
        if config.steps == 0:
            model.fit_last_layer(material.images, material.labels)
            return model.eval()
        model = model.reduced()
    if material.taught and hasattr(model, "fit"):
        raise InputError(
            f"--student {config.network}: it fits itself and asks no teacher; give another, or leave out --teacher"
        )
    if begun(model, labelled):
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
