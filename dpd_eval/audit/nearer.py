"""Nearer to T than to H: is the nearest neighbour of an image too often a training image? (docs/reference/privacy.md)

The statistic is the share of images whose nearest neighbour lies in a random T' ⊂ T of H's size rather than in H.
Instead of one T', the exact expectation over all T' is used: if r images of T are nearer than the nearest of H, then a
random T' of m among N contains one of them with probability 1 − C(N−r, m) / C(N, m).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln  # type: ignore[import-untyped]

from dpd_eval.audit.bootstrap import REPLICATES, generators, resampled
from dpd_eval.audit.outcome import Ends, Outcome, decide, power
from dpd_runtime.annotations import Float32
from dpd_runtime.text import counted

NAME = "nearer to T than to H"
INNOCENT = 0.5  # of images that are as near to T as to H
MARGIN = 0.05  # above the hold-out's own share
Float = NDArray[np.floating]


def holds_one(nearer: NDArray[np.integer], drawn: int, total: int) -> Float:
    """Return the probability that `drawn` of `total`, without replacement, include at least one of `nearer` [..]."""
    left = total - nearer.astype(np.float64)
    possible = left >= drawn
    kept = np.where(possible, left, drawn)
    logs = gammaln(kept + 1) - gammaln(kept - drawn + 1) - gammaln(total + 1) + gammaln(total - drawn + 1)
    probabilities: Float = np.where(possible, -np.expm1(np.minimum(logs, 0.0)), 1.0)
    return probabilities


def nearer_share(to_train: Float32, to_held: Float32) -> Float:
    """Return the probability [n] that each image is nearer to T' than to H.

    If T is the smaller side, a random H' of T's size is used instead of T'.

    Args:
        to_train, to_held: similarities [n, N] and [n, m].
    """
    if to_train.shape[1] < to_held.shape[1]:
        return 1 - nearer_share(to_held, to_train)
    beyond = (to_train > to_held.max(axis=1, keepdims=True)).sum(axis=1)
    return holds_one(beyond, to_held.shape[1], to_train.shape[1])


def _replicates(larger: Float32, smaller: Float32, seed: int) -> Float:
    """Return the mean share of each replicate [R].

    Images and the smaller side are resampled. The part of the larger side is as large as the smaller side without
    copies.
    """
    images, size = smaller.shape
    nearest = np.empty((images, REPLICATES), np.float32)
    counts = np.empty(REPLICATES, np.int64)
    rows = np.empty((REPLICATES, images), np.int64)
    for number, generator in enumerate(generators(seed)):
        kept = np.unique(resampled(size, generator))
        counts[number] = len(kept)
        nearest[:, number] = smaller[:, kept].max(axis=1)
        rows[number] = resampled(images, generator)
    total = larger.shape[1]
    ordered = np.sort(larger, axis=1)
    beyond = np.stack([total - np.searchsorted(o, n, side="right") for o, n in zip(ordered, nearest, strict=True)])
    return np.array([holds_one(beyond[rows[r], r], int(counts[r]), total).mean() for r in range(REPLICATES)])


def nearer_interval(to_train: Float32, to_held: Float32, seed: int) -> Ends:
    """Return the 95 % interval of the mean of `nearer_share`: the spread of the replicates around the value.

    The spread is not taken around the replicates' own mean, because a resampled side without copies is smaller.
    """
    value = float(nearer_share(to_train, to_held).mean())
    swapped = to_train.shape[1] < to_held.shape[1]
    sides = (to_held, to_train) if swapped else (to_train, to_held)
    shares = _replicates(*sides, seed)
    spread = (1 - shares if swapped else shares) - (1 - shares if swapped else shares).mean()
    low, high = np.quantile(spread, (0.025, 0.975)).tolist()
    return max(0.0, value + low), min(1.0, value + high)


@dataclass(frozen=True)
class OwnShare:
    """The share of the hold-out's second half that is nearer to T than to its first half, with its interval.

    It is what a generator without a memory has. It is one half in a space that knows neither side; a network that was
    trained on T moves T's images away from all others.
    """

    value: float
    interval: Ends


INNOCENT_SHARE = OwnShare(INNOCENT, (INNOCENT, INNOCENT))


def own_share(to_train: Float32, to_first: Float32, seed: int = 1) -> OwnShare:
    """Args: to_train, to_first: similarities of H2 with T [n, N] and with H1 [n, m]."""
    return OwnShare(float(nearer_share(to_train, to_first).mean()), nearer_interval(to_train, to_first, seed))


def nearer_test(
    name: str,
    to_train: Float32,
    to_held: Float32,
    *,
    own: OwnShare = INNOCENT_SHARE,
    copied: float | None = None,
    seed: int = 0,
) -> Outcome:
    """Test whether the share of images nearer to T is above the hold-out's own share by more than MARGIN.

    Args:
        own: its uncertainty widens the interval, as the two are measured on different images.
        copied: the share of copies of T, for the test's power.
    """
    value = float(nearer_share(to_train, to_held).mean())
    ends = nearer_interval(to_train, to_held, seed)
    low = value - math.hypot(value - ends[0], own.interval[1] - own.value)
    high = value + math.hypot(ends[1] - value, own.value - own.interval[0])
    sizes = to_train.shape[1], to_held.shape[1]
    note = f"{counted(to_train.shape[0], 'image')}, {min(sizes)} on each side, of {sizes[0]} in T and {sizes[1]} in H"
    note += f"; the hold-out's own share is {own.value:.3f}" if own is not INNOCENT_SHARE else ""
    of_copies = None if copied is None else power(copied, own.value, (low, high))
    of_held = sizes[1] <= min(to_train.shape)
    return decide(name, value, (low, high), own.value + MARGIN, note=note, power=of_copies, of_held=of_held)
