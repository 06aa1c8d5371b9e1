"""Precision, recall, density and coverage, compared with loops over single points and with known limits."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from dpd_eval import metrics as module
from dpd_eval.metrics import Prdc, neighbour_shares, squared_radii
from dpd_runtime.errors import InputError


def cloud(seed, count, dimensions=4, shift=0.0):
    return (np.random.default_rng(seed).standard_normal((count, dimensions)) + shift).astype(np.float32)


def by_hand(generated, reference, k):
    """Compute the definitions point by point."""

    def distance(a, b):
        return sum((float(u) - float(v)) ** 2 for u, v in zip(a, b, strict=True)) ** 0.5

    def radius(points, i):
        return sorted(distance(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    real_balls = [(p, radius(reference, i)) for i, p in enumerate(reference)]
    our_balls = [(p, radius(generated, i)) for i, p in enumerate(generated)]
    held = [[distance(g, centre) < r for centre, r in real_balls] for g in generated]
    recalled = [any(distance(p, centre) < r for centre, r in our_balls) for p in reference]
    covered = [any(row[i] for row in held) for i in range(len(reference))]
    return Prdc(
        precision=sum(map(any, held)) / len(generated),
        recall=sum(recalled) / len(reference),
        density=sum(map(sum, held)) / (k * len(generated)),
        coverage=sum(covered) / len(reference),
    )


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(6, 14),
    m=st.integers(6, 20),
    k=st.integers(1, 5),
    shift=st.sampled_from([0.0, 0.7, 1.5]),
    far=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_it_equals_the_definition(n, m, k, shift, far, seed):
    generated, reference = cloud(seed, n, shift=shift + far), cloud(seed + 5000, m, shift=far)
    found, expected = neighbour_shares(generated, reference, neighbours=k), by_hand(generated, reference, k)
    np.testing.assert_allclose(
        [found.precision, found.recall, found.density, found.coverage],
        [expected.precision, expected.recall, expected.density, expected.coverage],
        atol=1e-12,
    )


def test_radii_equal_scikit_learn_in_any_blocks(monkeypatch):
    points = cloud(1, 101, 7)
    expected = NearestNeighbors(n_neighbors=5).fit(points).kneighbors()[0][:, -1]
    for numbers in (module.BLOCK_NUMBERS, 1000, 1):
        monkeypatch.setattr(module, "BLOCK_NUMBERS", numbers)
        np.testing.assert_allclose(squared_radii(points.astype(float), 5) ** 0.5, expected, rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_a_set_equal_to_the_reference_has_all_four_at_one(offset):
    """Every sphere passes through a point of the other side, so a rounding error either way would change density."""
    points = cloud(2, 300, 32, shift=offset)
    found = neighbour_shares(points[::-1].copy(), points)
    assert found == Prdc(1.0, 1.0, pytest.approx(1.0), 1.0)


def test_two_halves_of_one_cloud_are_near_one_and_clouds_apart_at_zero():
    points = cloud(3, 1600, 8)
    halves = neighbour_shares(points[:800], points[800:])
    assert min(halves.precision, halves.recall, halves.coverage) > 0.85
    assert halves.density == pytest.approx(1, abs=0.1)
    assert neighbour_shares(points[:800] + np.float32(50), points[800:]) == Prdc(0.0, 0.0, 0.0, 0.0)


def test_a_duplicated_set_is_precise_and_recalls_little():
    """Ten of a hundred images, ten copies each: all are real, and almost nothing is covered."""
    reference = cloud(4, 1000, 8)
    varied, copies = reference[:100], np.repeat(reference[:10], 10, axis=0)
    whole, found = neighbour_shares(varied, reference), neighbour_shares(copies, reference)
    assert found.precision == whole.precision == 1
    assert found.recall == 0  # a ball of radius 0 contains nothing
    assert found.coverage < 0.2 * whole.coverage
    assert whole.recall > 0.5


def test_copies_are_at_distance_zero_exactly():
    """With rounding errors, a ball around six copies would contain the original only by chance."""
    copies = np.repeat(cloud(7, 40, 128) * np.float32(1000), 6, axis=0)
    assert (squared_radii(copies.astype(float), 5) == 0).all()
    found = neighbour_shares(copies[::6].copy(), copies)
    assert (found.precision, found.density, found.coverage) == (0, 0, 0)  # balls of radius 0 are empty


def test_distances_are_never_held_all_at_once():
    """A distance matrix of 6,000 × 6,000 would be 288 MB; 12,000 × 12,000 uses the same blocks."""
    generated, reference = cloud(5, 500, 128), cloud(6, 6000, 128)
    tracemalloc.start()
    neighbour_shares(generated, reference)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="of 5 generated images: they need more than 5"):
        neighbour_shares(cloud(0, 5), cloud(1, 50))
    with pytest.raises(InputError, match="of 5 reference images"):
        neighbour_shares(cloud(0, 50), cloud(1, 5))
