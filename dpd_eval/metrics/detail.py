"""Detail of images: power by octave, fine contrast, and the kurtosis of what a blur takes away.

Blurred images have less power in the highest octave and less fine contrast than real ones. Images whose sparse lines
are lost have less kurtosis: 3 is that of Gaussian noise, and a few bright lines on a plain field have far more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dpd_runtime.annotations import Images, Int64

Float64 = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
KERNEL = np.array([0.25, 0.5, 0.25])  # binomial blur
FLAT = 1e-6  # variance, in squared grey levels of 0 … 255, below which an image has no detail
PART = 500  # images that are measured at once


@dataclass(frozen=True)
class SetDetail:
    """Detail of one arm's images, or of real images that no arm holds (ipc None).

    octaves: power of the grey levels (0 … 255), mean over all images, in the octaves 1 to 2, 2 to 4, … cycles an image.
        The first also holds what varies less than once an image, the last reaches to the corner of the spectrum.
    fine_contrast: of each class, standard deviation in grey levels of what the binomial blur takes away.
    kurtosis: of each class, mean over its images of E[x⁴] / E[x²]² of what it takes away; 3 if there is nothing.
    """

    arm: str
    ipc: int | None
    images: int
    octaves: tuple[float, ...]
    fine_contrast: dict[str, float]
    kurtosis: dict[str, float]


def set_detail(arm: str, ipc: int | None, labelled: tuple[Images, Int64], classes: tuple[str, ...]) -> SetDetail:
    """Measure square images, uint8 [n, S, S, C] with labels [n], that are at least 4 pixels wide."""
    images, labels = labelled
    parts = [_measured(images[i : i + PART]) for i in range(0, len(images), PART)]
    octaves, deviation, kurtosis = (np.concatenate(part) for part in zip(*parts, strict=True))
    own = {classes[label]: labels == label for label in np.unique(labels).tolist()}
    return SetDetail(
        arm=arm,
        ipc=ipc,
        images=len(images),
        octaves=tuple(octaves.mean(axis=0).tolist()),
        fine_contrast={name: float(deviation[rows].mean()) for name, rows in own.items()},
        kurtosis={name: float(kurtosis[rows].mean()) for name, rows in own.items()},
    )


def _measured(images: Images) -> tuple[Float64, Float64, Float64]:
    """Power by octave [n, octaves], deviation [n] and kurtosis [n] of what a blur takes away."""
    levels = grey(images)
    fine = high_pass(levels)
    second, fourth = ((fine**power).mean(axis=(1, 2)) for power in (2, 4))
    kurtosis = np.where(second > FLAT, fourth / np.maximum(second, FLAT) ** 2, 3.0)
    return octave_power(levels), np.sqrt(second), kurtosis


def grey(images: Images) -> Float64:
    """Grey levels [n, H, W], 0 … 255: the luma of three bands, the mean of any other number."""
    bands = images.shape[-1]
    levels: Float64 = images.astype(np.float64) @ (LUMA if bands == len(LUMA) else np.full(bands, 1 / bands))
    return levels


def octave_power(levels: Float64) -> Float64:
    """Power [n, octaves] of grey levels [n, S, S] by the radius of the frequency; they add up to the variance."""
    side = levels.shape[1]
    power = np.abs(np.fft.fft2(levels)) ** 2 / side**4
    power[:, 0, 0] = 0  # the mean
    frequency = np.fft.fftfreq(side, 1 / side)
    radius = np.hypot(frequency[:, None], frequency[None])
    last = int(np.log2(side)) - 2  # the octave that begins at half of the highest frequency along an axis
    octave = np.minimum(np.log2(np.maximum(radius, 1)).astype(int), last)
    return np.stack([power[:, octave == number].sum(axis=1) for number in range(last + 1)], axis=1)


def high_pass(levels: Float64) -> Float64:
    """What the binomial blur takes away from grey levels [n, H, W], whose borders are mirrored."""
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    kernel = KERNEL[:, None] * KERNEL
    detail: Float64 = levels - np.einsum("nhwij,ij->nhw", sliding_window_view(padded, (3, 3), axis=(1, 2)), kernel)
    return detail
