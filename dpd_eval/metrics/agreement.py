"""Agreement: how often a classifier of real images puts a set image into the class that it was made for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Shares in [0, 1]: over all images, and for each class that the set has."""

    overall: float
    per_class: dict[str, float]


def class_agreement(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: tuple[str, ...],
    predicted_classes: tuple[str, ...] | None = None,
) -> Agreement:
    """Compare by name the labels [n], which index `classes`, with the predictions [n].

    Args:
        predicted_classes: what the predictions index; `classes` unless said.
    """
    hits = np.array(classes)[labels] == np.array(predicted_classes or classes)[predicted]
    shares = {classes[label]: float(hits[labels == label].mean()) for label in np.unique(labels).tolist()}
    return Agreement(float(hits.mean()), shares)
