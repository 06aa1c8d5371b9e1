"""Membership by likelihood ratio: how a score of an image differs between runs with it and runs without it.

Shadow runs are trained on random parts of T (Carlini et al. 2022, algorithm 1). Each run is the target once, and the
others are its shadows. With so few runs one variance is taken for all images of a class (§VI.C there).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpd_eval.audit.bootstrap import REPLICATES, generators, percentile_ends, resampled
from dpd_eval.audit.membership import FALSE_POSITIVES, true_positive_rate
from dpd_eval.audit.outcome import Ends
from dpd_runtime.annotations import Int64

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
LEAST_DEVIATION = 1e-6


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

    def standard(self) -> Float:
        """Scores with mean 0 and deviation 1 in each class of each run, as runs differ in more than their images."""
        scores = self.scores.copy()
        for columns in _of_class(self.labels):
            part = scores[:, columns]
            scores[:, columns] = (part - part.mean(1, keepdims=True)) / (part.std(1, keepdims=True) + LEAST_DEVIATION)
        return scores


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


def ratios(runs: Runs, seed: int = 0) -> Float:
    """ln p(score | member) − ln p(score | not a member) [R, n], each run judged by the others; both normal."""
    log_ratios = np.empty_like(runs.scores)
    for target, (score, inside, outside) in enumerate(_targets(runs, seed)):
        log_ratios[target] = inside.log_density(score) - outside.log_density(score)
    return log_ratios


def excesses(runs: Runs, seed: int = 0) -> Float:
    """Standard deviations [R, n] by which a score is above those of runs without the image (the off-line attack)."""
    deviations = np.empty_like(runs.scores)
    for target, (score, _, outside) in enumerate(_targets(runs, seed)):
        deviations[target] = (score - outside.mean) / np.sqrt(outside.variance)
    return deviations


@dataclass(frozen=True)
class _Expected:
    """Mean and variance [n] of a new score."""

    mean: Float
    variance: Float

    def log_density(self, score: Float) -> Float:
        log_densities: Float = -0.5 * (np.square(score - self.mean) / self.variance + np.log(self.variance))
        return log_densities


def _targets(runs: Runs, seed: int) -> Iterator[tuple[Float, _Expected, _Expected]]:
    """For each run its scores [n], and what the other runs with and without each image let expect.

    On both sides of every image equally many runs are used. Without the target there is one fewer on the side of the
    truth, which would give it away.
    """
    scores, rng = runs.standard(), np.random.default_rng(seed)
    used = min(int(runs.members.sum(0).min()), int((~runs.members).sum(0).min())) - 1
    for target, score in enumerate(scores):
        shadows = np.arange(len(scores)) != target
        sides = (runs.members[shadows], ~runs.members[shadows])
        inside, outside = (_expected(scores[shadows], part, used, runs.labels, rng) for part in sides)
        yield score, inside, outside


def _expected(scores: Float, part: Bool, used: int, labels: Int64, rng: np.random.Generator) -> _Expected:
    """What to expect where `part` [S, n] is true: the mean of `used` runs, and one variance for each class."""
    order = np.where(part, rng.random(part.shape), 2.0)
    chosen = np.argsort(order, axis=0)[:used]
    mean = np.take_along_axis(scores, chosen, axis=0).mean(axis=0)
    count = part.sum(axis=0)
    own = np.where(part, scores, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(part, np.square(scores - own), 0.0).sum(axis=0)
    variance = np.empty(len(labels))
    for columns in _of_class(labels):
        free = int(np.maximum(count[columns] - 1, 0).sum())
        variance[columns] = max(squares[columns].sum() / max(1, free), LEAST_DEVIATION**2)
    return _Expected(mean, variance * (1 + 1 / used))


def _of_class(labels: Int64) -> list[Bool]:
    return [labels == label for label in np.unique(labels)]


def rate_of(scores: Float, asked: Bool, others: Bool, seed: int = 0) -> tuple[float, Ends]:
    """TPR at 1 % FPR, the mean over runs, and its 95 % interval: images are resampled, runs are not.

    Args:
        scores: [R, n], higher for likely members. asked: [R, n], members that should be recognised. others: [R, n],
            images that the run did not see.
    """

    def rate(rows: Int64) -> float:
        drawn = zip(scores[:, rows], asked[:, rows], others[:, rows], strict=True)
        rates = [true_positive_rate(run[ours], run[theirs], FALSE_POSITIVES) for run, ours, theirs in drawn]
        return float(np.mean(rates))

    count = scores.shape[1]
    values = np.array([rate(resampled(count, generator)) for generator in generators(seed, REPLICATES)])
    return rate(np.arange(count)), percentile_ends(values)
