"""TDDS: images whose part in a training varies most (`dpd_train.tdds`)."""

import numpy as np

from dpd_eval.selection.method import Features, Method, Rows


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Highest scores first, ties to the lower row. Deterministic; a smaller count is a prefix.

    Args:
        features: scores [n, 1].
    """
    return np.argsort(-features[:, 0], kind="stable")[:count].astype(np.int64)


TDDS = Method("tdds", sees="scores", uses_seed=False, pick=pick)
