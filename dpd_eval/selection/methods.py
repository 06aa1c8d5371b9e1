"""Selection methods of real images, their table, and the choice of images by one of them."""

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dpd_eval.extensions import extension_names, load_extension
from dpd_eval.selection.method import Features, Method, Rows, rows_by_class
from dpd_runtime.annotations import Int64
from dpd_runtime.errors import InputError
from dpd_train.images import SceneSet
from dpd_train.prototypes.herding import herded

K_MEANS_SEED = 0
K_MEANS_STARTS = 10  # of k-means++; the one with the lowest inertia is used


def random_rows(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose the first `count` of a random permutation. A smaller count with an equal generator gives a prefix."""
    return generator.permutation(len(features))[:count]


def herding(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose images whose mean φ is near the mean of φ over the class, as `herded` does; φ is the feature at length 1.

    Unlike in iCaRL, means are not rescaled to length 1, so the distance between the means itself is minimised.
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    return np.array(herded(unit, unit.mean(axis=0), count), np.int64)


def k_center(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose images such that every other one is close to a chosen one.

    This is farthest-first traversal in Euclidean distance (Gonzalez 1985; Sener & Savarese 2018, algorithm 1).

    The first image is the one nearest to the class mean; each next one is farthest from those already chosen, and
    ties go to the lower row. The largest distance to the nearest chosen image is at most twice the optimum.
    Deterministic; a smaller count gives a prefix.
    """
    points = features.astype(np.float64)
    best = int(_squared_distances(points, points.mean(axis=0)).argmin())
    gaps = np.full(len(points), np.inf)
    chosen = []
    for _ in range(count):
        chosen.append(best)
        gaps = np.minimum(gaps, _squared_distances(points, points[best]))
        gaps[chosen] = -1.0  # below 0, the distance of copies: a chosen image is never chosen again
        best = int(gaps.argmax())
    return np.array(chosen, np.int64)


def _squared_distances(points: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.square(points - centre).sum(axis=1)
    return distances


def k_means(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose the member nearest to the centroid of each k-means cluster, larger clusters first.

    Ties go to the lower row. The seed is fixed. Another count makes other clusters, so a smaller choice is NOT a
    prefix of a larger one. If a class has fewer different images than `count`, copies are added at the end.
    """
    from sklearn.cluster import KMeans  # slow to import

    points = features.astype(np.float64)
    clusters = min(count, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # the order of summation depends on the threads
        model = KMeans(clusters, n_init=K_MEANS_STARTS, random_state=K_MEANS_SEED).fit(points)
    distances = ((points - model.cluster_centers_[model.labels_]) ** 2).sum(axis=1)
    names, sizes = np.unique(model.labels_, return_counts=True)
    chosen = []
    for cluster in names[np.argsort(-sizes, kind="stable")]:
        members = np.flatnonzero(model.labels_ == cluster)
        chosen.append(members[distances[members].argmin()])
    rest = np.setdiff1d(np.arange(len(points)), chosen)
    return np.concatenate([chosen, rest[: count - len(chosen)]]).astype(np.int64)


def all_rows(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Return every row in order; `count` is ignored. The upper reference for every subset."""
    return np.arange(len(features))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("random", sees="nothing", uses_seed=True, pick=random_rows),
        Method("herding", sees="features", uses_seed=False, pick=herding),
        Method("k-center", sees="features", uses_seed=False, pick=k_center),
        Method("k-means", sees="features", uses_seed=False, pick=k_means),
        Method("full", sees="nothing", uses_seed=False, pick=all_rows, uses_ipc=False),
    )
}


def method_names() -> tuple[str, ...]:
    """Names of all methods, here and in other packages (`dpd.selections`)."""
    return (*METHODS, *extension_names("dpd.selections"))


def find_method(name: str) -> Method:
    """Look up a method by name, here or in another package (`dpd.selections`).

    Raises:
        InputError: no such method.
    """
    if name in METHODS:
        return METHODS[name]
    if name not in (offered := method_names()):
        raise InputError(f"no selection method {name!r}: there are {', '.join(offered)}")
    method: Method = load_extension("dpd.selections", name)
    return method


def select(method: str, scenes: SceneSet, ipc: int, seed: int, features: Features | None = None) -> Rows:
    """Choose rows [classes · ipc] of `scenes`, sorted by class and within a class in the method's order.

    A smaller ipc gives a prefix of each class, except with k-means.

    Args:
        method: as in `find_method`.
        ipc: images per class; ignored by `full`, which takes all images.
        seed: used by `random` only.
        features: [n, D] of all images of `scenes`, for the methods that need them.

    Raises:
        InputError: an unknown method, ipc < 1, features that are missing or not one row per image.
        DataError: a class has fewer than ipc images, or features that are not finite.
    """
    return rows_by_class(find_method(method), scenes.labels, ipc, seed, features, scenes.classes)


def random_subset(labels: Int64, ipc: int, seed: int, classes: tuple[str, ...] | None = None) -> Int64:
    """Choose a class-balanced random subset: `ipc` rows of each class in `labels` [n], sorted by class.

    The choice within a class depends on (seed, class) only, so a smaller ipc with the same seed gives a prefix.

    Args:
        classes: class names for the error message; without them it gives the label number.

    Raises:
        InputError: ipc < 1.
        DataError: a class has fewer than `ipc` images.
    """
    return rows_by_class(METHODS["random"], labels, ipc, seed, classes=classes)
