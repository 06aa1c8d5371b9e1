"""Square crops of images larger than a base, at several scales, each brought to the base's size."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_train.images import SceneSet


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How many of each image, beside the whole of it."""

    middle: int = 4  # of each size between the whole and the native one, which are halves of one another
    native: int = 8  # whose pixels are the image's own


ONE_OF_EACH = Crops(middle=1, native=1)  # for validation

Box = tuple[int, int, int]
"""Left, top and side in pixels."""


def crop_boxes(side: int, resolution: int, digest: str, seed: int, crops: Crops) -> list[list[Box]]:
    """For each scale, from the whole image to native pixels, its boxes. Places depend on (seed, digest) alone.

    digest: the image's content hash, hex.
    """
    rng = np.random.default_rng([seed, int(digest[:16], 16)])
    levels: list[list[Box]] = [[(0, 0, side)]]
    sides: list[int] = []
    while (side_now := (sides[-1] if sides else side) // 2) > resolution:
        sides.append(side_now)
    counts = [crops.middle] * len(sides)
    if side > resolution:
        sides.append(resolution)
        counts.append(crops.native)
    for smaller, count in zip(sides, counts, strict=True):
        corners = rng.integers(0, side - smaller + 1, (count, 2)).tolist()
        levels.append([(left, top, smaller) for left, top in corners])
    return levels


def crop(image: npt.NDArray[np.uint8], box: Box, resolution: int) -> npt.NDArray[np.uint8]:
    """The box of an image [H, W, 3], resized as the reader does it (Lanczos): [resolution, resolution, 3]."""
    left, top, side = box
    part = image[top : top + side, left : left + side]
    if side == resolution:
        return part
    return np.asarray(Image.fromarray(part).resize((resolution, resolution), Image.Resampling.LANCZOS), np.uint8)


def crop_hash(digest: str, box: Box, resolution: int) -> str:
    """What identifies a crop's pixels, given its image's content hash."""
    return hashlib.sha256(f"{digest} crop {box} at {resolution}".encode()).hexdigest()


def multi_scale(scenes: SceneSet, resolution: int, seed: int, crops: Crops) -> tuple[SceneSet, npt.NDArray[np.int64]]:
    """All crops of all images, and of which scale each one is: [n] int64, 0 for whole images.

    scenes: at their own size. A whole image keeps its content hash, a part has one of its own.
    """
    side = scenes.images.shape[1]
    images, rows, levels, hashes = [], [], [], []
    for row, (image, digest) in enumerate(zip(scenes.images, scenes.hashes, strict=True)):
        for level, boxes in enumerate(crop_boxes(side, resolution, digest, seed, crops)):
            for box in boxes:
                images.append(crop(image, box, resolution))
                hashes.append(crop_hash(digest, box, resolution) if level else digest)
                rows.append(row)
                levels.append(level)
    found = replace(scenes.only(rows), images=np.stack(images), hashes=tuple(hashes))
    return found, np.array(levels, np.int64)


def equal_shares(levels: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[n] weights, sum 1, which give each scale the same share of the draws."""
    _, inverse, counts = np.unique(levels, return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = 1 / (len(counts) * counts[inverse])
    return weights
