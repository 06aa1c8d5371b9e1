"""Herding: rows, chosen greedily, whose mean is near a given one."""

import numpy as np
from numpy.typing import NDArray

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
