"""A picture of the patches that were cut out of images. It shows real images, so it is private."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dpd_neighbours.foreground.decisions import Decisions
from dpd_runtime.annotations import Images, Int64, Pixels
from dpd_runtime.dataset import contact_sheet

SHOWN = 6  # images of a class
SIDE = 96  # pixels
OUTLINE = (255, 220, 0)


def decisions_sheet(classes: Sequence[str], labels: Int64, whole: Images, decisions: Decisions, rows: Int64) -> Pixels:
    """Picture [H, W, 3] of the first `SHOWN` of `rows` of each class: whole images with boxes, and below the patches.

    Args:
        whole: the images [n, S, S, 3] of `decisions`, with `labels` [n].
    """
    lines = []
    for label, name in enumerate(classes):
        shown = rows[labels[rows] == label][:SHOWN]
        lines.append((name, [_boxed(whole[row], decisions.boxes[row]) for row in shown]))
        lines.append(("taken", list(decisions.images[shown])))
    return contact_sheet(lines, size=SIDE)


def _boxed(image: Pixels, box: Int64) -> Pixels:
    """The image at the size shown, with its box in a line of fixed width."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    top, left, size = (float(value) * SIDE / image.shape[0] for value in box)
    ImageDraw.Draw(small).rectangle((left, top, left + size - 1, top + size - 1), outline=OUTLINE, width=2)
    return np.asarray(small)
