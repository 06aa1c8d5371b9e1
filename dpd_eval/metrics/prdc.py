"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32
from dpd_runtime.errors import InputError

NEIGHBOURS = 5
BLOCK_NUMBERS = 2_000_000  # distances held in memory at a time: 16 MB, plus a few temporaries of that size
SAME = 1e-12  # relative to |x|² + |y|²: a smaller squared distance is a rounding error of 0
TIE = 1e-9  # relative: a distance this close to a radius lies on the sphere, not in the ball

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Prdc:
    """precision, recall and coverage are in [0, 1]; density ≥ 0 is about 1 for equal distributions and may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def _distances(rows: Float64, others: Float64) -> Iterator[tuple[slice, Float64]]:
    """Yield squared Euclidean distances of [n, D] to [m, D] in blocks: the slice of rows, and [rows, m]."""
    norms, others_norms = (np.einsum("ij,ij->i", side, side) for side in (rows, others))
    step = max(1, BLOCK_NUMBERS // len(others))
    for start in range(0, len(rows), step):
        block = slice(start, min(start + step, len(rows)))
        lengths = norms[block, None] + others_norms
        squared = lengths - 2 * (rows[block] @ others.T)
        squared[squared < SAME * lengths] = 0.0
        yield block, squared


def squared_radii(points: Float64, neighbours: int) -> Float64:
    """Return the squared distance [n] of each point [n, D] to its k-th nearest other point, n > k."""
    radii = np.empty(len(points))
    for block, squared in _distances(points, points):
        rows = np.arange(block.start, block.stop)
        squared[rows - block.start, rows] = np.inf  # no point is its own neighbour
        radii[block] = np.partition(squared, neighbours - 1, axis=1)[:, neighbours - 1]
    return radii


def neighbour_shares(generated: Float32, reference: Float32, *, neighbours: int = NEIGHBOURS) -> Prdc:
    """Compute the four metrics for features [n, D] and [m, D], over all classes together.

    B(x) is the open ball around x that reaches to its k-th nearest neighbour on its own side.
    precision: share of generated images in some B(reference). recall: share of reference images in some B(generated).
    density: number of B(reference) that contain a generated image, averaged over the images and divided by k.
    coverage: share of B(reference) that contain a generated image.
    With open balls, as in the code of Naeem et al. (clovaai/generative-evaluation-prdc), a set equal to the reference
    scores 1 in all four. A set much smaller than the reference has few and wide B(generated): use recall and coverage
    only to compare sets of equal size.

    Raises:
        InputError: no more images than neighbours on a side.
    """
    for side, features in (("generated", generated), ("reference", reference)):
        if len(features) <= neighbours:
            raise InputError(
                f"precision and recall of {len(features)} {side} images: they need more than {neighbours}, "
                "the number of neighbours"
            )
    centre = reference.mean(axis=0, dtype=np.float64)  # centring reduces rounding errors
    ours, real = generated.astype(np.float64), reference.astype(np.float64)
    ours -= centre
    real -= centre
    our_radii = squared_radii(ours, neighbours) * (1 - TIE)
    real_radii = squared_radii(real, neighbours) * (1 - TIE)
    in_balls = np.zeros(len(ours), np.int64)  # number of B(reference) that contain each generated image
    recalled = covered = 0
    for block, squared in _distances(real, ours):
        inside = squared < real_radii[block, None]
        in_balls += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((squared < our_radii).any(axis=1).sum())
    return Prdc(
        precision=float((in_balls > 0).mean()),
        recall=recalled / len(real),
        density=float(in_balls.mean()) / neighbours,
        coverage=covered / len(real),
    )
