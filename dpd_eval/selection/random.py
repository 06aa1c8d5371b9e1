"""A class-balanced random subset: the baseline that no other may be shown without."""

import numpy as np
from numpy.typing import NDArray

from dpd_eval.selection.method import Features, Method, Rows, rows_by_class


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """The first `count` of a permutation: a smaller count with an equal generator is a prefix."""
    return generator.permutation(len(features))[:count]


RANDOM = Method("random", sees="nothing", uses_seed=True, pick=pick)


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
    return rows_by_class(RANDOM, labels, ipc, seed, classes=classes)
