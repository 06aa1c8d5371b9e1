"""Prototypes of each class in latent space: centroids which decode to no member (DESIGN §6, METHOD §1)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
POOLED_SIDE = 8


@dataclass(frozen=True)
class ClassPrototypes:
    """K prototypes of one class in greedy order: a prefix is a good smaller set.

    Args:
        latents: [K, C, h, w] float32. counts: members of each. members: [n], the prototype of every image.
    """

    latents: Float32
    counts: tuple[int, ...]
    members: Int64


def cluster_features(latents: Float32) -> Float32:
    """Latents [n, C, h, w] → [n, C·8·8]: average-pooled to 8×8, L2-normalised (METHOD §1, item 2)."""
    n, c, h, w = latents.shape
    side = min(POOLED_SIDE, h)
    pooled = latents.reshape(n, c, side, h // side, side, w // side).mean(axis=(3, 5)).reshape(n, -1)
    normalised: Float32 = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-8)
    return normalised


def merge_small_clusters(features: Float32, members: Int64, k_min: int) -> Int64:
    """Dissolve clusters with fewer than `k_min` members, smallest first, into the nearest other cluster."""
    members = members.copy()
    while True:
        names, counts = np.unique(members, return_counts=True)
        if len(names) == 1 or counts.min() >= k_min:
            return np.searchsorted(names, members).astype(np.int64)
        small = names[counts.argmin()]
        others = names[names != small]
        means = np.stack([features[members == name].mean(axis=0) for name in (small, *others)])
        members[members == small] = others[np.square(means[1:] - means[0]).sum(axis=1).argmin()]


def greedy_order(features: Float32, members: Int64, centres: Float32) -> Int64:
    """Order of the clusters by facility location: each next one brings the images closest on average."""
    distances = np.linalg.norm(features[:, None] - centres[None], axis=2)  # [n, K]
    covered = np.full(len(features), np.inf, np.float32)
    order: list[int] = []
    for _ in range(len(centres)):
        totals = np.minimum(covered[:, None], distances).sum(axis=0)
        totals[order] = np.inf
        order.append(int(totals.argmin()))
        covered = np.minimum(covered, distances[:, order[-1]])
    return np.array(order, np.int64)


def find_centroids(latents: Float32, *, count: int, k_min: int, seed: int) -> ClassPrototypes | None:
    """Mean latents of at most `count` clusters with at least `k_min` members each; None where n < k_min.

    Args:
        latents: [n, C, h, w] of one class, scaled, of n different images: ten copies of one are one.
        k_min: at least 2, since the mean of one latent is that latent.
    """
    if k_min < 2:
        raise ValueError(f"k_min is {k_min}: a prototype of one image is that image")
    count = min(count, len(latents) // k_min)
    if count < 1:
        return None
    features = cluster_features(latents)
    members = KMeans(count, n_init=3, random_state=seed).fit_predict(features).astype(np.int64)
    members = merge_small_clusters(features, members, k_min)
    clusters = int(members.max()) + 1
    centres = np.stack([features[members == k].mean(axis=0) for k in range(clusters)])
    order = greedy_order(features, members, centres)
    rank = np.empty(clusters, np.int64)
    rank[order] = np.arange(clusters)
    members = rank[members]
    means = np.stack([latents[members == k].mean(axis=0) for k in range(clusters)])
    return ClassPrototypes(np.ascontiguousarray(means, np.float32), tuple(np.bincount(members).tolist()), members)
