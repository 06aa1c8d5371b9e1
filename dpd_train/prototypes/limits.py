"""How near to a training image is too near: the limit that hold-out images set (METHOD §9)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpd_runtime.annotations import Int64

PERCENTILE = 0.99
OF_ITS_OWN = 100  # hold-out images of a class from which on it has a limit of its own
Float = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Nearest:
    """Highest similarity to T [n], on an open scale (`structure.closeness`), of images with labels [n]."""

    values: Float
    labels: Int64

    def __getitem__(self, rows: Int64) -> "Nearest":
        return Nearest(self.values[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.values)


def thresholds(held: Nearest, classes: int) -> Float:
    """For each class [classes] the similarity beyond which an image counts, from hold-out images.

    The 99th percentile of a class with ≥ 100 images; for the others one over all classes, of what is left after each
    class's median is subtracted, plus the class's median. A class without images has the median of all.
    """
    overall = float(np.median(held.values))
    medians = np.full(classes, overall)
    members = [np.flatnonzero(held.labels == label) for label in np.unique(held.labels)]
    for rows in members:
        medians[held.labels[rows[0]]] = np.median(held.values[rows])
    limits = medians + np.quantile(held.values - medians[held.labels], PERCENTILE)
    for rows in members:
        if len(rows) >= OF_ITS_OWN:
            limits[held.labels[rows[0]]] = np.quantile(held.values[rows], PERCENTILE)
    found: Float = limits
    return found
