import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from dpd_eval.statistics import (
    average_accuracy,
    class_accuracy,
    cohen_kappa,
    confusion_matrix,
    fewest_pairs,
    fewest_repeats,
    overall_accuracy,
    paired_difference,
    ratio_verdict,
    t_interval,
)
from dpd_runtime.errors import InputError


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 5, 400)
    predicted = np.where(rng.random(400) < 0.6, true, rng.integers(0, 5, 400))
    return true, predicted


def test_figures_equal_scikit_learn(labels):
    true, predicted = labels
    confusion = confusion_matrix(true, predicted, 5)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(true, predicted))
    assert overall_accuracy(confusion) == pytest.approx(metrics.accuracy_score(true, predicted), abs=1e-12)
    assert average_accuracy(confusion) == pytest.approx(metrics.balanced_accuracy_score(true, predicted), abs=1e-12)
    assert cohen_kappa(confusion) == pytest.approx(metrics.cohen_kappa_score(true, predicted), abs=1e-12)


def test_closed_form_two_by_two():
    confusion = np.array([[40, 10], [20, 30]])
    assert overall_accuracy(confusion) == 0.7
    np.testing.assert_allclose(class_accuracy(confusion), [0.8, 0.6])
    assert average_accuracy(confusion) == pytest.approx(0.7)
    assert cohen_kappa(confusion) == pytest.approx((0.7 - 0.5) / 0.5)  # margins 50/50 and 60/40: p_e = 0.5


def test_chance_has_kappa_zero_and_empty_classes_do_not_count():
    assert cohen_kappa(np.full((4, 4), 7)) == pytest.approx(0.0)
    assert cohen_kappa(np.array([[9, 0], [0, 0]])) == 0.0
    with_empty = np.array([[5, 5], [0, 0]])
    assert math.isnan(class_accuracy(with_empty)[1])
    assert average_accuracy(with_empty) == 0.5


def test_interval_equals_scipy():
    values = [0.61, 0.66, 0.58, 0.7, 0.64]
    found = t_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.n == 5
    assert t_interval([0.5]).low is None


def test_half_width_of_design():
    """A standard deviation of 1 point gives ± 1.2 at n = 5."""
    values = np.array([-2.0, -1, 0, 1, 2]) / math.sqrt(2.5)
    found = t_interval(values.tolist())
    assert found.high is not None
    assert found.high == pytest.approx(1.24, abs=0.01)


def test_paired_difference_is_narrower_than_the_spread_of_its_sides():
    first, second = [0.50, 0.60, 0.70, 0.80], [0.48, 0.59, 0.68, 0.79]
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(0.015)
    assert found.low is not None
    assert found.low > 0
    assert stats.ttest_rel(first, second).pvalue < 0.05 < stats.ttest_ind(first, second).pvalue


@pytest.mark.parametrize(
    ("set_oas", "verdict"),
    [
        ([0.80, 0.81, 0.79, 0.80], "met"),
        ([0.60, 0.61, 0.59, 0.60], "not met"),
        ([0.60, 0.85, 0.65, 0.80], "not resolved"),
    ],
)
def test_ratio_verdict(set_oas, verdict):
    reference = [0.8, 0.8, 0.8, 0.8]
    found = ratio_verdict(set_oas, reference, 0.9)
    expected = np.array(set_oas) - 0.9 * np.array(reference)
    assert found.interval.mean == pytest.approx(expected.mean())
    assert found.verdict == verdict


def test_an_interval_which_ends_at_zero():
    """0.75 is exact in binary: a set at 0.75 of the reference, without spread, meets the ratio 0.75."""
    assert ratio_verdict([0.75] * 3, [1.0] * 3, 0.75).verdict == "met"


def test_one_pair_resolves_nothing_and_unequal_lengths_are_refused():
    assert ratio_verdict([0.9], [0.1], 0.9).verdict == "not resolved"
    with pytest.raises(InputError, match="3 values against 2"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="at least one"):
        paired_difference([], [])


def test_pairs_of_design():
    """At least 8 pairs at IPC 10 and 5 at IPC 50; smaller subsets vary more."""
    assert [fewest_pairs(ipc) for ipc in (1, 10, 11, 50)] == [8, 8, 5, 5]
    assert [fewest_repeats("pairs", ipc) for ipc in (10, 50)] == [8, 5]
    assert [fewest_repeats("bundles", ipc) for ipc in (1, 10, 11, 50)] == [5, 5, 3, 3]


def test_pairs_of_one_matching_run_count_once():
    """Students of one set share its luck: SciPy's interval of the runs' means, however many students each has."""
    runs = ["a", "b", "c"] * 3 + ["a"]
    gains = [0.02, 0.04, 0.1, 0.03, 0.03, 0.09, 0.01, 0.05, 0.11, 0.02]
    second = [0.6, 0.63, 0.61, 0.6, 0.64, 0.6, 0.62, 0.61, 0.6, 0.6]
    first = [gain + other for gain, other in zip(gains, second, strict=True)]
    by_run = [0.02, 0.04, 0.1]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(by_run), scale=stats.sem(by_run))
    found = paired_difference(first, second, runs)
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 3)
    goal = ratio_verdict(first, second, 1.0, runs)
    assert goal.interval.low == pytest.approx(low)
    assert goal.verdict == "not resolved"
    assert ratio_verdict(first, second, 1.0).verdict == "met"  # as if ten students were ten matching runs
    assert paired_difference(first, second, ["a"] * 10).low is None


def test_twenty_pairs_of_design_resolve_half_a_point():
    """A standard deviation of 1 point gives ± 0.5 at n = 20; coverage is checked on random samples."""
    drawn = np.random.default_rng(0).normal(0, 1, (2000, 20))
    intervals = [t_interval(sample.tolist()) for sample in drawn]
    halves = [(found.high - found.low) / 2 for found in intervals if found.high is not None and found.low is not None]
    assert np.mean(halves) == pytest.approx(0.47, abs=0.03)
    covered = [found.low <= 0 <= found.high for found in intervals if found.high is not None and found.low is not None]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)  # 3 standard deviations of a share of 2000
