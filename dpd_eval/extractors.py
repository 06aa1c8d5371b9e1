"""Feature extractors: our own, untrained, encoders, of transformers; and the cache of features."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch.nn import functional as F

from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.errors import DataError, DiskError, InputError
from dpd_runtime.files import cache_folder, is_own, write_atomically
from dpd_runtime.text import counted
from dpd_train.classifiers import ClassifierTraining, train_classifier
from dpd_train.compute import has_bfloat16, load_state, one_thread
from dpd_train.config import HUB
from dpd_train.encoders import Encoder
from dpd_train.model_files import find_model, first_sentence, image_model, image_processor, public_name
from dpd_train.networks import ResNet, ResNetConfig, count_parameters
from dpd_train.scene_set import SceneSet, to_float
from dpd_train.symmetry import ORDER, d4

# -- What every extractor offers: features and, if it knows classes, labels.


@dataclass(frozen=True)
class Extractor:
    """A network as two functions of images, uint8 [n, H, W, 3] (RGB) or [n, H, W, C] (other bands).

    Args:
        name: as the user gave it.
        description: architecture, training and the first 12 digits of the weights' sha256; part of the results.
        classes: class names that its labels index; None if it knows no labels.
        embed: images → features [n, D] float32, not normalised.
        score: images → logits [n, C] float32, C = len(classes); None if it knows no labels.
        symmetric: whether features are the same in all eight views of an image (D4).
    """

    name: str
    description: str
    classes: tuple[str, ...] | None
    embed: Callable[[Images], Float32]
    score: Callable[[Images], Float32] | None = None
    symmetric: bool = False

    def features(self, images: Images) -> Float32:
        """Compute features [n, D], not normalised."""
        return self.embed(images)

    def probabilities(self, images: Images) -> Float32 | None:
        """Compute softmax probabilities [n, C], averaged over the symmetries of the square; None without labels."""
        if self.score is None:
            return None
        channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        total = torch.zeros(())
        for element in range(ORDER):
            view = np.ascontiguousarray(d4(channels_first, element).permute(0, 2, 3, 1).numpy())
            total = total + torch.from_numpy(self.score(view)).softmax(1)
        averaged: Float32 = (total / ORDER).numpy()
        return averaged

    def classify(self, images: Images) -> Int64 | None:
        """Return the most probable label [n], an index into `classes`; None without labels."""
        probabilities = self.probabilities(images)
        return None if probabilities is None else probabilities.argmax(1).astype(np.int64)


def short_hash(model: torch.nn.Module) -> str:
    """Return the first 12 digits of the sha256 of the weights."""
    from dpd_train.bases import weights_hash  # loads diffusers, which computing features does not need

    return weights_hash(model)[:12]


# -- Files in the user's cache that hold what was trained on real images.


def images_hash(images: Images, labels: Int64) -> str:
    """sha256 over shape, pixels [n, H, W, C] and labels [n], in their order (the order decides the batches)."""
    digest = hashlib.sha256(json.dumps(images.shape, allow_nan=False).encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def store(path: Path, content: bytes) -> None:
    """Write a file atomically, in a folder that only the user can read. Two processes may write the same file.

    Raises:
        DiskError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # the results remember training images
        write_atomically(path, content)
    except OSError as error:
        raise DiskError(
            f"{path.parent}: the result of a training cannot be stored ({error.strerror}); "
            "set XDG_CACHE_HOME to another folder"
        ) from None


def store_weights(path: Path, network: torch.nn.Module, meta: dict[str, Any]) -> None:
    """Store a network's weights with a few JSON values.

    Raises:
        DiskError: the folder cannot be written.
    """
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    store(path, save(weights, {"meta": json.dumps(meta, allow_nan=False)}))


def load_weights(path: Path, network: torch.nn.Module) -> dict[str, Any] | None:
    """Load stored weights into `network` and return the JSON values; None if the file is missing or damaged."""
    if not is_own(path):
        return None
    try:
        tensors, meta = load_state(path)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return meta


# -- The extractor `own`: a small residual network that is trained on the user's images and kept in the cache.


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


# -- The extractor `untrained`: a network with random weights. No generator, code or classifier was trained to please
# it.
#
# Metrics in the features of a trained network reward a set that was made by looking through such networks. Random
# features say less about classes, and are as far from all of them (Naeem et al. 2020, 2002.09797, section 3.3).


RANDOM_WEIGHTS_SEED = 230  # of the weights; used by nothing else
FITTED = 2000  # training images, at most, that means and deviations are taken from
FLOOR = 1e-6  # least deviation that a feature is divided by


def untrained_extractor(train: SceneSet) -> Extractor:
    """A ResNet with random weights. Its batch norms, means and deviations are those of at most FITTED of `train`.

    Features are means and deviations of the maps of all stages but the last, the same for all eight symmetries of an
    image, and standardised.
    """
    rows = np.unique(np.linspace(0, len(train.images) - 1, FITTED).astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        model = ResNet(ResNetConfig(num_classes=2, in_channels=train.images.shape[-1]))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of all batches alike
    compute = partial(stage_statistics, model)
    in_batches(compute, train.images[rows])  # sets the batch norms
    model.eval()
    features = in_batches(compute, train.images[rows])
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(FLOOR)

    def embed(images: Images) -> Float32:
        standardised: Float32 = ((in_batches(compute, images) - mean) / deviation).numpy()
        return standardised

    widths = model.config.widths
    description = (
        f"untrained: ResNet {'-'.join(map(str, widths))} with random weights, means and deviations of all stages but "
        f"the last [{2 * sum(widths[:-1])}], standardised on {len(rows)} training images, weights {short_hash(model)}"
    )
    return Extractor("untrained", description, None, embed, symmetric=True)


def stage_statistics(model: ResNet, images: torch.Tensor) -> torch.Tensor:
    """Mean and deviation of every channel of all stages but the last, averaged over the symmetries of the square.

    A linear probe finds more in them than in the last stage, which must not change with the colours of the views.

    Args:
        images: [n, C, S, S] in [-1, 1].

    Returns:
        [n, 2 · Σ widths], the last width left out: the means of a stage, then its deviations.
    """
    total = torch.zeros(())
    for element in range(ORDER):
        values = model.stem(d4(images, element).contiguous(memory_format=torch.channels_last))
        statistics = []
        for stage in model.stages[:-1]:
            values = stage(values)
            deviations, means = torch.std_mean(values, dim=(2, 3), correction=0)
            statistics += [means, deviations]
        total = total + torch.cat(statistics, dim=1)
    return total / ORDER


# -- The extractor `NAME:FOLDER`: an encoder that was trained without labels.


def encoder_extractor(name: str, encoder: Encoder) -> Extractor:
    """Open an encoder as an extractor. Larger images than it was trained on are reduced to that size.

    Args:
        name: as the user gave it.

    Raises:
        InputError: as `encoder.load`.
    """
    model = encoder.load().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    widths = model.config.widths

    def embed(images: Images) -> Float32:
        features: Float32 = in_batches(partial(stage_statistics, model), images, encoder.side).numpy()
        return features

    description = (
        f"{encoder.name}: ResNet {'-'.join(map(str, widths))} trained without labels at {encoder.side} px, means and "
        f"deviations of all stages but the last [{2 * sum(widths[:-1])}], "
        f"{count_parameters(model) / 1e6:.1f} M parameters, weights {encoder.sha256[:12]}"
    )
    return Extractor(name, description, None, embed, symmetric=True)


# -- The extractor `hf:ID_OR_PATH`: pooled features of a transformers image model that is already on this machine.


IMAGES_PER_CALL = 32


def hub_extractor(name: str) -> Extractor:
    """Open the model of `hf:ID_OR_PATH` as an extractor without labels.

    Features are the model's pooled output if its checkpoint contains the pooling weights, otherwise the mean of the
    last hidden state over tokens or positions. Models for images and text (CLIP) contribute their image tower.
    Only safetensors weights and the code of transformers itself are loaded. Nothing is downloaded.

    Raises:
        InputError: no such model on this machine, pickled or missing weights, or not an image model.
    """
    source, what = name.removeprefix(HUB), f"extractor {name}"
    folder, _ = find_model(source)
    processor = image_processor(what, folder)
    model, pooled = image_model(what, folder)
    embed = partial(_features_by_transformers, model, processor, pooled)
    try:
        width = embed(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
    except Exception as error:  # other kinds of models fail in many ways
        reason = first_sentence(error)
        raise InputError(f"{what}: gives no features of an image ({reason}); use an image model") from None
    kind = f"{type(model).__name__}, {'pooled' if pooled else 'mean'} features [{width}]"
    return Extractor(name, f"{public_name(source)}: {kind}, weights {short_hash(model)}", None, embed)


@torch.no_grad()
def _features_by_transformers(model: torch.nn.Module, processor: Any, pooled: bool, images: Images) -> Float32:
    parts = []
    for i in range(0, len(images), IMAGES_PER_CALL):
        batch = processor(
            images=list(images[i : i + IMAGES_PER_CALL]), return_tensors="pt", input_data_format="channels_last"
        )
        output = model(pixel_values=batch["pixel_values"])
        vectors = getattr(output, "pooler_output", None) if pooled else None
        if vectors is None:
            hidden = output.last_hidden_state
            vectors = hidden.mean(dim=1) if hidden.ndim == 3 else hidden.mean(dim=(2, 3))
        parts.append(vectors.flatten(1))
    features: Float32 = torch.cat(parts).float().numpy()
    return features
