"""Percentile intervals from resampled statistics (Efron 1979)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]

from dpd_eval.audit.outcome import Ends
from dpd_runtime.annotations import Int64

REPLICATES = 1000


def generators(seed: int, count: int = REPLICATES) -> Iterator[np.random.Generator]:
    """Yield one generator per replicate, so that a replicate does not depend on the others."""
    return (np.random.default_rng([seed, number]) for number in range(count))


def resampled(count: int, generator: np.random.Generator) -> Int64:
    """Sample rows [count] with replacement from 0 … count − 1."""
    return generator.integers(count, size=count)


def resampled_by_class(members: list[Int64], generator: np.random.Generator) -> Int64:
    """Sample rows with replacement within each class, so that no class becomes empty."""
    return np.concatenate([rows[resampled(len(rows), generator)] for rows in members])


def percentile_ends(values: NDArray[np.float64]) -> Ends:
    """Return the 2.5th and 97.5th percentile of the replicates [R]."""
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def widened(ends: Ends, hits: int, count: int, shift: float = 0.0) -> Ends:
    """The far end of a share's interval, at least that of Clopper and Pearson (1934) for `hits` of `count`.

    The bootstrap of a share without a hit has no width.

    Args:
        shift: subtracted from the share.
    """
    return ends[0], max(ends[1], float(binomtest(hits, count).proportion_ci(0.95, "exact").high) - shift)


def members_of(labels: Int64) -> list[Int64]:
    """Return the rows of each class that occurs."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
