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
    Lesson,
    build_student,
    fits_itself,
    fitted,
    labelled_lesson,
    predict,
    taught_lesson,
    train_on,
)
from dpd_eval.teaching import TEMPERATURE, Teacher, open_teacher, read_unlabelled
from dpd_runtime.annotations import Array, Float32, Images, Int64, Progress
from dpd_runtime.bundle import Bundle
from dpd_runtime.errors import DataError
from dpd_train.compute import use_device
from dpd_train.config import HUB
from dpd_train.reading import HeldOut, choose_groups, joined
from dpd_train.scene_set import SceneSet, fingerprint
from dpd_train.scenes import Scenes, opened
from dpd_train.symmetry import near_groups

CHECK_SHARE, CHECK_STEPS = 5, 4
"""Without own images a fifth of the set's images is held out of a second training, with a quarter of the steps."""


@dataclass(frozen=True)
class Fitted:
    """A trained network in evaluation mode, and what its record says.

    Args:
        examples: two of its training images, uint8 [2, side, side, 3].
        validation: `images`, `oa`, `aa` and the 95 % interval `low`, `high` (Wilson 1927) of oa, on own images that
            were held out; empty without any.
        training: what it was trained on, and how. `set_check`, without own images: the figures of `check_on_set`.
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
        images, labels: uint8 [n, side, side, 3] and int64 [n], learned as they are; none where a teacher answers all.
        asked, teacher: further images [m, side, side, 3], of which every view is learned as the teacher answers it.
        classes: how many.
    """

    images: Images
    labels: Int64
    asked: Images
    teacher: Teacher | None
    classes: int

    def __len__(self) -> int:
        return len(self.images) + len(self.asked)

    def lessons(self, recipe: Recipe) -> list[Lesson]:
        """Labels and answers have half of each batch each, where there are both."""
        known = [labelled_lesson(self.images, self.labels, recipe.label_smoothing)] if len(self.images) else []
        taught = [] if self.teacher is None else [taught_lesson(self.asked, self.teacher.answers, TEMPERATURE)]
        return [*known, *taught]

    def at_once(self) -> tuple[Images, Int64, Float32 | None]:
        """All images as they are and their labels; and probabilities, where a teacher answers some."""
        if self.teacher is None:
            return self.images, self.labels, None
        soft = np.concatenate([np.eye(self.classes)[self.labels], self.teacher.probabilities(self.asked)])
        return np.concatenate([self.images, self.asked]), soft.argmax(1), soft.astype(np.float32)


def material_of(made: SceneSet, own: SceneSet | None, teacher: Teacher | None, unlabelled: SceneSet | None) -> Material:
    """The set's and own images by their labels; a teacher answers for the set's, and for unlabelled ones."""
    known = [own] if teacher else [made, own]
    asked = [made, unlabelled] if teacher else []
    nothing = made.only(np.zeros(0, np.int64))
    of_labels, of_teacher = ([nothing, *(part for part in parts if part is not None)] for parts in (known, asked))
    return Material(
        images=np.concatenate([part.images for part in of_labels]),
        labels=np.concatenate([part.labels for part in of_labels]),
        asked=np.concatenate([part.images for part in of_teacher]),
        teacher=teacher,
        classes=len(made.classes),
    )


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
    answering = None
    if teacher is not None:
        answering = open_teacher(teacher, tuple(made_of.scenes.counts("all")), torch.get_num_threads())
    made = made_of.scenes.part("all", config.resolution)
    side, parts, held = int(made.images.shape[1]), {"set": made}, None
    if unlabelled is not None:
        parts["unlabelled"] = read_unlabelled(unlabelled, side)
    if mine_of is not None:
        parts["own"] = mine_of.part("train", side)
        if config.val_per_class != 0:
            held = mine_of.part("val", side)
            if shared := len(set(held.hashes) & set(made.hashes)):
                raise DataError(
                    f"--own {mine_of.root}: {shared} of the images that are held out are also in {made_of.root}, so "
                    "they would measure nothing; leave them out of one"
                )
    material = material_of(made, parts.get("own"), answering, parts.get("unlabelled"))
    recipe = recipe.for_training(len(material))
    steps = recipe.steps
    more = steps // CHECK_STEPS if own is None else 0  # of the second training
    network = _train(config, material, recipe, lambda n, _: progress(n, steps + more), place)
    checked: dict[str, float] = {}
    if own is None and (rows := held_out_of_set(made, made_of.prototypes)) is not None:
        rest = material_of(made.only(np.flatnonzero(~rows)), None, answering, parts.get("unlabelled"))
        checked = check_on_set(
            rest, made.only(np.flatnonzero(rows)), config, recipe, lambda n, _: progress(steps + n, steps + more), place
        )
    training: dict[str, Any] = {name: fingerprint(part) for name, part in parts.items()}
    training |= {} if answering is None else {"teacher": answering.described}
    followed = recipe.to_dict() | ({"steps": 0} if config.steps == 0 else {})
    training |= {"recipe": followed, "seed": config.seed} | ({"set_check": checked} if checked else {})
    validation = {} if held is None else _measure(network, held)
    return Fitted(network.eval(), made.classes, made.images[:2], validation, training)


def check_on_set(
    rest: Material,
    held: SceneSet,
    config: FitConfig,
    recipe: Recipe,
    progress: Progress,
    device: torch.device,
) -> dict[str, float]:
    """Accuracy on a fifth of the set's images, which `held_out_of_set` chose, of a second training on the others.

    The classifier itself has seen all of them, so its own accuracy there would say nothing. The second training takes a
    quarter of the steps: it is cheap, and what it reaches is rather too little than too much.

    Returns:
        figures as of `Fitted.validation`, and `steps`; empty if steps are too few.
    """
    steps = recipe.steps // CHECK_STEPS
    if steps < 1:
        return {}
    short = replace(recipe, steps=steps, warmup=min(recipe.warmup, steps - 1))
    network = _train(config, rest, short, progress, device)
    return _measure(network.eval(), held) | {"steps": steps}


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
    if config.backbone is None:
        model = build_student(config.network, material.classes, config.seed)
    else:
        model = open_backbone(config.network.removeprefix(HUB), material.classes)
        if config.steps == 0:
            model.fit_last_layer(*material.at_once())
            return model
        model = model.reduced()
    if fits_itself(model) and fitted(model, *material.at_once()):
        return model.eval()
    return train_on(model, material.lessons(recipe), recipe, config.seed, progress, device=device)


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
