"""Foreground: the images, cut to the patch with their object if that helps, that a teacher classifies most surely."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dpd_neighbours.foreground.cropping import described, find_foreground, whole_images
from dpd_neighbours.foreground.decisions import Decisions, decide
from dpd_neighbours.foreground.models import Models
from dpd_neighbours.foreground.sheet import decisions_sheet
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_train.samples import Stage
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import Scenes

if TYPE_CHECKING:
    from dpd_eval.extractors import Extractor


@dataclass(frozen=True)
class Patches:
    """scenes: real images, cut if `decisions` say so. whole: the uncut images [n, S, S, 3]. models: found objects."""

    scenes: SceneSet
    whole: Images
    decisions: Decisions
    models: Models | None

    @property
    def sure(self) -> Float32:
        """The teacher's probability of each image's class, [n, 1]: what the method sees."""
        return self.decisions.sure[:, None]

    def about(self, rows: Int64) -> dict[str, Any]:
        """What found the objects, and how many of these rows were cut."""
        return {"segmenter": described(self.models), "cut": int(np.isin(rows, self.decisions.cut).sum())}

    def picture(self, rows: Int64) -> Images:
        """Draw the `decisions_sheet` of these rows, uint8 [H, W, 3]."""
        return decisions_sheet(self.scenes.classes, self.scenes.labels, self.whole, self.decisions, rows)


def foreground_patches(
    data: Scenes,
    real: SceneSet,
    teacher: "Extractor",
    models: Models | None = None,
    stage: Stage = lambda title: lambda done, total: None,
) -> Patches:
    """Read the training images of `data` at full size and cut out their foreground.

    Args:
        real: the same images at the students' size.
        teacher: an extractor that knows the classes of `real` in their order: `own`, trained on it.
        models: as in `find_foreground`; they run on CUDA if available.

    Raises:
        InputError: images that are not larger than the students' images, or models that cannot be used.
    """
    from dpd_train.compute import use_device  # loads PyTorch

    way_out = "give a smaller --resolution, or another method"
    whole = whole_images(data, real, "method foreground", way_out)
    device = "cpu" if models is None else use_device("auto")
    masks = find_foreground(models, whole, real, stage, device)

    def sure(images: Images, labels: Int64) -> Float32:
        probabilities = teacher.probabilities(images)
        assert probabilities is not None
        own: Float32 = probabilities[np.arange(len(labels)), labels]
        return own

    decisions = decide(whole, real.images, real.labels, masks, sure)
    return Patches(replace(real, images=decisions.images), whole, decisions, models)
