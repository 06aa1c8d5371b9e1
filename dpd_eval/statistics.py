"""Accuracies from a confusion matrix, and intervals of paired comparisons (docs/guides/evaluate.md)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Int64
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted


def confusion_matrix(true: Int64, predicted: Int64, num_classes: int) -> Int64:
    """Count [true class, predicted class] over two label arrays [n] with values 0 … num_classes-1."""
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def overall_accuracy(confusion: Int64) -> float:
    """Return OA in [0, 1]: the share of images on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def class_accuracy(confusion: Int64) -> NDArray[np.float64]:
    """Return the recall of each class in [0, 1]; NaN for a class without images."""
    counts = confusion.sum(axis=1)
    share: NDArray[np.float64] = np.full(len(counts), np.nan)
    np.divide(np.diag(confusion), counts, out=share, where=counts > 0)
    return share


def average_accuracy(confusion: Int64) -> float:
    """Return AA in [0, 1]: mean accuracy of the classes that have images."""
    return float(np.nanmean(class_accuracy(confusion)))


def cohen_kappa(confusion: Int64) -> float:
    """Return κ = (p_o − p_e) / (1 − p_e), p_e from the margins (Cohen 1960); 0 if there is only one class."""
    total = confusion.sum()
    expected = float(confusion.sum(axis=1) @ confusion.sum(axis=0)) / float(total) ** 2
    if expected == 1.0:
        return 0.0
    return (overall_accuracy(confusion) - expected) / (1 - expected)


def fewest_pairs(ipc: int) -> int:
    """Return the minimum number of pairs at this IPC. Small subsets vary more and need more pairs."""
    return 8 if ipc <= 10 else 5


Unit = Literal["pairs", "bundles"]
"""What an interval is over: pairs of students, or bundles, each of its own matching run."""


def fewest_repeats(unit: Unit, ipc: int) -> int:
    """Return the minimum number of repeats of a reported result (docs/guides/evaluate.md)."""
    if unit == "pairs":
        return fewest_pairs(ipc)
    return 5 if ipc <= 10 else 3


@dataclass(frozen=True)
class Interval:
    """Mean of values with its two-sided t-interval.

    Args:
        mean: of the values. low, high: ends of the 95 % interval; None for one value. n: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute mean ± t_{n−1, (1+confidence)/2} · s / √n with the sample standard deviation s (Student 1908).

    Raises:
        InputError: no values.
    """
    if not values:
        raise InputError("an interval needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    mean, n = float(array.mean()), len(array)
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy.stats import t as student_t  # type: ignore[import-untyped]  # slow to import

    half = float(student_t.ppf((1 + confidence) / 2, n - 1)) * float(array.std(ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half, n)


def _pair(first: Sequence[float], second: Sequence[float]) -> list[tuple[float, float]]:
    if len(first) != len(second):
        raise InputError(
            f"{counted(len(first), 'value')} against {len(second)}: a paired comparison needs equal numbers"
        )
    return list(zip(first, second, strict=True))


def _averaged(values: Sequence[float], groups: Sequence[Hashable] | None) -> list[float]:
    """The mean of the values of each group; the values themselves without groups."""
    if groups is None:
        return list(values)
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return [float(np.mean(part)) for part in members.values()]


def paired_difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable] | None = None
) -> Interval:
    """Compute the 95 % t-interval of first_i − second_i.

    Args:
        groups: of each pair, such as the matching run of its set. Pairs of a group are averaged, and the interval is
            over groups. None: every pair counts for itself.

    Raises:
        InputError: lengths differ or are 0.
    """
    return t_interval(_averaged([a - b for a, b in _pair(first, second)], groups))


Verdict = Literal["met", "not met", "not resolved"]


@dataclass(frozen=True)
class RatioVerdict:
    """Whether set ≥ ratio · reference, and the interval of set_i − ratio · reference_i that decides it."""

    ratio: float
    verdict: Verdict
    interval: Interval


def ratio_verdict(
    set_oas: Sequence[float], ref_oas: Sequence[float], ratio: float, groups: Sequence[Hashable] | None = None
) -> RatioVerdict:
    """Test set ≥ ratio · reference (docs/guides/evaluate.md).

    Met if the lower end of the interval is ≥ 0, not met if the upper end is < 0, otherwise not resolved. `groups` as in
    `paired_difference`.

    Raises:
        InputError: lengths differ or are 0.
    """
    interval = t_interval(_averaged([a - ratio * b for a, b in _pair(set_oas, ref_oas)], groups))
    verdict: Verdict = "not resolved"
    if interval.low is not None and interval.low >= 0:
        verdict = "met"
    elif interval.high is not None and interval.high < 0:
        verdict = "not met"
    return RatioVerdict(ratio, verdict, interval)
