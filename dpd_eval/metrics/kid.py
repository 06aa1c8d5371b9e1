"""Kernel inception distance: unbiased squared MMD with a cubic kernel (Bińkowski et al. 2018, arXiv 1801.01401, §4)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted

SUBSETS = 100
LARGEST_SUBSET = 1000
FEWEST_IMAGES = 4  # each half needs two images

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Kid:
    """Mean and spread of the estimates from `subsets` pairs of random subsets of `subset_sizes` images.

    mean: squared distance in kernel units, 0 for equal distributions; unbiased, so it may be negative.
    std: sample standard deviation between subsets, in the same units; `kernel_distance` explains its meaning.
    """

    mean: float
    std: float
    subsets: int
    subset_sizes: tuple[int, int]


def cubic_kernel(first: Float64, second: Float64) -> Float64:
    """Compute (x·y / D + 1)³ for the rows of [n, D] and [m, D]: [n, m]."""
    products: Float64 = first @ second.T / first.shape[1] + 1.0
    products **= 3  # in place: three matrices of 1000 × 1000 numbers are held at a time
    return products


def squared_mmd(first: Float64, second: Float64) -> float:
    """Compute the unbiased squared MMD of [n, D] and [m, D], n, m ≥ 2 (U-statistic; Gretton et al. 2012, eq. 3)."""
    n, m = len(first), len(second)
    within_first, within_second = cubic_kernel(first, first), cubic_kernel(second, second)
    own_first = (within_first.sum() - np.trace(within_first)) / (n * (n - 1))
    own_second = (within_second.sum() - np.trace(within_second)) / (m * (m - 1))
    return float(own_first + own_second - 2 * cubic_kernel(first, second).mean())


def kernel_distance(
    generated: Float32,
    reference: Float32,
    seed: int,
    *,
    subsets: int = SUBSETS,
    largest: int = LARGEST_SUBSET,
) -> Kid:
    """Compute KID of the features [n, D] and [m, D], over all classes together.

    Each subset has half of its side's images, at most `largest`, sampled without replacement. (Subsets as large as
    the side would all be equal, with a spread of 0 however noisy the estimate.) The spread between halves is the
    standard error of the whole if the distributions differ, and up to twice that if they do not, so it is
    conservative. For sides with more than twice `largest` images it is the error of a comparison of `largest` images.

    Raises:
        InputError: fewer than 4 images on a side, or fewer than two subsets.
    """
    sizes = min(len(generated) // 2, largest), min(len(reference) // 2, largest)
    if min(sizes) < 2:
        fewest = min(len(generated), len(reference))
        raise InputError(f"KID of {counted(fewest, 'image')}: it needs at least {FEWEST_IMAGES} on each side")
    if subsets < 2:
        raise InputError(f"KID from {subsets} subsets: its spread needs at least 2")
    rng = np.random.default_rng(seed)
    estimates = []
    for _ in range(subsets):
        ours, theirs = (
            side[rng.choice(len(side), size, replace=False)].astype(np.float64)
            for side, size in zip((generated, reference), sizes, strict=True)
        )
        estimates.append(squared_mmd(ours, theirs))
    return Kid(float(np.mean(estimates)), float(np.std(estimates, ddof=1)), subsets, sizes)
