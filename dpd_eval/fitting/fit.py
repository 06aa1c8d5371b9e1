"""`fit`: train a classifier on a distilled set, alone or with a site's own labelled images.

The training is that of an evaluation's students, so that an evaluation says what to expect.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]
from torch import nn

from dpd_eval.fitting.checks import check_fit
from dpd_eval.fitting.config import FitConfig
from dpd_eval.statistics import average_accuracy, confusion_matrix, overall_accuracy
from dpd_eval.students.backbone import open_backbone
from dpd_eval.students.training import predict, train_network, train_student
from dpd_runtime.annotations import Images, Progress
from dpd_runtime.errors import DataError
from dpd_train.compute.device import use_device
from dpd_train.images import SceneSet, fingerprint, read_scenes


@dataclass(frozen=True)
class Fitted:
    """A trained network in evaluation mode, and what its record says.

    Args:
        examples: two of its training images, uint8 [2, side, side, 3].
        validation: `images`, `oa`, `aa` and the 95 % interval `low`, `high` (Wilson 1927) of oa, on own images that
            were held out; empty without any.
        training: what it was trained on, and how.
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
    distilled: Path,
    config: FitConfig | None = None,
    *,
    own: Path | None = None,
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
    recipe, place = check_fit(distilled, config, own), use_device(device)
    made = read_scenes(distilled, part="all", resolution=config.resolution)
    side, parts, held = int(made.images.shape[1]), {"set": made}, None
    if own is not None:
        mine = read_scenes(own, part="train", resolution=side, held_out=config, reading=config.reading)
        parts["own"] = mine
        if config.val_per_class != 0:
            reading = mine.rendering or config.reading
            held = read_scenes(own, part="val", resolution=side, held_out=config, reading=reading)
            if shared := len(set(held.hashes) & set(made.hashes)):
                raise DataError(
                    f"--own {own}: {shared} of the images that are held out are also in {distilled}, so they would "
                    "measure nothing; leave them out of one"
                )
    images = np.concatenate([part.images for part in parts.values()])
    labels = np.concatenate([part.labels for part in parts.values()])
    if config.backbone is None:
        network = train_student(
            config.network, images, labels, len(made.classes), recipe, config.seed, progress, device=place
        )
    else:
        backbone = open_backbone(config.backbone, len(made.classes))
        backbone.fit_last_layer(images, labels)
        network = backbone
        if config.steps != 0:
            network = train_network(backbone, images, labels, recipe, config.seed, progress, device=place)
    training: dict[str, Any] = {name: fingerprint(part) for name, part in parts.items()}
    followed = recipe.for_training(len(images)).to_dict() | ({"steps": 0} if config.steps == 0 else {})
    training |= {"recipe": followed, "seed": config.seed}
    return Fitted(network.eval(), made.classes, images[:2], {} if held is None else _measure(network, held), training)


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
