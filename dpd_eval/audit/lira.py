"""Membership by likelihood ratio: how a score of an image differs between runs with it and runs without it.

Shadow runs are trained on random parts of T (Carlini et al. 2022, algorithm 1). Each run is the target once, and the
others are its shadows. With so few runs one variance is taken for all images (§VI.C there).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_eval.audit.bootstrap import REPLICATES, generators, percentile_ends, resampled
from dpd_eval.audit.membership import FALSE_POSITIVES, true_positive_rate
from dpd_eval.audit.outcome import Ends
from dpd_runtime.annotations import Int64

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
LEAST_VARIANCE = 1e-12


@dataclass(frozen=True)
class Runs:
    """Scores of n images in R runs, higher for likely members.

    Args:
        scores: [R, n]. members: [R, n], whether the run saw the image. labels: [n].

    Raises:
        ValueError: an image is in fewer than two runs, or outside fewer than two.
    """

    scores: Float
    members: Bool
    labels: Int64

    def __post_init__(self) -> None:
        if min(self.members.sum(0).min(), (~self.members).sum(0).min()) < 2:
            raise ValueError("every image must be in at least two runs, and outside at least two")

    def centred(self) -> Float:
        """Scores minus the mean of their class in their run, as runs differ in more than their images."""
        found = self.scores.copy()
        for label in np.unique(self.labels):
            columns = self.labels == label
            found[:, columns] -= found[:, columns].mean(axis=1, keepdims=True)
        return found


def balanced_parts(labels: Int64, runs: int, seed: int) -> Bool:
    """Members [runs, n]: each image is in half of the runs, chosen at random; each run has half of each class.

    Raises:
        ValueError: an odd number of runs, or fewer than four.
    """
    if runs < 4 or runs % 2:
        raise ValueError(f"{runs} runs: an even number of at least 4 is needed")
    rng, members = np.random.default_rng(seed), np.zeros((runs, len(labels)), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        for pair in range(0, len(rows), 2):
            inside = rng.permutation(runs) < runs // 2
            for row, part in zip(rows[pair : pair + 2], (inside, ~inside), strict=False):
                members[:, row] = part
    return members


def ratios(runs: Runs) -> Float:
    """ln p(score | member) − ln p(score | not a member) [R, n], each run judged by the others.

    Both densities are normal. Their variance is that of a new score around the mean of the few known ones.
    """
    scores, found = runs.centred(), np.empty_like(runs.scores)
    for target in range(len(scores)):
        shadows = np.arange(len(scores)) != target
        logs = [_log_density(scores[target], scores[shadows], part[shadows]) for part in (runs.members, ~runs.members)]
        found[target] = logs[0] - logs[1]
    return found


def excesses(runs: Runs) -> Float:
    """Standard deviations [R, n] by which a score is above those of runs without the image (the off-line attack)."""
    scores, found = runs.centred(), np.empty_like(runs.scores)
    for target in range(len(scores)):
        shadows = np.arange(len(scores)) != target
        mean, variance = _predicted(scores[shadows], ~runs.members[shadows])
        found[target] = (scores[target] - mean) / np.sqrt(variance)
    return found


def _predicted(scores: Float, part: Bool) -> tuple[Float, Float]:
    """Mean and variance [n] of a new score, given those [S, n] where `part` is true."""
    count = part.sum(axis=0)
    mean = np.where(part, scores, 0.0).sum(axis=0) / count
    squares = np.where(part, np.square(scores - mean), 0.0).sum()
    variance = max(squares / max(1, int((count - 1).sum())), LEAST_VARIANCE)
    return mean, variance * (1 + 1 / count)


def _log_density(score: Float, scores: Float, part: Bool) -> Float:
    mean, variance = _predicted(scores, part)
    found: Float = -0.5 * (np.square(score - mean) / variance + np.log(variance))
    return found


def rate_of(found: Float, asked: Bool, others: Bool, seed: int = 0) -> tuple[float, Ends]:
    """TPR at 1 % FPR, the mean over runs, and its 95 % interval; images are resampled.

    Args:
        found: [R, n], higher for likely members. asked: [R, n], members that should be recognised. others: [R, n],
            images that the run did not see.
    """

    def rate(rows: Int64) -> float:
        drawn = zip(found[:, rows], asked[:, rows], others[:, rows], strict=True)
        rates = [true_positive_rate(run[ours], run[theirs], FALSE_POSITIVES) for run, ours, theirs in drawn]
        return float(np.mean(rates))

    count = found.shape[1]
    values = np.array([rate(resampled(count, generator)) for generator in generators(seed, REPLICATES)])
    return rate(np.arange(count)), percentile_ends(values)
