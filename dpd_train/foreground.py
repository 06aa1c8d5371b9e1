"""Foreground-aware patches: where an image's object is small, a patch with it stands for the image.

Li et al., "Foreground-Aware Dataset Distillation via Dynamic Patch Selection", 2026 (METHOD §3). The paper finds
objects with Grounding DINO and SAM 2; the spectral residual needs no weights. Deviations: docs/neighbours.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter  # type: ignore[import-untyped]

MAP = 64  # side of a map in cells
LEVEL = 3.0  # times the mean saliency; Hou and Zhang 2007, §3.3
BLUR = 2.5  # cells, standard deviation
PATCH = 0.5  # side of a patch as a share of the image's
STRIDE = 8  # cells between candidates
CANDIDATES = 4

Images = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Confidence = Callable[[Images, NDArray[np.int64]], NDArray[np.float32]]
"""images [n, side, side, 3] and labels [n] → how sure a teacher is of these labels [n]."""


@dataclass(frozen=True)
class Decisions:
    """What stands for each image.

    Args:
        occupancy: share of the image that is foreground, [n].
        thresholds: of each class: images below it are cut, [classes].
        boxes: top, left and side in pixels, [n, 3]; the whole image where it was not cut.
    """

    occupancy: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    boxes: NDArray[np.int64]


def spectral_residual(image: Images) -> NDArray[np.float64]:
    """Saliency [MAP, MAP] of one image [S, S, 3] (Hou and Zhang, CVPR 2007, §2.3).

    What the logarithm of the amplitude spectrum has beyond its local mean, transformed back with the image's phase.
    """
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


def candidate_corners(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Of the windows on a grid the CANDIDATES with the most foreground: top and left in cells, ties to the first."""
    size = int(MAP * PATCH)
    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    corners = [(y, x) for y in range(0, MAP - size + 1, STRIDE) for x in range(0, MAP - size + 1, STRIDE)]
    held = [sums[y + size, x + size] - sums[y, x + size] - sums[y + size, x] + sums[y, x] for y, x in corners]
    return [corners[i] for i in np.argsort(-np.array(held), kind="stable")[:CANDIDATES]]


def cut(image: Images, box: NDArray[np.int64], side: int) -> Images:
    """The part of one image [S, S, 3] in `box`, as [side, side, 3]."""
    top, left, size = (int(value) for value in box)
    part = Image.fromarray(image[top : top + size, left : left + size])
    return np.asarray(part.resize((side, side), Image.Resampling.LANCZOS))


def decide(images: Images, labels: NDArray[np.int64], masks: Masks, confidence: Confidence, side: int) -> Decisions:
    """A class's threshold is the median occupancy of its images. An image below it is cut to that of its candidate
    patches of which the teacher is surest; the others stay whole.

    Args:
        images: [n, S, S, 3]. masks: their foreground, [n, MAP, MAP]. side: in pixels, what the teacher sees.
    """
    occupancy = masks.mean(axis=(1, 2))
    thresholds = np.array([np.median(occupancy[labels == label]) for label in range(int(labels.max()) + 1)])
    pixels = images.shape[1]
    boxes = np.tile(np.array([0, 0, pixels], np.int64), (len(images), 1))
    rows = np.flatnonzero(occupancy < thresholds[labels])
    corners = np.array([candidate_corners(masks[row]) for row in rows], np.int64).reshape(len(rows), CANDIDATES, 2)
    tried = np.concatenate([corners * pixels // MAP, np.full((*corners.shape[:2], 1), int(pixels * PATCH))], axis=2)
    if len(rows):
        patches = np.stack([cut(images[row], box, side) for row, own in zip(rows, tried, strict=True) for box in own])
        sure = confidence(patches, labels[rows].repeat(CANDIDATES)).reshape(len(rows), CANDIDATES)
        boxes[rows] = tried[np.arange(len(rows)), sure.argmax(axis=1)]
    return Decisions(occupancy, thresholds, boxes)
