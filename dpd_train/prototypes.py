"""Prototypes: means and members of a class, and noise on means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32, Int64
from dpd_runtime.sampler import PrototypeKind

# -- Prototypes of each class in latent space (docs/reference/training-method.md).
#
# `centroid` and `pooled` are means of latents; `medoid` is the latent of a real image, and private.


POOLED_SIDE = 8
LARGE_CLASS = 20_000  # images above which mini-batch k-means is used: full k-means reads all of them in each iteration
CHUNK = 1024


@dataclass(frozen=True)
class ClassPrototypes:
    """K prototypes of one class in greedy order: a prefix is a good smaller set.

    Args:
        latents: [K, C, h, w] float32; block means have smaller sides.
        counts: members of each prototype. members: [n], the prototype of each image, -1 if it was dropped.
    """

    latents: Float32
    counts: tuple[int, ...]
    members: Int64


def largest_divisor(side: int, limit: int) -> int:
    """The largest divisor of `side` up to `limit`, at least 1."""
    return next(n for n in range(max(1, min(side, limit)), 0, -1) if side % n == 0)


def block_means(latents: Float32, side: int) -> Float32:
    """P of the pooled prototypes: [n, C, h, w] averaged to [n, C, side, side]; h = w is a multiple of `side`."""
    n, c, h, w = latents.shape
    means: Float32 = latents.reshape(n, c, side, h // side, side, w // side).mean(axis=(3, 5))
    return means


def at_full_size(prototypes: Float32, side: int) -> Float32:
    """Prototypes as [K, C, side, side]: block means are repeated, whole latents unchanged."""
    factor = side // prototypes.shape[2]
    return np.ascontiguousarray(prototypes.repeat(factor, axis=2).repeat(factor, axis=3))


def pooled_side(side: int) -> int:
    """Side of a `pooled` prototype for latents of `side`: blocks of at least 4×4, at most 8 of them along an axis."""
    return largest_divisor(side, min(POOLED_SIDE, side // 4))


def cluster_features(latents: Float32) -> Float32:
    """Latents [n, C, h, w] → [n, C·8·8]: average-pooled to 8×8, L2-normalised (arXiv 2601.15829)."""
    pooled = block_means(latents, largest_divisor(latents.shape[2], POOLED_SIDE)).reshape(len(latents), -1)
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
    """Greedy order of the clusters (facility location): each next one lowers the mean distance of the images most."""
    starts = range(0, len(features), CHUNK)
    parts = [np.linalg.norm(features[i : i + CHUNK, None] - centres[None], axis=2) for i in starts]
    distances = np.concatenate(parts)  # [n, K]
    covered = np.full(len(features), np.inf, np.float32)
    order: list[int] = []
    for _ in range(len(centres)):
        totals = np.minimum(covered[:, None], distances).sum(axis=0)
        totals[order] = np.inf
        order.append(int(totals.argmin()))
        covered = np.minimum(covered, distances[:, order[-1]])
    return np.array(order, np.int64)


def find_members(features: Float32, *, count: int, k_min: int, seed: int) -> Int64 | None:
    """The cluster of every image of one class, from 0 on: at most `count`, each with at least `k_min` members.

    None if there are fewer images. Above LARGE_CLASS images mini-batch k-means is used (Sculley 2010).
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # here, as the checks of dpd private need none of it

    count = min(count, len(features) // k_min)
    if count < 1:
        return None
    if len(features) > LARGE_CLASS:
        batch = max(4096, 8 * count)
        clustering = MiniBatchKMeans(count, n_init=3, random_state=seed, batch_size=batch)
    else:
        clustering = KMeans(count, n_init=10, random_state=seed)  # as the paper
    return merge_small_clusters(features, clustering.fit_predict(features).astype(np.int64), k_min)


def _means(values: Float32, members: Int64) -> Float32:
    return np.stack([values[members == k].mean(axis=0) for k in range(int(members.max()) + 1)])


def _ordered(features: Float32, members: Int64, places: Float32) -> tuple[Int64, Int64]:
    """Members renumbered by the greedy order of their clusters with centres `places` [K, d]; and that order."""
    order = greedy_order(features, members, places)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[members], order


def find_centroids(latents: Float32, *, count: int, k_min: int, seed: int) -> ClassPrototypes | None:
    """Mean latents of at most `count` clusters with at least `k_min` members each; None if n < k_min.

    Args:
        latents: [n, C, h, w], scaled, of n different images of one class, without copies.
        k_min: at least 2, since the mean of one latent is that latent.
    """
    if k_min < 2:
        raise ValueError(f"k_min is {k_min}: a prototype of one image is that image")
    features = cluster_features(latents)
    members = find_members(features, count=count, k_min=k_min, seed=seed)
    if members is None:
        return None
    members, _ = _ordered(features, members, _means(features, members))
    means = np.ascontiguousarray(_means(latents, members), np.float32)
    return ClassPrototypes(means, tuple(np.bincount(members).tolist()), members)


def discriminative_members(features: Float32, members: Int64, others: Float32, alpha: float = 1.0) -> Int64:
    """For each cluster [K] the member that is typical of it and far from other classes.

    It maximises min over μ_other of ‖f − μ_other‖, minus α ‖f − μ_own‖ (arXiv 2601.15829). α = 1 as in the
    public code, which compares with centres of the same class; here they are those of the other classes.

    Args:
        features: [n, d]. members: [n]. others: [m, d], the cluster centres of all other classes.
    """
    from sklearn.metrics import euclidean_distances

    own = _means(features, members)
    margins = np.empty(len(features))
    for i in range(0, len(features), CHUNK):
        part = features[i : i + CHUNK]
        near = np.linalg.norm(part - own[members[i : i + CHUNK]], axis=1)
        margins[i : i + CHUNK] = euclidean_distances(part, others).min(axis=1) - alpha * near
    rows = [np.flatnonzero(members == k) for k in range(len(own))]
    return np.array([r[margins[r].argmax()] for r in rows], np.int64)


def _medoids(latents: Float32, centroids: ClassPrototypes, others: Float32) -> ClassPrototypes:
    """The clusters of `centroids`, each represented by a real image's latent, in greedy order."""
    features = cluster_features(latents)
    chosen = discriminative_members(features, centroids.members, others)
    members, order = _ordered(features, centroids.members, features[chosen])
    picked = np.ascontiguousarray(latents[chosen[order]], np.float32)
    return ClassPrototypes(picked, tuple(np.bincount(members).tolist()), members)


def find_prototypes(
    kind: PrototypeKind, latents: Sequence[Float32], *, count: int, k_min: int, seed: int
) -> list[ClassPrototypes | None]:
    """Prototypes of each class; None for a class with fewer than `k_min` images, and for kind `none`.

    Args:
        latents: for each class [n, C, h, w], scaled, without copies.
    """
    if kind == "none":
        return [None] * len(latents)
    centroids = [find_centroids(values, count=count, k_min=k_min, seed=seed) for values in latents]
    if kind == "pooled":
        side = pooled_side(latents[0].shape[2])
        return [p and replace(p, latents=block_means(p.latents, side)) for p in centroids]
    if kind == "medoid":
        features = [cluster_features(values) for values in latents]
        one = [np.zeros(len(values), np.int64) for values in latents]  # a class without clusters counts as one
        centres = [_means(f, p.members if p else o) for f, p, o in zip(features, centroids, one, strict=True)]
        others = [np.concatenate(centres[:i] + centres[i + 1 :]) for i in range(len(centres))]
        return [p and _medoids(v, p, o) for v, p, o in zip(latents, centroids, others, strict=True)]
    return list(centroids)


# -- Herding: rows, chosen greedily, whose mean is near a given one.


Floats = NDArray[np.float32] | NDArray[np.float64]


def herded(vectors: Floats, mean: Floats, count: int) -> list[int]:
    """Choose p_k = argmin over x not yet chosen of ‖mean − (x + Σ_{j<k} p_j) / k‖; ties go to the lower row.

    Herding (Welling 2009) in iCaRL's form (Rebuffi et al. 2017, algorithm 4). Deterministic; a smaller count gives a
    prefix.

    Args:
        vectors: [n, D], n ≥ count. mean: [D].

    Returns:
        `count` different rows.
    """
    total, free, rows = np.zeros(vectors.shape[1]), np.ones(len(vectors), bool), []
    for k in range(1, count + 1):
        errors = ((k * mean - total - vectors) ** 2).sum(axis=1)
        rows.append(int(np.where(free, errors, np.inf).argmin()))
        free[rows[-1]] = False
        total += vectors[rows[-1]]
    return rows


# -- Gaussian noise on the means of clusters, and the (ε, δ) of one image if the clustering is given.
#
# The analytic Gaussian mechanism (Balle & Wang, ICML 2018, Theorem 8). Two data sets are neighbours if they differ in
# one image (replace-one) and have the same clusters: the clustering itself is not private.


DELTA = 1e-5
HALVINGS = 100


def norm_limit(values: int) -> float:
    """The norm that members are clipped to: √values, as of a latent of unit variance; independent of the data."""
    return math.sqrt(values)


def clipped(rows: Float32, limit: float) -> Float32:
    """[n, ...] with each row's L2 norm at most `limit`."""
    lengths = np.linalg.norm(rows.reshape(len(rows), -1), axis=1)
    factors = np.minimum(1.0, limit / np.maximum(lengths, 1e-12)).astype(np.float32)
    scaled: Float32 = rows * factors.reshape(-1, *[1] * (rows.ndim - 1))
    return scaled


def with_noise(
    prototypes: ClassPrototypes, latents: Float32, deviation: float, generator: np.random.Generator
) -> ClassPrototypes:
    """Means of the clipped members, with noise of this standard deviation on each value.

    Args:
        latents: [n, C, h, w] of the images of `prototypes.members`.
        generator: without a known seed, which would allow subtracting the noise.
    """
    rows = block_means(latents, prototypes.latents.shape[2])
    rows = clipped(rows, norm_limit(rows[0].size))
    means = np.stack(
        [rows[prototypes.members == k].mean(axis=0, dtype=np.float64) for k in range(len(prototypes.counts))]
    )
    noisy = means + deviation * generator.standard_normal(means.shape)
    return replace(prototypes, latents=np.ascontiguousarray(noisy, np.float32))


def delta_of(epsilon: float, shift: float) -> float:
    """δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) of Gaussian noise; μ = `shift` = sensitivity / standard deviation."""
    from scipy.special import log_ndtr  # type: ignore[import-untyped] # here, as the checks of dpd private need none of it

    first = log_ndtr(shift / 2 - epsilon / shift)
    second = epsilon + log_ndtr(-shift / 2 - epsilon / shift)
    return float(math.exp(first) * -math.expm1(min(0.0, second - first)))


def epsilon_of(delta: float, shift: float) -> float:
    """The smallest ε ≥ 0 with δ(ε) ≤ `delta`, from above, by bisection."""
    low, high = 0.0, shift**2 / 2 + shift * math.sqrt(2 * math.log(1 / delta))  # the tail bound of the privacy loss
    if delta_of(low, shift) <= delta:
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle, shift) <= delta else (middle, high)
    return high


def guarantee(prototypes: Sequence[ClassPrototypes | None], deviation: float) -> dict[str, Any] | None:
    """The (ε, δ) of an image of the smallest cluster, for run.json; None without prototypes.

    Each image is in one cluster, so the guarantee of one prototype holds for all together (parallel composition).
    """
    there = [own for own in prototypes if own is not None]
    if not there:
        return None
    members, limit = min(min(own.counts) for own in there), norm_limit(there[0].latents[0].size)
    sensitivity = 2 * limit / members
    return {
        "epsilon": epsilon_of(DELTA, sensitivity / deviation),
        "delta": DELTA,
        "noise": deviation,
        "norm_limit": limit,
        "members": members,
        "neighbours": "one image replaced, the clustering and which prototypes are too near to an image given",
    }
