"""k-means: one image from the middle of each of `count` clusters."""

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dpd_eval.selection.method import Features, Method, Rows

SEED = 0
STARTS = 10  # k-means++ starts, of which the tightest is taken


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Of each k-means cluster the member nearest to the centroid, larger clusters first, ties to the lower row.

    A fixed seed of its own. Another count makes other clusters: a smaller choice is NOT a prefix of a larger one.
    Where a class has fewer different images than `count`, copies fill the end.
    """
    points = features.astype(np.float64)
    clusters = min(count, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # threads would add up in any order
        found = KMeans(clusters, n_init=STARTS, random_state=SEED).fit(points)
    distances = ((points - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1)
    names, sizes = np.unique(found.labels_, return_counts=True)
    chosen = []
    for cluster in names[np.argsort(-sizes, kind="stable")]:
        members = np.flatnonzero(found.labels_ == cluster)
        chosen.append(members[distances[members].argmin()])
    rest = np.setdiff1d(np.arange(len(points)), chosen)
    return np.concatenate([chosen, rest[: count - len(chosen)]]).astype(np.int64)


K_MEANS = Method("k-means", sees="features", uses_seed=False, pick=pick)
