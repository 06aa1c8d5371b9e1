"""Mean-max cosine coverage: how near the set comes to each real image."""

import numpy as np
from numpy.typing import NDArray

from dpd_eval.metrics.cosine import unit_rows
from dpd_runtime.errors import InputError

BLOCK_ROWS = 4096


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
