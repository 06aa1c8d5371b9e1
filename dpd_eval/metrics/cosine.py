"""Metrics of cosines: how near the set comes to each real image, and how different the images of one class are."""

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.errors import InputError

BLOCK_ROWS = 4096


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, D] with each row at length 1; a row of zeros stays one, so that its cosine with everything is 0."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


def mean_max_cosine(
    generated: NDArray[np.float32],
    labels: NDArray[np.int64],
    reference: NDArray[np.float32],
    reference_labels: NDArray[np.int64],
) -> float:
    """For each reference image [m, D] the highest cosine with a set image [n, D] of its class; mean of class means.

    In [-1, 1]; 1 where every reference image is in the set. It grows with the size of the set: compare at one IPC.

    Raises:
        InputError: the set has no image of a class of the reference.
    """
    ours, real = unit_rows(generated), unit_rows(reference)
    means = []
    for label in np.unique(reference_labels):
        members, choices = real[reference_labels == label], ours[labels == label]
        if not len(choices):
            raise InputError(f"mean-max cosine: the set has no image of class {label}, which the reference has")
        blocks = (members[i : i + BLOCK_ROWS] for i in range(0, len(members), BLOCK_ROWS))
        means.append(np.concatenate([(block @ choices.T).max(axis=1) for block in blocks]).mean())
    return float(np.mean(means))


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
