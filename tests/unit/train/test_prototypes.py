"""Prototypes: no small cluster, no member shipped unless asked for, a useful order."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from dpd_train.prototypes import (
    LARGE_CLASS,
    cluster_features,
    find_centroids,
    find_members,
    find_prototypes,
    greedy_order,
    merge_small_clusters,
    pooled_side,
)


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


def _classes(seed: int = 0) -> list[np.ndarray]:
    """Three classes of 40 latents around six centres each, so that clusters are real."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, 6, 4, 8, 8))
    return [(c[rng.integers(6, size=40)] + 0.3 * rng.normal(size=(40, 4, 8, 8))).astype(np.float32) for c in centres]


def test_kinds_share_their_clusters() -> None:
    classes = _classes()
    found = {
        kind: find_prototypes(kind, classes, count=6, k_min=3, seed=0)
        for kind in ("centroid", "pooled", "medoid", "none")  # type: ignore[arg-type]
    }
    assert found["none"] == [None, None, None]
    for label, values in enumerate(classes):
        centroid, pooled, medoid = (found[kind][label] for kind in ("centroid", "pooled", "medoid"))
        assert centroid is not None
        assert pooled is not None
        assert medoid is not None
        alone = find_centroids(values, count=6, k_min=3, seed=0)
        assert alone is not None
        np.testing.assert_array_equal(centroid.latents, alone.latents)
        expected = torch.nn.functional.avg_pool2d(torch.from_numpy(centroid.latents), 4).numpy()
        np.testing.assert_allclose(pooled.latents, expected, atol=1e-6)
        assert pooled.counts == centroid.counts
        assert sorted(medoid.counts) == sorted(centroid.counts)
        for k, latent in enumerate(medoid.latents):  # each is one of its own members, to the bit
            rows = [row for row in np.flatnonzero(medoid.members == k) if np.array_equal(values[row], latent)]
            assert len(rows) == 1


def test_medoid_is_the_member_with_the_largest_margin_to_other_classes() -> None:
    """Written out with loops, against the clusters of all other classes."""
    classes = _classes(1)
    found = find_prototypes("medoid", classes, count=4, k_min=4, seed=0)
    centroids = find_prototypes("centroid", classes, count=4, k_min=4, seed=0)
    features = [cluster_features(values) for values in classes]
    for label, prototypes in enumerate(found):
        assert prototypes is not None
        others = [
            features[other][found_other.members == k].mean(axis=0)
            for other, found_other in enumerate(centroids)
            if other != label and found_other is not None
            for k in range(len(found_other.counts))
        ]
        for k, latent in enumerate(prototypes.latents):
            rows = np.flatnonzero(prototypes.members == k)
            own = features[label][rows].mean(axis=0)
            margins = [
                min(np.linalg.norm(features[label][row] - centre) for centre in others)
                - np.linalg.norm(features[label][row] - own)
                for row in rows
            ]
            np.testing.assert_array_equal(latent, classes[label][rows[int(np.argmax(margins))]])


def test_class_too_small_for_clusters_is_none_and_still_counts_as_another() -> None:
    classes = [*_classes()[:2], _classes(5)[0][:3]]
    found = find_prototypes("medoid", classes, count=4, k_min=4, seed=0)
    assert [p is None for p in found] == [False, False, True]


def test_a_prefix_covers_nearly_as_well_as_the_best_subset() -> None:
    """Greedy facility location is within 1 − 1/e of the best (Nemhauser et al. 1978); every subset is tried."""
    values = _classes(3)[0]
    found = find_centroids(values, count=6, k_min=3, seed=0)
    assert found is not None
    features = cluster_features(values)
    centres = np.stack([features[found.members == k].mean(axis=0) for k in range(len(found.counts))])
    distances = np.linalg.norm(features[:, None] - centres[None], axis=2)
    worst = distances.max()

    def coverage(chosen: Sequence[int]) -> float:
        return float((worst - distances[:, list(chosen)].min(axis=1)).sum())

    for size in range(1, len(centres)):
        best = max(coverage(subset) for subset in itertools.combinations(range(len(centres)), size))
        assert coverage(range(size)) >= (1 - 1 / np.e) * best


def test_large_classes_are_clustered_in_mini_batches_nearly_as_well() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 2, 2, 2))
    values = (
        centres[rng.integers(5, size=LARGE_CLASS + 1)] + 0.1 * rng.normal(size=(LARGE_CLASS + 1, 2, 2, 2))
    ).astype(np.float32)
    features = cluster_features(values)
    members = find_members(features, count=5, k_min=100, seed=0)
    assert members is not None
    assert members.max() == 4
    spread = sum(np.square(features[members == k] - features[members == k].mean(axis=0)).sum() for k in range(5))
    exact = KMeans(5, n_init=3, random_state=0).fit(features).inertia_
    assert spread < 1.05 * exact


@pytest.mark.parametrize(("side", "pooled"), [(64, 8), (32, 8), (16, 4), (12, 3), (8, 2), (4, 1), (2, 1)])
def test_pooled_prototypes_average_at_least_four_by_four(side: int, pooled: int) -> None:
    assert pooled_side(side) == pooled
    assert side % pooled_side(side) == 0
