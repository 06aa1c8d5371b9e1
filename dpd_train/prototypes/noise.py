"""Gaussian noise on the means of clusters, and the (ε, δ) of one image if the clustering is given.

The analytic Gaussian mechanism (Balle & Wang, ICML 2018, Theorem 8). Two data sets are neighbours if they differ in one
image (replace-one) and have the same clusters: the clustering itself is not private.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dpd_runtime.annotations import Float32
from dpd_train.prototypes.prototypes import ClassPrototypes, block_means

DELTA = 1e-5
HALVINGS = 100


def norm_limit(values: int) -> float:
    """The norm that members are clipped to: √values, as of a latent of unit variance; independent of the data."""
    return math.sqrt(values)


def clipped(rows: Float32, limit: float) -> Float32:
    """[n, ...] with each row's L2 norm at most `limit`."""
    lengths = np.linalg.norm(rows.reshape(len(rows), -1), axis=1)
    factors = np.minimum(1.0, limit / np.maximum(lengths, 1e-12)).astype(np.float32)
    scaled: Float32 = rows * factors.reshape(-1, *[1] * (rows.ndim - 1))
    return scaled


def with_noise(
    prototypes: ClassPrototypes, latents: Float32, deviation: float, generator: np.random.Generator
) -> ClassPrototypes:
    """Means of the clipped members, with noise of this standard deviation on each value.

    Args:
        latents: [n, C, h, w] of the images of `prototypes.members`.
        generator: without a known seed, which would allow subtracting the noise.
    """
    rows = block_means(latents, prototypes.latents.shape[2])
    rows = clipped(rows, norm_limit(rows[0].size))
    means = np.stack(
        [rows[prototypes.members == k].mean(axis=0, dtype=np.float64) for k in range(len(prototypes.counts))]
    )
    noisy = means + deviation * generator.standard_normal(means.shape)
    return replace(prototypes, latents=np.ascontiguousarray(noisy, np.float32))


def delta_of(epsilon: float, shift: float) -> float:
    """δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) of Gaussian noise; μ = `shift` = sensitivity / standard deviation."""
    from scipy.special import log_ndtr  # type: ignore[import-untyped] # here, as the checks of --dp need none of it

    first = log_ndtr(shift / 2 - epsilon / shift)
    second = epsilon + log_ndtr(-shift / 2 - epsilon / shift)
    return float(math.exp(first) * -math.expm1(min(0.0, second - first)))


def epsilon_of(delta: float, shift: float) -> float:
    """The smallest ε ≥ 0 with δ(ε) ≤ `delta`, from above, by bisection."""
    low, high = 0.0, shift**2 / 2 + shift * math.sqrt(2 * math.log(1 / delta))  # the tail bound of the privacy loss
    if delta_of(low, shift) <= delta:
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle, shift) <= delta else (middle, high)
    return high


def guarantee(prototypes: Sequence[ClassPrototypes | None], deviation: float) -> dict[str, Any] | None:
    """The (ε, δ) of an image of the smallest cluster, for run.json; None without prototypes.

    Each image is in one cluster, so the guarantee of one prototype holds for all together (parallel composition).
    """
    there = [own for own in prototypes if own is not None]
    if not there:
        return None
    members, limit = min(min(own.counts) for own in there), norm_limit(there[0].latents[0].size)
    sensitivity = 2 * limit / members
    return {
        "epsilon": epsilon_of(DELTA, sensitivity / deviation),
        "delta": DELTA,
        "noise": deviation,
        "norm_limit": limit,
        "members": members,
        "neighbours": "one image replaced, the clustering and which prototypes are too near to an image given",
    }
