"""Unit vectors: what the two metrics of cosines begin with."""

import numpy as np
from numpy.typing import NDArray


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, D] with each row at length 1; a row of zeros stays one, so that its cosine with everything is 0."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units
