"""Intra-class diversity: how unlike the images of one class are."""

import numpy as np
from numpy.typing import NDArray

from dpd_eval.metrics.cosine import unit_rows


def intra_class_diversity(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean of 1 − cosine over the pairs of different images within a class, then over the classes that have a pair.

    In [0, 2]; 0 for copies, and where no class has two images. features: [n, D]; labels: [n].
    The sum over all pairs needs no pairs: Σ_{i≠j} u_i·u_j = |Σ u_i|² − Σ |u_i|².
    """
    units = unit_rows(features)
    means = []
    for label in np.unique(labels):
        members = units[labels == label]
        count = len(members)
        if count > 1:
            total = members.sum(axis=0)
            means.append(1 - float(total @ total - (members**2).sum()) / (count * (count - 1)))
    return max(0.0, float(np.mean(means))) if means else 0.0
