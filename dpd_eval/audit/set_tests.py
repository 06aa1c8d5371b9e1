"""Tests of images: generated images and decoded prototypes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dpd_eval.audit.comparison import Compared, Yardstick
from dpd_eval.audit.data import AuditData
from dpd_eval.audit.outcome import Outcome
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.dataset.sheet import contact_sheet
from dpd_runtime.images.bands import Band, picture
from dpd_runtime.text import counted
from dpd_train.images.structure import NEAR, orbit, similarities
from dpd_train.prototypes.too_near import thresholds

COLUMNS = 12
ROWS = 3


@dataclass(frozen=True)
class AuditedImages:
    """Images of one kind, with labels in the data's order."""

    what: str
    images: Images
    labels: Int64


def set_tests(
    audited: AuditedImages, yardsticks: list[Yardstick], private: Path | None, progress: Callable[[], None]
) -> list[Outcome]:
    """Run both tests in each space, and write the worst pairs to `private`."""
    tests = []
    for yardstick in yardsticks:
        compared = yardstick.compare(audited.images, audited.labels)
        tests += [yardstick.replication(compared, audited.what), yardstick.nearer(compared, audited.what)]
        if private is not None:
            _keep_worst(audited, yardstick, compared, private)
        progress()
    return tests


def near_copies(audited: AuditedImages, data: AuditData, private: Path | None) -> Outcome:
    """Count the images that are near duplicates of an image of T, as `near_duplicates` finds them.

    Copies at another contrast, blurred or with noise are among them. It needs no hold-out; where H has near duplicates
    of T too, as neighbouring patches may be, the count is a warning only.
    """

    def nearest(images: Images) -> Float32:
        return similarities(orbit(images), data.structures)

    name, ours = f"near duplicates of T, {audited.what}", nearest(audited.images)
    copies = np.flatnonzero(ours.max(axis=1) > NEAR)
    note = f"of {counted(len(ours), 'image')}"
    if not len(copies):
        return Outcome(name, 0.0, None, 0.0, "PASS", note)
    if private is not None:
        real = data.train.images[ours[copies].argmax(axis=1)]
        write_worst_pairs(private / f"{name}.png", audited.images[copies], real, data.train.bands)
    of_held = int((nearest(data.held.images).max(axis=1) > NEAR).sum())
    note += f"; {of_held} of {len(data.held.labels)} of H are near duplicates of T too" if of_held else ""
    return Outcome(name, float(len(copies)), None, 0.0, "WARN" if of_held else "FAIL", note)


def _keep_worst(audited: AuditedImages, yardstick: Yardstick, compared: Compared, private: Path) -> None:
    """Write the images that are furthest above the threshold of their class."""
    limits = thresholds(yardstick.half(yardstick.data.first), len(yardstick.data.classes))
    beyond = compared.nearest.values - limits[audited.labels]
    rows = np.argsort(-beyond, kind="stable")
    nearest = yardstick.data.train.images[compared.to_train.argmax(axis=1)]
    name = re.sub(r",? |[:/]", "-", f"{audited.what}, {yardstick.name}")  # an extractor's name may be that of a folder
    write_worst_pairs(private / f"{name}.png", audited.images[rows], nearest[rows], yardstick.data.train.bands)


def write_worst_pairs(path: Path, images: Images, nearest: Images, bands: tuple[Band, ...] = ()) -> None:
    """Draw the first 36 images, worst first, each above the most similar real image (in any of the eight views).

    Images of other bands than RGB are drawn as people see them.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    images, nearest = (picture(some[: COLUMNS * ROWS], bands) for some in (images, nearest))
    rows = []
    for start in range(0, min(len(images), COLUMNS * ROWS), COLUMNS):
        part = slice(start, min(start + COLUMNS, COLUMNS * ROWS))
        rows += [("audited", list(images[part])), ("nearest real", list(nearest[part]))]
    Image.fromarray(contact_sheet(rows, size=int(images.shape[1]))).save(path)
