"""k-means: the image nearest to the centroid of each of `count` clusters."""

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dpd_eval.selection.method import Features, Method, Rows

SEED = 0
STARTS = 10  # k-means++ starts; the one with the lowest inertia is used


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose the member nearest to the centroid of each k-means cluster, larger clusters first.

    Ties go to the lower row. The seed is fixed. Another count makes other clusters, so a smaller choice is NOT a
    prefix of a larger one. If a class has fewer different images than `count`, copies are added at the end.
    """
    from sklearn.cluster import KMeans  # slow to import

    points = features.astype(np.float64)
    clusters = min(count, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # the order of summation depends on the threads
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
