"""The extractor `own`: a small residual network that is trained on the user's images and kept in the cache."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from dpd_eval.extractors.cache import images_hash, load_weights, store, store_weights
from dpd_eval.extractors.extractor import Extractor, short_hash
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.errors import DataError
from dpd_runtime.files import cache_folder
from dpd_runtime.text import counted
from dpd_train.classifiers.network import ResNet, ResNetConfig
from dpd_train.classifiers.training import ClassifierTraining, train_classifier
from dpd_train.compute.device import has_bfloat16, one_thread
from dpd_train.images import SceneSet, to_float

FORMAT = 1  # increase this whenever the training gives other weights
SEED = 200  # used by no teacher, latent classifier or student
STEPS = 1200
LARGEST_SIDE = 64  # pixels; larger images are reduced, so that the training takes minutes at any resolution
BATCH = 256


def own_extractor(
    train: SceneSet,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
    *,
    steps: int = STEPS,
    seed: int = SEED,
    device: str = "cpu",
) -> Extractor:
    """Train a ResNet and take it after the last step, never the best one, so that no image decides a choice.

    The last tenth of each class by file name is held out; the description states the accuracy on it. Features are the
    globally averaged maps before the last layer. Training uses one thread, so that results do not depend on the cores.
    What was trained on one device is not taken for what another would give.

    Raises:
        DataError: a class with fewer than 2 images.
        DiskError: the cache cannot be written.
    """
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if counts.min() < 2:
        scarce = train.classes[int(counts.argmin())]
        raise DataError(
            f"class {scarce} has {counted(counts.min(), 'training image')}: the extractor own needs at least 2"
        )
    shape = ResNetConfig(num_classes=len(train.classes), in_channels=train.images.shape[-1])
    training = ClassifierTraining(steps=steps, validate_every=steps, seed=seed)
    with one_thread(), torch.random.fork_rng(devices=[]):  # the training seeds the global generator
        model, accuracy = _trained(train, shape, training, cache or cache_folder("extractors"), progress, device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = min(int(train.images.shape[1]), LARGEST_SIDE)
    description = (
        f"own: ResNet {'-'.join(map(str, shape.widths))} after {steps} steps on the training images at {side} px, "
        f"{100 * accuracy:.1f} % accuracy on the held-out tenth, weights {short_hash(model)}"
    )
    return Extractor("own", description, train.classes, partial(_embed, model), partial(_score, model))


def _trained(
    train: SceneSet, shape: ResNetConfig, training: ClassifierTraining, cache: Path, progress: Progress, device: str
) -> tuple[ResNet, float]:
    """Return the network and its accuracy on the held-out tenth, from the cache if they are stored."""
    content = images_hash(train.images, train.labels)
    parts = [FORMAT, content, LARGEST_SIDE, shape.to_dict(), asdict(training), str(torch.__version__)]
    parts += [] if device == "cpu" else [device]
    parts += [] if has_bfloat16(torch.device(device)) else ["float32"]
    path = (
        cache
        / f"{hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]}.safetensors"
    )
    known = ResNet(shape).eval()
    meta = load_weights(path, known)
    if meta is not None:
        return known, float(meta["accuracy"])
    store(path, b"")  # fail before the training if the cache cannot be written; an empty file counts as damaged
    held = _last_tenth(train.labels)
    kept = np.setdiff1d(np.arange(len(train.labels)), held)
    (seen, labels), validation = (
        (small_pixels(train.images[rows]), torch.from_numpy(train.labels[rows])) for rows in (kept, held)
    )
    trained = train_classifier(seen, labels, validation, shape, training, progress=progress, device=device)
    store_weights(path, trained.model, {"accuracy": trained.accuracy})
    return trained.model, trained.accuracy


def _last_tenth(labels: Int64) -> Int64:
    """Return the rows of the last max(1, n // 10) images of each class."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rows[-max(1, len(rows) // 10) :] for rows in members])


def small_pixels(images: Images, largest: int = LARGEST_SIDE) -> torch.Tensor:
    """Convert square images to float32 [n, C, S, S] in [-1, 1], S ≤ `largest` pixels."""
    side = min(images.shape[1], largest)
    pixels = torch.empty(len(images), images.shape[-1], side, side)
    for i in range(0, len(images), BATCH):
        batch = to_float(torch.from_numpy(np.ascontiguousarray(images[i : i + BATCH])))
        if side < batch.shape[-1]:
            batch = F.interpolate(batch, (side, side), mode="bilinear", antialias=True)
        pixels[i : i + BATCH] = batch
    return pixels


@torch.no_grad()
def in_batches(
    compute: Callable[[torch.Tensor], torch.Tensor], images: Images, largest: int = LARGEST_SIDE
) -> torch.Tensor:
    """What `compute` makes of images uint8 [n, H, W, C], joined, on one thread.

    Args:
        compute: gets batches of `small_pixels` in channels_last.
    """
    with one_thread():
        batches = (small_pixels(images[i : i + BATCH], largest) for i in range(0, len(images), BATCH))
        return torch.cat([compute(batch.contiguous(memory_format=torch.channels_last)) for batch in batches])


def _pooled_features(model: ResNet, images: Images) -> torch.Tensor:
    """The last map, averaged over positions [n, D], of images uint8 [n, H, W, C]."""
    return in_batches(lambda batch: model.features(batch)[-1].mean(dim=(2, 3)), images)


def _embed(model: ResNet, images: Images) -> Float32:
    features: Float32 = _pooled_features(model, images).numpy()
    return features


@torch.no_grad()
def _score(model: ResNet, images: Images) -> Float32:
    logits: Float32 = model.head(_pooled_features(model, images)).numpy()
    return logits
