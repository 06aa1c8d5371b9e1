"""Real images, some of them cut to the patch with their object: what the selection method foreground chooses from."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpd_eval.extractors.extractor import Extractor
from dpd_eval.selection.method import Method, highest_first
from dpd_train.compute.device import use_device
from dpd_train.foreground.cropping import Stage, find_foreground, whole_images
from dpd_train.foreground.foreground import Decisions, decide
from dpd_train.foreground.sheet import decisions_sheet
from dpd_train.images import PLAIN, Reading, SceneSet


@dataclass(frozen=True)
class Patches:
    """scenes: the real ones, cut where `decisions` say so. whole: as they were, [n, S, S, 3]."""

    scenes: SceneSet
    whole: NDArray[np.uint8]
    decisions: Decisions

    @property
    def sure(self) -> NDArray[np.float32]:
        """The teacher's probability of each one's class, [n, 1]: what the method sees."""
        return self.decisions.sure[:, None]

    def picture(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """`decisions_sheet` of these rows."""
        return decisions_sheet(self.scenes.classes, self.scenes.labels, self.whole, self.decisions, rows)


def foreground_patches(
    data: Path,
    real: SceneSet,
    teacher: Extractor,
    val_per_class: int | None = None,
    reading: Reading = PLAIN,
    segmenter: str | None = None,
    stage: Stage = lambda title: lambda done, total: None,
) -> Patches:
    """The training images of `data`, which `real` has at the students' size, cut where they are larger.

    Args:
        teacher: one that knows the classes of `real` in their order: `own`, trained on it.
        segmenter: as in `find_foreground`; on CUDA where it works.

    Raises:
        InputError: images that are not larger than the students'; a segmenter that cannot be used.
    """
    way_out = "give a smaller --resolution, or another method"
    whole = whole_images(data, real, val_per_class, reading, "method foreground", way_out)
    device = "cpu" if segmenter is None else use_device("auto")
    masks = find_foreground(segmenter, whole, real, stage, device)

    def sure(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        found = teacher.probabilities(images)
        assert found is not None
        own: NDArray[np.float32] = found[np.arange(len(labels)), labels]
        return own

    decisions = decide(whole, real.images, real.labels, masks, sure)
    return Patches(replace(real, images=decisions.images), whole, decisions)


FOREGROUND = Method("foreground", sees="patches", uses_seed=False, pick=highest_first)
