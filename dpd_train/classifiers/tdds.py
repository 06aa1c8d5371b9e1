"""TDDS: which images a network still learns from, by how unevenly they take part in its training.

Temporal dual-depth scoring (Zhang et al., CVPR 2024, arXiv 2311.13613): an image's part in a stretch of the training is
the change of its class probabilities; an image whose part varies is learnt and generalised from, one whose part does
not is either known at once or never.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from dpd_train.classifiers.network import teacher_shape
from dpd_train.classifiers.training import ClassifierTraining, Labelled, train_classifier

SNAPSHOTS = 10  # looks at all images, an epoch apart
LEAST_STEPS = 100  # between two looks, where an epoch is shorter
WINDOW = 5  # looks in a window
DECAY = 0.9  # share of the newest window in the moving average
TINY = 1e-8
Float = npt.NDArray[np.floating]


def dual_depth_scores(probabilities: npt.ArrayLike, window: int = WINDOW, decay: float = DECAY) -> Float:
    """Scores [n] of images from class probabilities [T, n, C] at T looks in their order; high is worth keeping.

    Inner depth: Ω_t = Σ_c |p_{t+1} (log p_{t+1} − log p_t)|, what an image's own loss gains between two looks along
    the way that the training takes. Outer depth: ‖Ω − mean Ω‖ over the `window` − 1 values of a window, and over
    windows a moving average in which one k places before the last weighs `decay` (1 − `decay`)^k. Both as the authors'
    code has them.

    Raises:
        ValueError: fewer looks than a window has, or a window of less than three, which has nothing to vary.
    """
    values = np.asarray(probabilities, np.float64)
    if window < 3 or len(values) < window:
        raise ValueError(f"{len(values)} looks in windows of {window}: a window needs three, and as many looks")
    logs = np.log(values + TINY)
    inner = np.abs(values[1:] * np.diff(logs, axis=0)).sum(axis=2)  # [T - 1, n]
    windows = np.lib.stride_tricks.sliding_window_view(inner, window - 1, axis=0)  # [W, n, window - 1]
    outer = np.linalg.norm(windows - windows.mean(axis=2, keepdims=True), axis=2)
    age = np.arange(len(outer))[::-1]
    scores: Float = (decay * (1 - decay) ** age) @ outer
    return scores


def score_images(
    data: Labelled,
    classes: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
) -> Float:
    """`dual_depth_scores` [n] of images [n, 3, H, W] in [-1, 1], in the training of one small residual network on them.

    Deterministic on the CPU for a number of threads.
    """
    looks: list[torch.Tensor] = []
    batch = ClassifierTraining.batch
    interval = max(LEAST_STEPS, -(-len(data[0]) // batch))
    training = ClassifierTraining(steps=SNAPSHOTS * interval, batch=batch, validate_every=interval, seed=seed)
    train_classifier(*data, data, teacher_shape(classes), training, progress, observe=looks.append, device=device)
    return dual_depth_scores(torch.stack(looks).softmax(dim=2).numpy())


def kept_count(images: int, removed: float) -> int:
    """How many of a class's images stay: two at least."""
    return max(min(2, images), round(images * (1 - removed)))


def best_rows(scores: Float, labels: npt.NDArray[np.int64], removed: float) -> npt.NDArray[np.int64]:
    """Rows, ascending, of each class's images but the share `removed` with the lowest scores; equals in order."""
    kept = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        best = np.argsort(-scores[members], kind="stable")[: kept_count(len(members), removed)]
        kept.append(members[best])
    return np.sort(np.concatenate(kept)).astype(np.int64)
