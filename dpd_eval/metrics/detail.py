"""Detail of images: power by octave, fine contrast, and the kurtosis of what a blur takes away.

Blurred images have less power in the highest octave and less fine contrast than real ones. Images whose sparse lines
are lost have less kurtosis: 3 is that of Gaussian noise, and a few bright lines on a plain field have far more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Images

Float64 = NDArray[np.float64]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
KERNEL = np.array([1.0, 2.0, 1.0]) / 4  # binomial blur
FLAT = 1e-6  # high-pass variance of an image without detail, of grey levels in 0 … 255


@dataclass(frozen=True)
class Detail:
    """Detail of images, the mean over them.

    Args:
        octaves: power of the grey levels (0 … 255)² in the octaves 1–2, 2–4, … cycles an image; the last one reaches to
            the corner of the spectrum. They add up to the variance.
        fine_contrast: standard deviation of what the binomial blur takes away, in grey levels.
        kurtosis: E[x⁴] / E[x²]² of what it takes away, over the pixels of an image; 3 if there is nothing.
    """

    octaves: tuple[float, ...]
    fine_contrast: float
    kurtosis: float


def grey(images: Images) -> Float64:
    """Grey levels [n, H, W] of uint8 images [n, H, W, 3]."""
    return images.astype(np.float64) @ np.array(LUMA)


def octave_power(levels: Float64) -> Float64:
    """Power [n, octaves] of grey levels [n, S, S] by the radius of the frequency in cycles an image."""
    side = levels.shape[1]
    power = np.abs(np.fft.fft2(levels)) ** 2 / side**4
    frequency = np.fft.fftfreq(side, 1 / side)
    radius = np.hypot(frequency[:, None], frequency[None])
    last = int(np.log2(side)) - 2  # the octave that begins at half of the highest frequency along an axis
    octave = np.minimum(np.floor(np.log2(np.maximum(radius, 0.5))), last).astype(int)
    return np.stack([power[:, octave == number].sum(axis=1) for number in range(last + 1)], axis=1)


def high_pass(levels: Float64) -> Float64:
    """What the binomial blur takes away from grey levels [n, H, W]; borders are mirrored."""
    blurred = np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    blurred = sum(weight * blurred[:, place : place + levels.shape[1]] for place, weight in enumerate(KERNEL))
    blurred = sum(weight * blurred[:, :, place : place + levels.shape[2]] for place, weight in enumerate(KERNEL))
    found: Float64 = levels - blurred
    return found


def detail_of(images: Images) -> Detail:
    """Measure square images, uint8 [n, S, S, 3], S a power of two or not."""
    levels = grey(images)
    fine = high_pass(levels)
    second, fourth = ((fine**power).mean(axis=(1, 2)) for power in (2, 4))
    kurtosis = np.where(second > FLAT, fourth / np.maximum(second, FLAT) ** 2, 3.0)
    return Detail(
        octaves=tuple(octave_power(levels).mean(axis=0).tolist()),
        fine_contrast=float(np.sqrt(second).mean()),
        kurtosis=float(kurtosis.mean()),
    )
