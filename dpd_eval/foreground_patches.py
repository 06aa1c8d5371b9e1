"""Real images, some of them cut to the patch with their object: what the selection method foreground chooses from."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dpd_eval.features import Extractor
from dpd_runtime.errors import InputError
from dpd_train.foreground import Decisions, cut, decide, salient
from dpd_train.images import PLAIN, Reading, SceneSet, read_scenes

SHOWN = 6  # images of a class in the picture
SIDE_SHOWN = 96  # pixels


@dataclass(frozen=True)
class Patches:
    """scenes: the real ones, cut where `decisions` say so. whole: as they were, [n, S, S, 3].
    sure: the teacher's probability of each one's class, [n, 1].
    """

    scenes: SceneSet
    whole: NDArray[np.uint8]
    decisions: Decisions
    sure: NDArray[np.float32]

    def picture(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[H, W, 3]: the first `SHOWN` of `rows` of each class: the whole one with its box, below it what is taken."""
        labels = self.scenes.labels[rows]
        shown = [rows[labels == label][:SHOWN] for label in range(len(self.scenes.classes))]
        sheet = Image.new("RGB", (SHOWN * (SIDE_SHOWN + 4), len(shown) * 2 * (SIDE_SHOWN + 4)), "white")
        for line, members in enumerate(shown):
            for column, row in enumerate(members):
                corner = column * (SIDE_SHOWN + 4), 2 * line * (SIDE_SHOWN + 4)
                sheet.paste(self._boxed(row), corner)
                taken = Image.fromarray(self.scenes.images[row]).resize((SIDE_SHOWN, SIDE_SHOWN))
                sheet.paste(taken, (corner[0], corner[1] + SIDE_SHOWN))
        return np.asarray(sheet)

    def _boxed(self, row: int) -> Image.Image:
        scale = SIDE_SHOWN / self.whole.shape[1]
        image = Image.fromarray(self.whole[row]).resize((SIDE_SHOWN, SIDE_SHOWN))
        top, left, size = (float(value) * scale for value in self.decisions.boxes[row])
        outline = (left, top, left + size - 1, top + size - 1)
        ImageDraw.Draw(image).rectangle(outline, outline=(255, 220, 0), width=2)
        return image


def foreground_patches(
    data: Path, real: SceneSet, teacher: Extractor, val_per_class: int | None = None, reading: Reading = PLAIN
) -> Patches:
    """The training images of `data`, which `real` has at the students' size, cut where they are larger.

    Args:
        teacher: one that knows the classes of `real` in their order: `own`, trained on it.

    Raises:
        InputError: images that are not larger than the students'.
    """
    side = int(real.images.shape[1])
    whole = read_scenes(data, part="train", val_per_class=val_per_class, reading=real.rendering or reading).images
    if whole.shape[1] <= side:
        raise InputError(
            f"method foreground cuts patches out of images, and those of {data} have {whole.shape[1]} px, not more "
            f"than the students' {side}: give a smaller --resolution, or another method"
        )

    def sure(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        found = teacher.probabilities(images)
        assert found is not None
        own: NDArray[np.float32] = found[np.arange(len(labels)), labels]
        return own

    decisions = decide(whole, real.labels, salient(whole), sure, side)
    taken = real.images.copy()
    for row in np.flatnonzero(decisions.boxes[:, 2] < whole.shape[1]):
        taken[row] = cut(whole[row], decisions.boxes[row], side)
    scenes = replace(real, images=taken)
    return Patches(scenes, whole, decisions, sure(taken, real.labels)[:, None])
