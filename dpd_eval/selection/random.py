"""Random: a class-balanced random subset, the baseline that is always reported."""

import numpy as np

from dpd_eval.selection.method import Features, Method, Rows, rows_by_class
from dpd_runtime.annotations import Int64


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Return the first `count` of a random permutation. A smaller count with an equal generator gives a prefix."""
    return generator.permutation(len(features))[:count]


RANDOM = Method("random", sees="nothing", uses_seed=True, pick=pick)


def random_subset(labels: Int64, ipc: int, seed: int, classes: tuple[str, ...] | None = None) -> Int64:
    """Choose a class-balanced random subset: `ipc` rows of each class in `labels` [n], sorted by class.

    The choice within a class depends on (seed, class) only, so a smaller ipc with the same seed gives a prefix.

    Args:
        classes: class names for the error message; without them it gives the label number.

    Raises:
        InputError: ipc < 1.
        DataError: a class has fewer than `ipc` images.
    """
    return rows_by_class(RANDOM, labels, ipc, seed, classes=classes)
