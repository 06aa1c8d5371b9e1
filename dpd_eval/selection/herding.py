"""Herding: images, chosen greedily, whose mean feature approximates the mean of the class."""

import numpy as np

from dpd_eval.selection.method import Features, Method, Rows


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose p_k = argmin over x not yet chosen of ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖; ties go to the lower row.

    Herding (Welling 2009) in iCaRL's form (Rebuffi et al. 2017, algorithm 4): φ is the feature scaled to length 1, μ
    the mean of φ over the class. Unlike there, means are not rescaled to length 1, so the distance between the means
    itself is minimised. Deterministic; a smaller count gives a prefix.
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    mean, total = unit.mean(axis=0), np.zeros(features.shape[1])
    free = np.ones(len(unit), bool)
    chosen = []
    for k in range(1, count + 1):
        errors = ((k * mean - total - unit) ** 2).sum(axis=1)
        best = int(np.where(free, errors, np.inf).argmin())
        chosen.append(best)
        free[best] = False
        total += unit[best]
    return np.array(chosen, np.int64)


HERDING = Method("herding", sees="features", uses_seed=False, pick=pick)
