"""Metrics based on cosines: mean-max cosine coverage and intra-class diversity."""

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.annotations import Float32, Int64
from dpd_runtime.errors import InputError

BLOCK_ROWS = 4096


def unit_rows(features: Float32) -> NDArray[np.float64]:
    """Scale each row of [n, D] to length 1. A row of zeros stays zero, so its cosine with everything is 0."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


def mean_max_cosine(
    generated: Float32,
    labels: Int64,
    reference: Float32,
    reference_labels: Int64,
) -> float:
    """Average, over the reference images [m, D], the highest cosine with a set image [n, D] of the same class.

    The result is the mean of the class means, in [-1, 1]; it is 1 if every reference image is in the set. It grows
    with the size of the set, so compare sets at equal IPC.

    Raises:
        InputError: the set has no image of a class of the reference.
    """
    ours, real = unit_rows(generated), unit_rows(reference)
    means = []
    for label in np.unique(reference_labels):
        members, choices = real[reference_labels == label], ours[labels == label]
        if not len(choices):
            raise InputError(f"mean-max cosine: the set has no image of class {label}, but the reference has")
        blocks = (members[i : i + BLOCK_ROWS] for i in range(0, len(members), BLOCK_ROWS))
        means.append(np.concatenate([(block @ choices.T).max(axis=1) for block in blocks]).mean())
    return float(np.mean(means))


def intra_class_diversity(features: Float32, labels: Int64) -> float:
    """Average 1 − cosine over all pairs of images of a class, then over the classes with at least two images.

    In [0, 2]; 0 for copies, and if no class has two images. features: [n, D]; labels: [n].
    The sum over pairs is computed as Σ_{i≠j} u_i·u_j = |Σ u_i|² − Σ |u_i|².
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
