"""Foreground: images or their patches of which a teacher is surest (`dpd_eval.foreground_patches`)."""

import numpy as np

from dpd_eval.selection.method import Features, Method, Rows


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """The surest first, ties to the lower row. Deterministic; a smaller count is a prefix.

    Args:
        features: the teacher's probability of the class, [n, 1].
    """
    return np.argsort(-features[:, 0], kind="stable")[:count].astype(np.int64)


FOREGROUND = Method("foreground", sees="patches", uses_seed=False, pick=pick)
