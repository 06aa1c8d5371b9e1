"""All images: what a subset is measured against."""

import numpy as np

from dpd_eval.selection.method import Features, Method, Rows


def pick(features: Features, count: int, generator: np.random.Generator) -> Rows:
    """Every row in order, whatever `count` says."""
    return np.arange(len(features))


FULL = Method("full", sees="nothing", uses_seed=False, pick=pick, uses_ipc=False)
