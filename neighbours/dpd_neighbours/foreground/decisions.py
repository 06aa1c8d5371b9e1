"""Foreground-aware patches: if an image's object is small, a patch with the object replaces the image.

Li et al., "Foreground-Aware Dataset Distillation via Dynamic Patch Selection", 2026. The paper finds
objects with Grounding DINO and SAM 2; the spectral residual needs no weights. Deviations: docs/reference/neighbours.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpd_runtime.annotations import Float32, Images, Int64, Pixels

MAP = 64  # side of a map in cells
LEVEL = 3.0  # times the mean saliency; Hou and Zhang 2007, §3.3
BLUR = 2.5  # cells, standard deviation
PATCH = 0.5  # side of a patch as a share of the image's
STRIDE = 8  # cells between candidates
CANDIDATES = 4

Masks = NDArray[np.bool_]
Confidence = Callable[[Images, Int64], Float32]
"""Images [n, side, side, 3] and labels [n] → a teacher's confidence in these labels [n]."""


@dataclass(frozen=True)
class Decisions:
    """Which images were cut, and to what.

    Args:
        occupancy: share of the image that is foreground, [n].
        thresholds: of each class, [classes]; images below it are cut.
        boxes: top, left and side in pixels, [n, 3]; the whole image if it was not cut.
        images: the contents of the boxes, [n, side, side, 3].
        sure: the teacher's confidence in `images`, [n].
    """

    occupancy: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    boxes: Int64
    images: Images
    sure: Float32

    @property
    def cut(self) -> Int64:
        """Rows of the images that were cut."""
        return np.flatnonzero(self.boxes[:, 2] < self.boxes[:, 2].max())


def spectral_residual(image: Pixels) -> NDArray[np.float64]:
    """Saliency [MAP, MAP] of one image [S, S, 3] (Hou and Zhang, CVPR 2007, §2.3).

    The log amplitude spectrum minus its local mean, transformed back with the image's phase.
    """
    from scipy.ndimage import gaussian_filter, uniform_filter  # type: ignore[import-untyped]  # slow to import

    grey = Image.fromarray(image).convert("L").resize((MAP, MAP), Image.Resampling.BOX)
    spectrum = np.fft.fft2(np.asarray(grey, np.float64))
    amplitude = np.log(np.abs(spectrum) + 1e-8)
    residual = amplitude - uniform_filter(amplitude, 3, mode="wrap")
    back = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))
    return np.asarray(gaussian_filter(np.abs(back) ** 2, BLUR))


def salient(images: Images) -> Masks:
    """Foreground [n, MAP, MAP] of images [n, S, S, 3]: saliency above LEVEL times the image's mean."""
    maps = np.stack([spectral_residual(image) for image in images])
    return np.asarray(maps > LEVEL * maps.mean(axis=(1, 2), keepdims=True))


def candidate_boxes(mask: NDArray[np.bool_], pixels: int) -> Int64:
    """The CANDIDATES windows on a grid with the most foreground, in descending order, ties in the order of the grid.

    Returns:
        top, left and side in pixels of an image of side `pixels`, [CANDIDATES, 3].
    """
    size = int(MAP * PATCH)
    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    corners = [(y, x) for y in range(0, MAP - size + 1, STRIDE) for x in range(0, MAP - size + 1, STRIDE)]
    held = [sums[y + size, x + size] - sums[y, x + size] - sums[y + size, x] + sums[y, x] for y, x in corners]
    most = np.argsort(-np.array(held), kind="stable")[:CANDIDATES]
    return np.array([(y * pixels // MAP, x * pixels // MAP, int(pixels * PATCH)) for y, x in np.array(corners)[most]])


def cut(image: Pixels, box: Int64, side: int) -> Pixels:
    """The part of one image [S, S, 3] in `box`, as [side, side, 3]."""
    top, left, size = (int(value) for value in box)
    part = Image.fromarray(image[top : top + size, left : left + size])
    return np.asarray(part.resize((side, side), Image.Resampling.LANCZOS))


def decide(
    whole: Images,
    small: Images,
    labels: Int64,
    masks: Masks,
    confidence: Confidence | None = None,
) -> Decisions:
    """Cut each image below its class's threshold, the median, to the candidate patch that the teacher is surest of.

    The others stay whole.

    Args:
        whole: images [n, S, S, 3]. small: the same at the teacher's size, [n, side, side, 3].
        masks: their foreground, [n, MAP, MAP].
        confidence: the teacher's. Without a teacher the patch with the most foreground is taken, and images without
            foreground stay whole.
    """
    occupancy = masks.mean(axis=(1, 2))
    of_class = [occupancy[labels == label] for label in range(int(labels.max()) + 1)]
    thresholds = np.array([np.median(values) if len(values) else 0.0 for values in of_class])
    below = occupancy < thresholds[labels]
    if confidence is None:
        below &= occupancy > 0
        confidence = _indifferent
    rows, kept = np.flatnonzero(below), np.flatnonzero(~below)
    boxes = np.tile(np.array([0, 0, whole.shape[1]], np.int64), (len(whole), 1))
    images, sure = small.copy(), np.zeros(len(whole), np.float32)
    sure[kept] = confidence(small[kept], labels[kept])
    if len(rows):
        tried = np.stack([candidate_boxes(masks[row], whole.shape[1]) for row in rows])
        side = small.shape[1]
        patches = np.stack([cut(whole[row], box, side) for row, own in zip(rows, tried, strict=True) for box in own])
        certain = confidence(patches, labels[rows].repeat(CANDIDATES)).reshape(len(rows), CANDIDATES)
        best = np.arange(len(rows)), certain.argmax(axis=1)
        boxes[rows], sure[rows] = tried[best], certain[best]
        images[rows] = patches.reshape(*certain.shape, *small.shape[1:])[best]
    return Decisions(occupancy, thresholds, boxes, images, sure)


def _indifferent(images: Images, labels: Int64) -> Float32:
    return np.zeros(len(labels), np.float32)
