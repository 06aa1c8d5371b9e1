"""`fit`: train a classifier on a distilled set, alone or with a site's own labelled images.

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
from dpd_eval.students import predict, train_network, train_student
from dpd_runtime.annotations import Array, Images, Int64, Progress
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


def fit(
    distilled: Path | Scenes | Set,
    config: FitConfig | None = None,
    *,
    own: Path | Scenes | None = None,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> Fitted:
    """Train a classifier on a distilled set, or on any folder of labelled images.

    Args:
        own: the site's own labelled images of the same classes. A part of them is held out and measures the accuracy;
            the rest is trained on together with the set.
        device: cpu, cuda or auto, which takes CUDA if it works.

    Raises:
        InputError: an unknown student or recipe, a backbone that cannot be used, or options for own images without any.
        DataError: unreadable images, one class, classes that differ, or a set of several sizes without `resolution`.
    """
    config = config or FitConfig()
    made_of, mine_of = open_set(distilled), None if own is None else opened(own, config)
    config = config if mine_of is None else mine_of.settle(config)
    recipe, place = check_fit(made_of, config, mine_of), use_device(device)
    made = made_of.scenes.part("all", config.resolution)
    side, parts, held = int(made.images.shape[1]), {"set": made}, None
    if mine_of is not None:
        mine = mine_of.part("train", side)
        parts["own"] = mine
        if config.val_per_class != 0:
            held = mine_of.part("val", side)
            if shared := len(set(held.hashes) & set(made.hashes)):
                raise DataError(
                    f"--own {mine_of.root}: {shared} of the images that are held out are also in {made_of.root}, so "
                    "they would measure nothing; leave them out of one"
                )
    images = np.concatenate([part.images for part in parts.values()])
    labels = np.concatenate([part.labels for part in parts.values()])
    steps = recipe.for_training(len(images)).steps
    more = steps // CHECK_STEPS if own is None else 0  # of the second training
    count = len(made.classes)
    network = _train(config, images, labels, count, recipe, lambda n, _: progress(n, steps + more), place)
    checked: dict[str, float] = {}
    if own is None:
        checked = check_on_set(
            made, made_of.prototypes, config, recipe, lambda n, _: progress(steps + n, steps + more), place
        )
    training: dict[str, Any] = {name: fingerprint(part) for name, part in parts.items()}
    followed = recipe.for_training(len(images)).to_dict() | ({"steps": 0} if config.steps == 0 else {})
    training |= {"recipe": followed, "seed": config.seed} | ({"set_check": checked} if checked else {})
    validation = {} if held is None else _measure(network, held)
    return Fitted(network.eval(), made.classes, images[:2], validation, training)


def check_on_set(
    made: SceneSet,
    prototypes: Mapping[str, int],
    config: FitConfig,
    recipe: Recipe,
    progress: Progress,
    device: torch.device,
) -> dict[str, float]:
    """Accuracy on a fifth of the set's images, of a second training on the others.

    The classifier itself has seen all of them, so its own accuracy there would say nothing. The second training takes a
    quarter of the steps: it is cheap, and what it reaches is rather too little than too much. Images that show one
    scene stay on one side: near duplicates, and those that were made from one prototype.

    Returns:
        figures as of `Fitted.validation`, and `steps`; empty if a class has too few images or steps are too few.
    """
    held = held_out_of_set(made, prototypes)
    steps = recipe.for_training(len(made.images)).steps // CHECK_STEPS
    if held is None or steps < 1:
        return {}
    short = replace(recipe, steps=steps, epochs=0, warmup=min(recipe.warmup, steps - 1))
    rest = np.flatnonzero(~held)
    network = _train(config, made.images[rest], made.labels[rest], len(made.classes), short, progress, device)
    return _measure(network.eval(), made.only(np.flatnonzero(held))) | {"steps": steps}


def held_out_of_set(made: SceneSet, prototypes: Mapping[str, int]) -> Array | None:
    """Which images are held out: a fifth of the smallest class from each, at least one, whole groups at a time.

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
    config: FitConfig,
    images: Images,
    labels: Int64,
    classes: int,
    recipe: Recipe,
    progress: Progress,
    device: torch.device,
) -> nn.Module:
    if config.backbone is None:
        return train_student(config.network, images, labels, classes, recipe, config.seed, progress, device=device)
    backbone = open_backbone(config.network.removeprefix(HUB), classes)
    if config.steps == 0:
        backbone.fit_last_layer(images, labels)
        return backbone
    backbone.reduced().fit_last_layer(images, labels)
    return train_network(backbone, images, labels, recipe, config.seed, progress, device=device)


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
