"""k-center: images such that every other image is close to a chosen one."""

import numpy as np
from numpy.typing import NDArray

from dpd_eval.selection.method import Features, Method, Rows


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose by farthest-first traversal in Euclidean distance (Gonzalez 1985; Sener & Savarese 2018, algorithm 1).

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
    found: NDArray[np.float64] = np.square(points - centre).sum(axis=1)
    return found


K_CENTER = Method("k-center", sees="features", uses_seed=False, pick=pick)
