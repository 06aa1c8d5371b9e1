"""Herding: images, chosen greedily, whose mean feature approximates the mean of the class."""

import numpy as np

from dpd_eval.selection.method import Features, Method, Rows
from dpd_train.prototypes.herding import herded


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Choose images whose mean φ is near the mean of φ over the class, as `herded` does; φ is the feature at length 1.

    Unlike in iCaRL, means are not rescaled to length 1, so the distance between the means itself is minimised.
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    return np.array(herded(unit, unit.mean(axis=0), count), np.int64)


HERDING = Method("herding", sees="features", uses_seed=False, pick=pick)
