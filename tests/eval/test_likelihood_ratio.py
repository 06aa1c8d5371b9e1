"""Likelihood ratios of simulated runs, compared with what normal scores of known shift give."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.likelihood_ratio import Runs, balanced_parts, excesses, rate_of, ratios
from dpd_eval.audit.membership import area_under_curve, true_positive_rate

NORMAL = NormalDist()
LABELS = np.arange(4000) % 4


def simulated(shift: float, runs: int, seed: int = 0) -> Runs:
    """Scores = difficulty of the image + offset of the class in the run + shift of members + noise of deviation 1."""
    rng, members = np.random.default_rng(seed), balanced_parts(LABELS, runs, seed)
    difficulty, offsets = rng.normal(0, 3, len(LABELS)), rng.normal(0, 5, (runs, 4))
    scores = difficulty + offsets[:, LABELS] + shift * members + rng.normal(size=members.shape)
    return Runs(scores, members, LABELS)


@pytest.mark.parametrize("runs", [4, 6, 16])
def test_each_image_is_in_half_of_the_runs_and_each_run_has_half_of_each_class(runs: int) -> None:
    labels = np.repeat([0, 1, 2], (40, 7, 100))
    members = balanced_parts(labels, runs, 3)
    assert np.all(members.sum(axis=0) == runs // 2)
    for label, count in enumerate((40, 7, 100)):
        inside = members[:, labels == label].sum(axis=1)
        assert np.all(np.abs(inside - count / 2) <= (0 if count % 2 == 0 else 0.5))
    assert not np.array_equal(members, balanced_parts(labels, runs, 4))


def test_parts_need_four_runs_and_runs_two_on_each_side() -> None:
    for runs in (2, 5):
        with pytest.raises(ValueError, match="even number of at least 4"):
            balanced_parts(LABELS, runs, 0)
    members = balanced_parts(LABELS, 4, 0)
    members[:, 0] = [True, True, True, False]
    with pytest.raises(ValueError, match="at least two runs"):
        Runs(np.zeros(members.shape), members, LABELS)


def test_many_runs_reach_what_the_shift_allows() -> None:
    """With known means the best test sees a shift of d: TPR = 1 − Φ(z₀.₉₉ − d), whatever the difficulty."""
    found = simulated(2.0, 32)
    best = 1 - NORMAL.cdf(NORMAL.inv_cdf(0.99) - 2.0)
    for attack in (ratios, excesses):
        rate, (low, high) = rate_of(attack(found), found.members, ~found.members)
        assert rate == pytest.approx(best, abs=0.05)
        assert low < rate < high
    plain = np.mean([true_positive_rate(s[m], s[~m]) for s, m in zip(found.scores, found.members, strict=True)])
    assert plain < 0.1 < rate, "difficulty hides members from a score that is not calibrated"


def test_four_runs_see_less_and_still_see_it() -> None:
    """Of four runs the attack knows one score with the image and one without: differences have twice the variance."""
    found = simulated(3.0, 4)
    rate, _ = rate_of(excesses(found), found.members, ~found.members)
    assert rate == pytest.approx(1 - NORMAL.cdf(NORMAL.inv_cdf(0.99) - 3.0 / 2**0.5), abs=0.06)


NOISES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed to the right": lambda rng, shape: rng.exponential(size=shape),
    "skewed to the left": lambda rng, shape: -rng.exponential(size=shape),
    "of unequal size": lambda rng, shape: rng.normal(size=shape) * np.exp(rng.normal(size=shape[1])),
}


@pytest.mark.parametrize("attack", [ratios, excesses])
@pytest.mark.parametrize("noise", NOISES)
def test_nothing_is_found_where_members_score_as_others_do(
    noise: str, attack: Callable[[Runs], NDArray[np.float64]]
) -> None:
    """An attack that counted the other runs with an image would be right without looking at a score."""
    areas, rates = [], []
    for seed in range(3):
        rng, members = np.random.default_rng(seed), balanced_parts(LABELS, 4, seed)
        scores = rng.normal(0, 3, len(LABELS)) + NOISES[noise](rng, members.shape)
        found = attack(Runs(scores, members, LABELS))
        areas += [area_under_curve(f[m], f[~m]) for f, m in zip(found, members, strict=True)]
        rates += [true_positive_rate(f[m], f[~m]) for f, m in zip(found, members, strict=True)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.01)
    assert np.mean(rates) == pytest.approx(0.01, abs=0.003)


def test_a_ratio_is_that_of_the_densities() -> None:
    """Around means of 1 and 0 the ratio of two normal densities of equal variance is linear in the score."""
    members = balanced_parts(LABELS, 16, 0)
    rng = np.random.default_rng(0)
    scores = members + 0.5 * rng.normal(size=members.shape)
    found = ratios(Runs(scores, members, LABELS))
    expected = (scores - 0.5) / 0.25
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.85
    assert np.polyfit(expected.ravel(), found.ravel(), 1)[0] == pytest.approx(0.9, abs=0.1)
