"""Membership: can a network's score tell training images from hold-out images? (docs/reference/privacy.md)"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_eval.audit.bootstrap import REPLICATES, generators, percentile_ends, resampled, widened
from dpd_eval.audit.outcome import FewHeld, Outcome, decide, not_run
from dpd_runtime.text import counted

AUC_HARMLESS, AUC_FAIL = 0.55, 0.60
TPR_FAIL = 0.03
FALSE_POSITIVES = 0.01
FEWEST = 100  # hold-out images; with fewer, one per cent of them is less than one image
Float = NDArray[np.floating]


@dataclass(frozen=True)
class Scores:
    """Scores of training images [a] and of hold-out images [b]; a higher score means a likely member."""

    members: Float
    others: Float


def area_under_curve(members: Float, others: Float) -> float:
    """Return the area under the ROC curve: P(member's score > other's) + ½ P(equal) (Mann & Whitney 1947)."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left") + np.searchsorted(ordered, members, side="right")
    return float(below.mean() / (2 * len(others)))


def true_positive_rate(members: Float, others: Float, false_positives: float = FALSE_POSITIVES) -> float:
    """Return the share of members above the threshold that `false_positives` of the others exceed (2112.03570)."""
    allowed = int(np.floor(false_positives * len(others) + 1e-9))
    if allowed >= len(others):
        return 1.0
    return float((members > np.partition(others, len(others) - 1 - allowed)[len(others) - 1 - allowed]).mean())


def membership_tests(
    name: str, scores: Mapping[str, Scores], *, held: int | None = None, seed: int = 0
) -> list[Outcome]:
    """Test the AUC and the TPR at 1 % FPR of each score; members and others are resampled 1,000 times.

    Args:
        held: hold-out images that there are. If the others are all of them, more would decide what is open.
    """
    tests = []
    for score, values in scores.items():
        tests += _both(f"membership of the {name}, {score}", values, len(values.others) == held, seed)
    return tests


def _both(name: str, scores: Scores, of_held: bool, seed: int) -> list[Outcome]:
    members, others = scores.members, scores.others
    areas, rates = np.empty(REPLICATES), np.empty(REPLICATES)
    for number, generator in enumerate(generators(seed)):
        ours, theirs = members[resampled(len(members), generator)], others[resampled(len(others), generator)]
        areas[number], rates[number] = area_under_curve(ours, theirs), true_positive_rate(ours, theirs)
    note = f"{len(members)} of T, {len(others)} of H"
    area = area_under_curve(members, others)
    ends = percentile_ends(areas)
    tests = [
        decide(f"{name}: AUC", area, ends, AUC_FAIL, harmless=AUC_HARMLESS, note=note, of_held=of_held),
    ]
    rated = f"{name}: TPR at 1 % FPR"
    if len(others) < FEWEST:
        few = FewHeld(FEWEST / len(others)) if of_held else None
        return [
            *tests,
            not_run(rated, f"{counted(len(others), 'hold-out image')}: one per cent needs at least {FEWEST}", few),
        ]
    rate = true_positive_rate(members, others)
    ends = widened(percentile_ends(rates), round(rate * len(members)), len(members))
    return [*tests, decide(rated, rate, ends, TPR_FAIL, note=note, of_held=of_held)]
