"""TDDS: images whose contribution varies most over a training on all of them (`dpd_train.tdds`)."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpd_runtime.annotations import Float32, Progress
from dpd_runtime.files import cache_folder, read_cached
from dpd_train.scene_set import SceneSet

FORMAT = 1  # increase this whenever the training gives other scores
SEED = 210  # used by no teacher, latent classifier, extractor or student


def training_scores(
    train: SceneSet, cache: Path | None = None, progress: Progress = lambda done, total: None
) -> Float32:
    """Score all images [n, 1] by `dpd_train.tdds.score_images`, in one thread, or read the scores from the
    cache. Images larger than 64 px are reduced.

    Raises:
        DiskError: the cache cannot be written.
    """
    import torch

    from dpd_eval.extractors import LARGEST_SIDE, images_hash, small_pixels, store
    from dpd_train.compute import one_thread
    from dpd_train.tdds import SNAPSHOTS, WINDOW, score_images

    content = images_hash(train.images, train.labels)
    parts = [FORMAT, "tdds", content, LARGEST_SIDE, SNAPSHOTS, WINDOW, str(torch.__version__)]
    digest = hashlib.sha256(json.dumps(parts, allow_nan=False).encode()).hexdigest()
    path = (cache or cache_folder("extractors")) / f"{digest[:32]}.safetensors"
    with suppress(SafetensorError, KeyError):
        stored = load(read_cached(path) or b"")["scores"]
        if stored.shape == (len(train.labels), 1):
            return stored
    store(path, b"")  # fail before the training if the cache cannot be written; an empty file counts as damaged
    with one_thread(), torch.random.fork_rng(devices=[]):  # the training seeds the global generator
        images = small_pixels(train.images), torch.from_numpy(train.labels)
        scores = score_images(images, len(train.classes), SEED, progress).astype(np.float32)[:, None]
    store(path, save({"scores": scores}))
    return scores
