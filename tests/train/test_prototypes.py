"""Centroids: no small cluster, no member shipped, a useful order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_train.prototypes import cluster_features, find_centroids, greedy_order, merge_small_clusters


def _latents(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4, 8, 8)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.integers(12, 60), st.integers(1, 12), st.integers(2, 12))
def test_every_prototype_is_the_mean_of_at_least_k_min_members(images: int, count: int, k_min: int) -> None:
    latents = _latents(images, images)
    found = find_centroids(latents, count=count, k_min=k_min, seed=0)
    assert found is not None
    assert len(found.counts) <= min(count, images // k_min)
    assert sum(found.counts) == images
    assert min(found.counts) >= k_min
    for k, mean in enumerate(found.latents):
        np.testing.assert_allclose(mean, latents[found.members == k].mean(axis=0), atol=1e-6)


def test_too_few_images_give_no_prototype_at_all() -> None:
    assert find_centroids(_latents(9), count=5, k_min=10, seed=0) is None
    with pytest.raises(ValueError, match="is that image"):
        find_centroids(_latents(9), count=5, k_min=1, seed=0)


def test_separated_groups_are_found() -> None:
    centres = _latents(3, 7) * 5
    latents = np.concatenate([centre + 0.01 * _latents(20, i) for i, centre in enumerate(centres)])
    found = find_centroids(latents, count=3, k_min=10, seed=0)
    assert found is not None
    assert found.counts == (20, 20, 20)
    for centre in centres:
        assert np.abs(found.latents - centre).max(axis=(1, 2, 3)).min() < 0.05


def test_small_clusters_join_their_nearest() -> None:
    features = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [4.0]], np.float32)
    members = merge_small_clusters(features, np.array([0, 0, 0, 1, 1, 1, 2]), k_min=2)
    assert members.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_order_begins_with_the_centre_of_the_largest_group() -> None:
    features = np.concatenate([np.zeros((30, 2)), np.full((5, 2), 3.0)]).astype(np.float32)
    members = np.array([1] * 30 + [0] * 5)
    assert greedy_order(features, members, np.array([[3.0, 3.0], [0.0, 0.0]], np.float32)).tolist() == [1, 0]


def test_features_are_pooled_and_of_unit_length() -> None:
    latents = np.random.default_rng(0).normal(size=(3, 4, 16, 16)).astype(np.float32)
    features = cluster_features(latents)
    assert features.shape == (3, 4 * 8 * 8)
    assert np.linalg.norm(features, axis=1) == pytest.approx(1.0, abs=1e-5)
    block = latents[0, 2, 4:6, 6:8].mean() / np.linalg.norm(latents.reshape(3, 4, 8, 2, 8, 2).mean((3, 5))[0])
    assert features[0].reshape(4, 8, 8)[2, 2, 3] == pytest.approx(block, rel=1e-4)
