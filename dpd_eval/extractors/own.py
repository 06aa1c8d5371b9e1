"""The extractor `own`: a small residual network trained on the user's images, kept in the cache."""

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save
from torch.nn import functional as F

from dpd_eval.extractors.cache import images_hash, store
from dpd_eval.extractors.extractor import Extractor, Floats, short_hash
from dpd_runtime.annotations import Images, Progress
from dpd_runtime.errors import DataError
from dpd_runtime.files import cache_folder
from dpd_train.classifiers.network import ResNet, ResNetConfig
from dpd_train.classifiers.training import ClassifierTraining, train_classifier
from dpd_train.compute.checkpoint import load_state
from dpd_train.compute.device import one_thread
from dpd_train.images import SceneSet, to_float

FORMAT = 1  # raise it whenever the training gives other weights
SEED = 200  # no teacher, judge or student has it
STEPS = 1200
LARGEST_SIDE = 64  # larger images are reduced to this: the training takes minutes at any resolution
BATCH = 256


def own_extractor(
    train: SceneSet,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
    *,
    steps: int = STEPS,
) -> Extractor:
    """A ResNet after its last training step, never its best one, so that nothing is chosen on any image.

    The last tenth of each class by file name is not trained on; the accuracy there is in the description. Features
    are the globally averaged maps before the last layer. One thread, so that no figure depends on the cores.

    Raises:
        DataError: a class with fewer than 2 images.
        DiskError: the cache cannot be written.
    """
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if counts.min() < 2:
        scarce = train.classes[int(counts.argmin())]
        raise DataError(f"class {scarce} has {counts.min()} training images: the extractor own needs at least 2")
    shape = ResNetConfig(num_classes=len(train.classes))
    training = ClassifierTraining(steps=steps, validate_every=steps, seed=SEED)
    with one_thread(), torch.random.fork_rng(devices=[]):  # the loop seeds the global generator
        model, accuracy = _trained(train, shape, training, cache or cache_folder("extractors"), progress)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = min(int(train.images.shape[1]), LARGEST_SIDE)
    description = (
        f"own: ResNet {'-'.join(map(str, shape.widths))} after {steps} steps on the training images at {side} px, "
        f"{100 * accuracy:.1f} % right on the tenth that was kept out, weights {short_hash(model)}"
    )
    return Extractor("own", description, train.classes, partial(_embed, model), partial(_score, model))


def _trained(
    train: SceneSet, shape: ResNetConfig, training: ClassifierTraining, cache: Path, progress: Progress
) -> tuple[ResNet, float]:
    """The network and its accuracy on the held-out tenth, from the cache where they are there."""
    content = images_hash(train.images, train.labels)
    parts = [FORMAT, content, LARGEST_SIDE, shape.to_dict(), asdict(training), str(torch.__version__)]
    path = cache / f"{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
    known = _load(path, shape)
    if known is not None:
        return known
    store(path, b"")  # a cache that cannot be written is said before minutes of training; empty reads as damaged
    held = _last_tenth(train.labels)
    kept = np.setdiff1d(np.arange(len(train.labels)), held)
    (seen, labels), validation = (
        (small_pixels(train.images[rows]), torch.from_numpy(train.labels[rows])) for rows in (kept, held)
    )
    trained = train_classifier(seen, labels, validation, shape, training, progress=progress)
    weights = {name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()}
    store(path, save(weights, {"meta": json.dumps({"accuracy": trained.accuracy})}))
    return trained.model, trained.accuracy


def _load(path: Path, shape: ResNetConfig) -> tuple[ResNet, float] | None:
    """None where there is no file or a damaged one, which is then made again."""
    model = ResNet(shape).eval()
    try:
        tensors, meta = load_state(path)
        model.load_state_dict(tensors)
        return model, float(meta["accuracy"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _last_tenth(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the last max(1, n // 10) images of each class."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rows[-max(1, len(rows) // 10) :] for rows in members])


def small_pixels(images: Images) -> torch.Tensor:
    """Square images as float32 [n, 3, S, S] in [-1, 1], S ≤ LARGEST_SIDE."""
    side = min(images.shape[1], LARGEST_SIDE)
    pixels = torch.empty(len(images), 3, side, side)
    for i in range(0, len(images), BATCH):
        batch = to_float(torch.from_numpy(np.ascontiguousarray(images[i : i + BATCH])))
        if side < batch.shape[-1]:
            batch = F.interpolate(batch, (side, side), mode="bilinear", antialias=True)
        pixels[i : i + BATCH] = batch
    return pixels


@torch.no_grad()
def _pooled(model: ResNet, images: Images) -> torch.Tensor:
    with one_thread():
        batches = (small_pixels(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
        fast = (batch.contiguous(memory_format=torch.channels_last) for batch in batches)
        return torch.cat([model.features(batch)[-1].mean(dim=(2, 3)) for batch in fast])


def _embed(model: ResNet, images: Images) -> Floats:
    found: Floats = _pooled(model, images).numpy()
    return found


@torch.no_grad()
def _score(model: ResNet, images: Images) -> Floats:
    found: Floats = model.head(_pooled(model, images)).numpy()
    return found
