"""Real subsets: the baselines that a distilled set has to stand beside."""

import numpy as np
from numpy.typing import NDArray

from dpd_runtime.errors import DataError, InputError


def random_subset(
    labels: NDArray[np.int64], ipc: int, seed: int, classes: tuple[str, ...] | None = None
) -> NDArray[np.int64]:
    """Rows of a class-balanced random subset, sorted by class; `ipc` rows of each class that occurs in `labels` [n].

    The draw of a class depends on (seed, class) only, so that a smaller ipc with the same seed gives a prefix.

    Args:
        classes: names for the error message; without them the label number is named.

    Raises:
        InputError: ipc < 1.
        DataError: a class has fewer than ipc images.
    """
    if ipc < 1:
        raise InputError(f"ipc is {ipc}: give at least one image a class")
    chosen = []
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if ipc > len(members):
            name = classes[label] if classes else f"label {label}"
            raise DataError(
                f"class {name} has {len(members)} real images, --ipc asks for {ipc}: give --ipc {len(members)} or less"
            )
        order = np.random.default_rng([seed, label]).permutation(len(members))
        chosen.append(members[order[:ipc]])
    return np.concatenate(chosen).astype(np.int64)
