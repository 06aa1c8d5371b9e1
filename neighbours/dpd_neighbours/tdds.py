"""TDDS: scores of training images, by how much their contribution to a training varies.

Temporal dual-depth scoring (Zhang et al., CVPR 2024, arXiv 2311.13613). An image's contribution is the change of its
class probabilities over some steps. Images whose contribution varies are learnt during the training and help to
generalise; images whose contribution does not are learnt at once or never.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpd_eval.extractors import LARGEST_SIDE, images_hash, small_pixels, store
from dpd_runtime.annotations import Float32, Int64, Progress
from dpd_runtime.files import cache_folder, read_cached
from dpd_train.classifiers import ClassifierTraining, Labelled, train_classifier
from dpd_train.compute import one_thread
from dpd_train.networks import teacher_shape
from dpd_train.scene_set import SceneSet

FORMAT = 2  # increase this whenever the training gives other scores
SEED = 210  # used by no teacher, latent classifier, extractor or student
SNAPSHOTS = 10  # predictions for all images, an epoch apart
LEAST_STEPS = 100  # between two snapshots, if an epoch is shorter
WINDOW = 5  # snapshots in a window
DECAY = 0.9  # share of the newest window in the moving average
TINY = 1e-8
Float = npt.NDArray[np.floating]


def dual_depth_scores(probabilities: npt.ArrayLike, window: int = WINDOW, decay: float = DECAY) -> Float:
    """Scores [n] of images from class probabilities [T, n, C] at T snapshots in order; high scores are worth keeping.

    Inner depth: Ω_t = Σ_c |p_{t+1} (log p_{t+1} − log p_t)|, the change of an image's loss between two snapshots.
    Outer depth: ‖Ω − mean Ω‖ over the `window` − 1 values of a window, then a moving average over the windows, in which
    the window k places before the last has weight `decay` (1 − `decay`)^k. Both follow the authors' code.

    Raises:
        ValueError: fewer snapshots than a window has, or a window of fewer than three.
    """
    values = np.asarray(probabilities, np.float64)
    if window < 3 or len(values) < window:
        raise ValueError(f"{len(values)} snapshots in windows of {window}: give three or more, and a full window")
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
    progress: Progress = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
) -> Float:
    """`dual_depth_scores` [n] of images [n, N, H, W] in [-1, 1], from training one small residual network on them.

    Deterministic on the CPU for a fixed number of threads.
    """
    snapshots: list[torch.Tensor] = []
    batch = ClassifierTraining.batch
    interval = max(LEAST_STEPS, -(-len(data[0]) // batch))
    training = ClassifierTraining(steps=SNAPSHOTS * interval, batch=batch, validate_every=interval, seed=seed)
    shape = teacher_shape(classes, data[0].shape[1])
    train_classifier(*data, data, shape, training, progress, observe=snapshots.append, device=device)
    return dual_depth_scores(torch.stack(snapshots).softmax(dim=2).numpy())


def kept_count(images: int, removed: float) -> int:
    """Number of a class's images that are kept, at least two."""
    return max(min(2, images), round(images * (1 - removed)))


def best_rows(scores: Float, labels: Int64, removed: float) -> Int64:
    """Ascending rows of the images that are kept: each class loses the share `removed` with the lowest scores."""
    kept = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        best = np.argsort(-scores[members], kind="stable")[: kept_count(len(members), removed)]
        kept.append(members[best])
    return np.sort(np.concatenate(kept)).astype(np.int64)


def training_scores(
    train: SceneSet,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
    *,
    seed: int = SEED,
    device: torch.device | str = "cpu",
) -> Float32:
    """Scores of all images [n, 1] by `score_images`, in one thread, or from the cache. Images larger than 64 px are
    reduced.

    Args:
        cache: folder of the scores, which are private; None for the user's.

    Raises:
        DiskError: the cache cannot be written.
    """
    content = images_hash(train.images, train.labels)
    parts = [FORMAT, "tdds", content, LARGEST_SIDE, SNAPSHOTS, WINDOW, seed, str(torch.__version__)]
    digest = hashlib.sha256(json.dumps(parts, allow_nan=False).encode()).hexdigest()
    path = (cache or cache_folder("extractors")) / f"{digest[:32]}.safetensors"
    with suppress(SafetensorError, KeyError):
        stored = load(read_cached(path) or b"")["scores"]
        if stored.shape == (len(train.labels), 1):
            return stored
    store(path, b"")  # fail before the training if the cache cannot be written; an empty file counts as damaged
    with one_thread(), torch.random.fork_rng(devices=[]):  # the training seeds the global generator
        images = small_pixels(train.images), torch.from_numpy(train.labels)
        scores = score_images(images, len(train.classes), seed, progress, device=device).astype(np.float32)[:, None]
    store(path, save({"scores": scores}))
    return scores
