"""Scores of real images by a training on all of them, kept in the cache: what the selection method tdds sees."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpd_eval.extractors.cache import images_hash, store
from dpd_eval.extractors.own import LARGEST_SIDE, small_pixels
from dpd_eval.selection.method import Method, highest_first
from dpd_runtime.annotations import Progress
from dpd_runtime.files import cache_folder
from dpd_train.classifiers.tdds import SNAPSHOTS, WINDOW, score_images
from dpd_train.compute.device import one_thread
from dpd_train.images import SceneSet

FORMAT = 1  # raise it whenever the training gives other scores
SEED = 210  # no teacher, judge, extractor or student has it


def training_scores(
    train: SceneSet, cache: Path | None = None, progress: Progress = lambda done, total: None
) -> NDArray[np.float32]:
    """`dpd_train.classifiers.tdds.score_images` of all images, [n, 1]; larger ones are reduced to 64 px. One thread.

    Raises:
        DiskError: the cache cannot be written.
    """
    content = images_hash(train.images, train.labels)
    parts = [FORMAT, "tdds", content, LARGEST_SIDE, SNAPSHOTS, WINDOW, str(torch.__version__)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = (cache or cache_folder("extractors")) / f"{digest[:32]}.safetensors"
    try:
        found = load(path.read_bytes())["scores"]
        if found.shape == (len(train.labels), 1):
            return found
    except (OSError, SafetensorError, KeyError):
        pass
    store(path, b"")  # a cache that cannot be written is said before minutes of training; empty reads as damaged
    with one_thread(), torch.random.fork_rng(devices=[]):  # the loop seeds the global generator
        images = small_pixels(train.images), torch.from_numpy(train.labels)
        scores = score_images(images, len(train.classes), SEED, progress).astype(np.float32)[:, None]
    store(path, save({"scores": scores}))
    return scores


TDDS = Method("tdds", sees="scores", uses_seed=False, pick=highest_first)
