"""Square crops of images that are larger than a base, at several scales, each resized to the base's resolution."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_runtime.annotations import Images, Int64, Pixels
from dpd_train.images.scene_set import SceneSet


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Number of random crops of each image, in addition to the whole image.

    middle: of each size between the whole image and the base's resolution; each size is half of the one before.
    native: of the base's resolution, whose pixels are the image's own.
    """

    middle: int = 4
    native: int = 8


ONE_OF_EACH = Crops(middle=1, native=1)  # for validation

Box = tuple[int, int, int]
"""Left, top and side in pixels."""


def crop_boxes(side: int, resolution: int, digest: str, seed: int, crops: Crops) -> list[list[Box]]:
    """Return the boxes of each scale, from the whole image to native pixels. They depend only on (seed, digest).

    digest: the image's content hash, hex.
    """
    rng = np.random.default_rng([seed, int(digest[:16], 16)])
    levels: list[list[Box]] = [[(0, 0, side)]]
    scales: list[tuple[int, int]] = []
    half = side // 2
    while half > resolution:
        scales.append((half, crops.middle))
        half //= 2
    if side > resolution:
        scales.append((resolution, crops.native))
    for smaller, count in scales:
        corners = rng.integers(0, side - smaller + 1, (count, 2)).tolist()
        levels.append([(left, top, smaller) for left, top in corners])
    return levels


def crop(image: Pixels, box: Box, resolution: int) -> Pixels:
    """Cut the box out of an image and resize it as `read_scenes` does (Lanczos): [resolution, resolution, 3]."""
    left, top, side = box
    part = image[top : top + side, left : left + side]
    if side == resolution:
        return part
    return np.asarray(Image.fromarray(part).resize((resolution, resolution), Image.Resampling.LANCZOS), np.uint8)


def crop_hash(digest: str, box: Box, resolution: int) -> str:
    """Return the hash that identifies a crop's pixels. digest: its image's content hash."""
    return hashlib.sha256(f"{digest} crop {box} at {resolution}".encode()).hexdigest()


def multi_scale(scenes: SceneSet, resolution: int, seed: int, crops: Crops) -> tuple[SceneSet, Int64, Int64]:
    """Crop all images.

    Args:
        scenes: at their own size.

    Returns:
        all crops; the scale of each one: [n] int64, 0 for a whole image; and the row of its image: [n] int64. A whole
        image keeps its content hash, every other crop has its own.
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
    stacked: Images = np.stack(images)
    small = replace(scenes, images=scenes.images[:, :1, :1])  # `only` would copy each whole image for each crop
    cropped = replace(small.only(rows), images=stacked, hashes=tuple(hashes))
    return cropped, np.array(levels, np.int64), np.array(rows, np.int64)


def equal_shares(levels: Sequence[int] | Int64) -> npt.NDArray[np.float64]:
    """Return weights [n], sum 1, that give each scale the same share."""
    _, inverse, counts = np.unique(levels, return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = 1 / (len(counts) * counts[inverse])
    return weights
