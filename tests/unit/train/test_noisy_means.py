"""The noise on prototypes: (ε, δ) against the integral of the privacy loss, sensitivity against replaced members."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from dpd_train.prototypes import (
    DELTA,
    ClassPrototypes,
    clipped,
    delta_of,
    epsilon_of,
    find_centroids,
    find_prototypes,
    guarantee,
    norm_limit,
    with_noise,
)


def delta_by_integration(epsilon: float, shift: float) -> float:
    """∫ max(0, p − e^ε q) of two normal densities a shift apart: the definition of δ, without Φ."""
    crossing = shift / 2 + epsilon / shift  # where p = e^ε q, for p at `shift` and q at 0

    def lost(x: float) -> float:
        return float(stats.norm.pdf(x - shift) - math.exp(epsilon) * stats.norm.pdf(x))

    return float(integrate.quad(lost, crossing, crossing + 40, epsabs=1e-14, limit=400)[0])


@pytest.mark.parametrize("shift", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 8.0])
def test_delta_is_the_integral_of_the_privacy_loss(epsilon: float, shift: float) -> None:
    assert delta_of(epsilon, shift) == pytest.approx(delta_by_integration(epsilon, shift), rel=1e-6, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 60), st.floats(1e-9, 0.1))
def test_epsilon_is_the_smallest_that_keeps_delta(shift: float, delta: float) -> None:
    epsilon = epsilon_of(delta, shift)
    assert delta_of(epsilon, shift) <= delta * (1 + 1e-9)
    if epsilon:
        assert delta_of(0.999 * epsilon, shift) > delta


def test_known_values() -> None:
    """δ(0) is the total variation distance of two normals; the classical bound (Dwork & Roth, Theorem A.1) is above."""
    assert delta_of(0.0, 1.0) == pytest.approx(2 * stats.norm.cdf(0.5) - 1)
    for epsilon in (0.2, 0.9):
        classical = math.sqrt(2 * math.log(1.25 / DELTA)) / epsilon
        assert epsilon_of(DELTA, 1 / classical) < epsilon


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 9))
def test_a_replaced_member_moves_the_mean_no_further_than_the_sensitivity(seed: int, members: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(members, 4, 4, 4)).astype(np.float32) * rng.uniform(0.1, 50)
    other = rows.copy()
    other[-1] = -rows[0] * 1000
    limit = norm_limit(64)
    moved = np.linalg.norm(clipped(rows, limit).mean(axis=0) - clipped(other, limit).mean(axis=0))
    assert moved <= 2 * limit / members * (1 + 1e-5)
    assert np.linalg.norm(clipped(rows, limit).reshape(members, -1), axis=1).max() <= limit * (1 + 1e-5)
    small = rows / np.abs(rows).max()
    np.testing.assert_array_equal(clipped(small, limit), small)


def _latents(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("kind", ["centroid", "pooled"])
def test_noise_has_its_deviation_around_the_clipped_means(kind: str) -> None:
    latents = _latents(60)
    (found,) = find_prototypes(kind, [latents], count=4, k_min=5, seed=0)  # type: ignore[arg-type]
    assert found is not None
    silent = with_noise(found, latents, 0.0, np.random.default_rng(0))
    noisy = with_noise(found, latents, 0.3, np.random.default_rng(0))
    assert noisy.latents.shape == found.latents.shape
    assert noisy.latents.dtype == np.float32
    assert (noisy.latents - silent.latents).std() == pytest.approx(0.3, rel=0.1)
    assert noisy.counts == found.counts
    if kind == "pooled":  # block means are shorter than √n, so that none is clipped
        np.testing.assert_allclose(silent.latents, found.latents, atol=1e-6)


def test_guarantee_is_that_of_the_smallest_cluster() -> None:
    found = find_centroids(_latents(60), count=4, k_min=5, seed=0)
    assert found is not None
    told = guarantee([None, found], 2.0)
    assert told is not None
    assert told["members"] == min(found.counts)
    assert told["norm_limit"] == 32.0
    assert told["delta"] == DELTA
    shift = 2 * 32.0 / min(found.counts) / 2.0
    assert delta_by_integration(told["epsilon"], shift) == pytest.approx(DELTA, rel=1e-3)
    assert guarantee([None], 2.0) is None
    larger = ClassPrototypes(found.latents, tuple(10 * n for n in found.counts), found.members)
    less = guarantee([larger], 2.0)
    assert less is not None
    assert less["epsilon"] < told["epsilon"]
