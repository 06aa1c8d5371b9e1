"""KID, compared with loops, scikit-learn's kernel, the closed form for Gaussians, and the spread over many samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import polynomial_kernel

from dpd_eval.metrics import cubic_kernel, kernel_distance, squared_mmd
from dpd_runtime.errors import InputError


def cloud(seed, count, dimensions=8, shift=0.0):
    return (np.random.default_rng(seed).standard_normal((count, dimensions)) + shift).astype(np.float32)


def expected_kernel(mu, nu):
    """E (x·y / D + 1)³ for independent x ~ N(mu, 1), y ~ N(nu, 1) in D dimensions, from the moments of x·y."""
    d, m, a, b = len(mu), mu @ nu, mu @ mu, nu @ nu
    second = m**2 + a + b + d
    third = m**3 + 3 * m * (a + b + d + 2)
    return third / d**3 + 3 * second / d**2 + 3 * m / d + 1


def expected_distance(mu, nu):
    return expected_kernel(mu, mu) + expected_kernel(nu, nu) - 2 * expected_kernel(mu, nu)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 7), m=st.integers(2, 7), d=st.integers(1, 5), seed=st.integers(0, 1000))
def test_squared_mmd_equals_the_sum_over_pairs(n, m, d, seed):
    x, y = cloud(seed, n, d).astype(float), cloud(seed + 5000, m, d, 0.5).astype(float)

    def k(a, b):
        return (float(np.dot(a, b)) / d + 1) ** 3

    within_x = [k(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
    within_y = [k(y[i], y[j]) for i in range(m) for j in range(m) if i != j]
    across = [k(a, b) for a in x for b in y]
    expected = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across)
    assert squared_mmd(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_kernel_equals_scikit_learn():
    x, y = cloud(0, 6).astype(float), cloud(1, 9).astype(float)
    np.testing.assert_allclose(cubic_kernel(x, y), polynomial_kernel(x, y, degree=3, gamma=1 / 8, coef0=1), rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_it_is_unbiased_whatever_the_sizes(shift):
    """The mean over 400 small samples equals the closed form within 4 standard errors; the biased estimate does not."""
    found, biased = [], []
    for seed in range(400):
        x, y = cloud([seed, 0], 12, shift=shift).astype(float), cloud([seed, 1], 20).astype(float)
        found.append(squared_mmd(x, y))
        biased.append(cubic_kernel(x, x).mean() + cubic_kernel(y, y).mean() - 2 * cubic_kernel(x, y).mean())
    expected = expected_distance(np.full(8, shift), np.zeros(8))
    error = np.std(found, ddof=1) / 20
    assert abs(np.mean(found) - expected) < 4 * error
    assert abs(np.mean(biased) - expected) > 20 * error


def test_halves_of_one_cloud_are_at_zero_and_a_shifted_one_is_not():
    both = cloud(3, 400, 16)
    same = kernel_distance(both[:200], both[200:], seed=0)
    assert abs(same.mean) < 2 * same.std
    moved = kernel_distance(both[:200] + np.float32(0.3), both[200:], seed=0)
    assert moved.mean > 4 * moved.std
    assert moved.mean == pytest.approx(expected_distance(np.full(16, 0.3), np.zeros(16)), abs=4 * moved.std)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 1.0, 2.2), (0.5, 0.75, 1.35)])
@pytest.mark.parametrize("count", [100, 1500])
def test_the_spread_it_reports_is_that_of_other_draws(shift, low, high, count):
    """Compare the reported std with the true one over 60 samples, for equal and for very different sizes."""
    found = [
        kernel_distance(cloud([seed, 0], 100, shift=shift), cloud([seed, 1], count), seed, subsets=40, largest=200)
        for seed in range(60)
    ]
    ratio = np.mean([one.std for one in found]) / np.std([one.mean for one in found], ddof=1)
    assert low < ratio < high


def test_same_seed_same_figures_and_the_subsets_are_what_it_says():
    x, y = cloud(1, 30), cloud(2, 900)
    first, again, other = (kernel_distance(x, y, seed, largest=300) for seed in (4, 4, 5))
    assert first == again != other
    assert (first.subsets, first.subset_sizes) == (100, (15, 300))


def test_cubes_of_large_features_are_summed_in_double_precision():
    x, y = cloud(0, 40) * np.float32(300), cloud(1, 60) * np.float32(300)
    assert kernel_distance(x, y, 0) == kernel_distance(x.astype(float), y.astype(float), 0)


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="KID of 3 images: it needs at least 4"):
        kernel_distance(cloud(0, 3), cloud(1, 50), 0)
    with pytest.raises(InputError, match="at least 2"):
        kernel_distance(cloud(0, 9), cloud(1, 50), 0, subsets=1)
