"""Students: built by name, trained by a recipe, kept in a cache."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval import networks as mobilenetv2
from dpd_eval import networks as resnet
from dpd_eval import networks as vit
from dpd_eval.backbones import Backbone, Probe
from dpd_eval.extractors import store
from dpd_eval.hub import is_hub
from dpd_eval.networks import ConvNet, ConvNetD3
from dpd_eval.pretrained import (
    NAMES,
    PROBE,
    TUNE,
    TUNE_RECIPE,
    build_pretrained,
    check_student,
    extension,
    is_pretrained,
    pretrained_identity,
    without_way,
)
from dpd_eval.recipe import Recipe, load_recipe
from dpd_eval.statistics import confusion_matrix
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_runtime.errors import InputError
from dpd_runtime.files import cache_folder, read_cached
from dpd_train.compute import autocast, decay_groups, has_bfloat16, one_thread, to_device
from dpd_train.doors import offering_package
from dpd_train.loop import Task, train
from dpd_train.scene_set import to_float
from dpd_train.symmetry import random_d4

# -- The table of students, and building one by name.
#
# A student takes [B, 3, H, W] in [-1, 1], of any size, and returns logits [B, num_classes]; one that is built with
# `in_channels` takes images of so many bands. No student is a network that made or chose images. To add a family, write
# its file, its name in `names` and a line in `STUDENTS`; or offer it from another package (docs/guides/extend.md). A
# student with `auxiliary_loss(criterion)` adds it to its loss after each call; one with `fit(images, labels, soft)` is
# fitted by that instead of by a recipe.


STUDENTS: dict[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    "convnet-d3": ConvNetD3,
    "resnet": resnet.small,
    "resnet18": resnet.resnet18,
    "mobilenetv2": mobilenetv2.mobilenetv2,
    "vit-tiny": vit.vit_tiny,
}


def build_student(name: str, num_classes: int, seed: int, in_channels: int = 3) -> nn.Module:
    """Build a student with new weights that depend on `seed` only. The global generator is not changed.

    Args:
        name: a key of `STUDENTS`; `hf:ID_OR_PATH`, an encoder's `NAME:FOLDER`, `probe:` before one of these or
            `tune:hf:ID_OR_PATH`, which start from the model's own weights; or a student of another package
            (`dpd.students`).
        in_channels: bands of the images.

    Raises:
        InputError: an unknown student, a model that is not on this machine, or one that knows RGB only.
    """
    check_student(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_pretrained(name):
            _refuse_bands(name, in_channels)
            return build_pretrained(name, num_classes)
        build = STUDENTS[name] if name in STUDENTS else extension(name)
        if in_channels == 3:
            return build(num_classes)
        if "in_channels" not in signature(build).parameters:
            _refuse_bands(name, in_channels)
        return build(num_classes, in_channels=in_channels)


def recipe_of(student: str, asked: Recipe) -> Recipe:
    """The recipe of one student: networks whose layers are all tuned have their own, whatever that of the others."""
    return load_recipe(TUNE_RECIPE) if student.startswith(TUNE) else asked


def _refuse_bands(name: str, in_channels: int) -> None:
    """Refuse other images than RGB for a student that has learned from RGB, or is built for it."""
    if in_channels != 3:
        raise InputError(
            f"student {name}: takes images of 3 bands, these have {in_channels}; give --students convnet, another of "
            f"{', '.join(NAMES[1:])}, or three bands (--bands 4,3,2)"
        )


def at_inference(student: nn.Module) -> nn.Module:
    """Return the network that predicts: what `student.at_inference()` gives, where training needs further branches."""
    bare = getattr(student, "at_inference", None)
    return student if bare is None else bare()


def student_identity(name: str) -> str:
    """Return a text that identifies a student in the key of a stored training.

    It includes the weights of a hub model, and the versions of what builds it and fits its last layer.
    """
    if name == "convnet":
        return name
    import transformers

    known = is_pretrained(name)
    parts = [pretrained_identity(name) if known else name, f"transformers {transformers.__version__}"]
    parts += [f"timm {version('timm')}"] if known and is_hub(without_way(name)) and find_spec("timm") else []
    parts += [f"scikit-learn {version('scikit-learn')}"] if name.startswith((PROBE, TUNE)) else []
    parts += ["predicts in float32"] if name.startswith(PROBE) else []
    if name not in NAMES and not known:
        parts += [offering_package("dpd.students", name.partition(":")[0])]
    return " ".join(parts)


def count_multiply_adds(model: nn.Module, height: int, width: int, in_channels: int = 3) -> int:
    """Count the multiply-adds of convolutions and linear layers for one [in_channels, height, width] image.

    A convolution costs output elements × (in_channels / groups) × kernel area, a linear layer in × out. Norms, pooling
    and the matrix products of attention are not counted.
    """
    total = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += output[0].numel() * weight[0].numel()

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, in_channels, height, width))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return total


# -- Augmentation of training batches. All random numbers come from the given generator.


def augment(images: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Apply the recipe's symmetries, flips, crops and shifts to uint8 [B, C, H, W]."""
    if recipe.d4:
        images = random_d4(images, generator)
    if recipe.flips:
        images = random_flips(images, generator)
    if recipe.crop < 1:
        images = random_crop(images, recipe.crop, generator)
    if recipe.shift:
        images = random_shift(images, recipe.shift, generator)
    return images


def random_flips(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image of [B, C, H, W] left-right and up-down, each with probability 1/2."""
    sideways, upright = torch.rand(2, len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(sideways, images.flip(-1), images)
    return torch.where(upright, images.flip(-2), images)


def random_crop(images: torch.Tensor, smallest: float, generator: torch.Generator) -> torch.Tensor:
    """Crop a random box from each image of [B, C, H, W] uint8 and resize it bilinearly to H × W.

    The box has a share of the area uniform in [smallest, 1] and an aspect ratio log-uniform in [3/4, 4/3]. Its sides
    are limited to the image's (torchvision's RandomResizedCrop samples again instead).
    """
    area, ratio, x, y = torch.rand(4, len(images), generator=generator)
    area = smallest + (1 - smallest) * area
    ratio = torch.exp((2 * ratio - 1) * math.log(4 / 3))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero = torch.zeros_like(width)
    # affine_grid's coordinates run from -1 to 1: a box of width w at offset x·(1 - w) is centred at (2x - 1)(1 - w)
    across = torch.stack([width, zero, (2 * x - 1) * (1 - width)], dim=1)
    down = torch.stack([zero, height, (2 * y - 1) * (1 - height)], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    cut = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.round().to(images.dtype)


def random_shift(images: torch.Tensor, limit: int, generator: torch.Generator) -> torch.Tensor:
    """Translate each image of [B, C, H, W] by up to `limit` pixels along each axis, with mirrored borders.

    This equals a random crop after reflect padding. `limit` is reduced to the image's size minus one.
    """
    count, _, height, width = images.shape

    def source(size: int) -> torch.Tensor:
        bound = min(limit, size - 1)
        offset = torch.randint(-bound, bound + 1, (count, 1), generator=generator)
        index = (torch.arange(size) + offset).abs()
        return torch.where(index > size - 1, 2 * (size - 1) - index, index)

    rows, columns = source(height), source(width)
    moved = images.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def cutmix(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Paste one box from a permuted batch (CutMix, Yun et al. 2019; alpha 1: kept share uniform in [0, 1]).

    Returns:
        The mixed images, the permutation [B], and the share of each image's own pixels.
    """
    height, width = images.shape[-2:]
    kept, x, y = torch.rand(3, generator=generator).tolist()
    side = math.sqrt(1 - kept)
    top, bottom = (round(min(max(y * height + s * side * height / 2, 0), height)) for s in (-1, 1))
    left, right = (round(min(max(x * width + s * side * width / 2, 0), width)) for s in (-1, 1))
    order = torch.randperm(len(images), generator=generator)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[order][..., top:bottom, left:right]
    return mixed, order, 1 - (bottom - top) * (right - left) / (height * width)


# -- Train one student on one arm and count its predictions on the test images.


def in_float32(recipe: Recipe, device: str) -> bool:
    """Whether the device lacks instructions for what the recipe asks for, so that it computes in float32."""
    return recipe.precision == "bf16" and not has_bfloat16(torch.device(device))


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate of `step` (counted from 0).

    After a linear warm-up it follows a cosine or a line to 0 after the last step, or, for `multistep`, is multiplied
    by 0.1 at 2/3 and again at 5/6 of the steps.
    """
    if step < recipe.warmup:
        return recipe.peak_rate * (step + 1) / recipe.warmup
    if recipe.decay == "multistep":
        return recipe.peak_rate * 0.1 ** ((3 * step >= 2 * recipe.steps) + (6 * step >= 5 * recipe.steps))
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    if recipe.decay == "linear":
        return recipe.peak_rate * (1 - done)
    return recipe.peak_rate * 0.5 * (1 + math.cos(math.pi * done))


def batches(count: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield rows [batch] forever: each random permutation of 0 … count-1 is used up before the next one.

    Args:
        count: 1 or more; of none there is no batch.
    """
    assert count > 0
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < batch:
            queue = torch.cat([queue, torch.randperm(count, generator=generator)])
        yield queue[:batch]
        queue = queue[batch:]


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = decay_groups(model.parameters(), recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.peak_rate, momentum=0.9, nesterov=recipe.nesterov)
    return torch.optim.AdamW(groups, lr=recipe.peak_rate)


Criterion = Callable[[torch.Tensor], torch.Tensor]
"""Logits [B, num_classes] of a batch → its loss."""
Answers = Callable[[torch.Tensor], torch.Tensor]
"""Views [B, C, H, W] in [-1, 1] → a teacher's logits [B, num_classes]."""
TEMPERATURE = 2.0
"""Of a teacher's answers, and of a student's."""


@dataclass(frozen=True)
class View:
    """A batch as a student sees it.

    Args:
        rows: [B], of the images. x: [B, C, H, W] in [-1, 1], augmented and perhaps mixed.
        order: [B], which image of the batch lent its pixels to each; None for a batch that is not mixed.
        kept: share of each image's own pixels.
    """

    rows: torch.Tensor
    x: torch.Tensor
    order: torch.Tensor | None = None
    kept: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """Images, and what is to be learned from a batch of them.

    Args:
        parts: arrays uint8 [n, H, W, C], whose rows are counted through all of them.
    """

    parts: tuple[Images, ...]
    criterion: Callable[[View], Criterion]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def pixels(self, rows: torch.Tensor) -> torch.Tensor:
        """The images of these rows, uint8 [B, H, W, C]."""
        wanted, found, first = rows.numpy(), np.empty((len(rows), *self.parts[0].shape[1:]), np.uint8), 0
        for part in self.parts:
            here = (wanted >= first) & (wanted < first + len(part))
            found[here] = part[wanted[here] - first]
            first += len(part)
        return torch.from_numpy(found)


def labelled_lesson(parts: tuple[Images, ...], targets: Int64 | Float32, smoothing: float) -> Lesson:
    """Labels [n], smoothed, or probabilities [n, num_classes]; where images are mixed, targets are."""
    all_targets = torch.from_numpy(np.ascontiguousarray(targets))

    def criterion(view: View) -> Criterion:
        wanted = to_device(all_targets[view.rows], view.x.device)
        order = None if view.order is None else to_device(view.order, view.x.device)

        def loss(logits: torch.Tensor) -> torch.Tensor:
            own = F.cross_entropy(logits, wanted, label_smoothing=smoothing)
            if order is None:
                return own
            other = F.cross_entropy(logits, wanted[order], label_smoothing=smoothing)
            return view.kept * own + (1 - view.kept) * other

        return loss

    return Lesson(parts, criterion)


def taught_lesson(parts: tuple[Images, ...], answers: Answers, temperature: float) -> Lesson:
    """A teacher's answer to every view, also to mixed ones: function matching (Beyer et al. 2022, 2106.05237).

    The loss is T² times the cross-entropy between both softmaxes at temperature T (Hinton et al. 2015, 1503.02531), so
    that its gradient is about as large at every T.
    """

    def criterion(view: View) -> Criterion:
        with torch.no_grad():
            wanted = (answers(view.x).float() / temperature).softmax(1)
        return lambda logits: temperature**2 * F.cross_entropy(logits / temperature, wanted)

    return Lesson(parts, criterion)


def train_student(
    name: str,
    images: Images,
    labels: Int64,
    num_classes: int,
    recipe: Recipe,
    seed: int,
    progress: Progress = lambda step, steps: None,
    soft: Float32 | None = None,
    answers: Answers | None = None,
    *,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Build student `name` with new weights and train it, as `train_network`, or as it fits itself.

    Args:
        answers: of a teacher, which answers every view in the place of the labels.

    Raises:
        InputError: the student cannot be built, or fits itself and would pass the teacher over.
    """
    model = build_student(name, num_classes, seed, images.shape[-1])
    if answers is not None:
        check_taught(name, model)
    if begun(model, lambda: (images, labels, soft)):
        return model.eval()
    if answers is not None:
        lesson, recipe = taught_lesson((images,), answers, TEMPERATURE), recipe.for_training(len(images))
        return train_on(model, [lesson], recipe, seed, progress, device=device)
    return train_network(model, images, labels, recipe, seed, progress, soft, device=device)


def check_taught(name: str, model: nn.Module) -> None:
    """Check that a teacher can teach this student.

    Raises:
        InputError: it fits itself.
    """
    if hasattr(model, "fit"):
        raise InputError(f"student {name}: it fits itself and asks no teacher; give another, or leave out --teacher")


def begun(model: Any, on: Callable[[], tuple[Images, Int64, Float32 | None]]) -> bool:
    """Let a model that can do it fit itself, or its last layer alone, on these images, labels and soft labels.

    Returns:
        whether it needs no training after it.
    """
    if hasattr(model, "fit"):
        model.fit(*on())
        return True
    if hasattr(model, "fit_last_layer"):
        model.fit_last_layer(*on())
    return False


def train_network(
    model: nn.Module,
    images: Images,
    labels: Int64,
    recipe: Recipe,
    seed: int,
    progress: Progress = lambda step, steps: None,
    soft: Float32 | None = None,
    *,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train `model` on `images` [n, H, W, C] and return it with the weights after the last step.

    The same arguments give the same weights on the same machine with the same number of threads. Batches are drawn and
    augmented on the CPU, so that they are the same on every device; the model comes back to the CPU.

    Args:
        soft: probabilities [n, num_classes] to learn instead of `labels` [n]; they are mixed like the images and not
            smoothed.
    """
    recipe = recipe.for_training(len(images))
    lesson = labelled_lesson((images,), *((labels, recipe.label_smoothing) if soft is None else (soft, 0.0)))
    return train_on(model, [lesson], recipe, seed, progress, device=device)


def train_on(
    model: nn.Module,
    lessons: Sequence[Lesson],
    recipe: Recipe,
    seed: int,
    progress: Progress = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train `model` on all lessons at once, as `train_network`: each has an equal part of every batch and of the loss.

    Args:
        lessons: all of images of one size. recipe: with its final number of steps (`Recipe.for_training`).
    """
    device = torch.device(device)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    auxiliary_loss: Any = getattr(model, "auxiliary_loss", None)
    generator = torch.Generator().manual_seed(seed)
    shares = [recipe.batch // len(lessons) + (i < recipe.batch % len(lessons)) for i in range(len(lessons))]
    streams = [batches(len(lesson), share, generator) for lesson, share in zip(lessons, shares, strict=True)]

    def view(lesson: Lesson, rows: torch.Tensor) -> View:
        batch = augment(lesson.pixels(rows).permute(0, 3, 1, 2), recipe, generator)
        order, kept = None, 1.0
        if recipe.cutmix and torch.rand((), generator=generator).item() < recipe.cutmix:
            batch, order, kept = cutmix(batch, generator)
        return View(rows, to_device(to_float(batch.permute(0, 2, 3, 1)), device), order, kept)

    def loss(step: int, _: torch.Generator) -> torch.Tensor:
        views = [view(lesson, next(stream)) for lesson, stream in zip(lessons, streams, strict=True)]
        criteria = [lesson.criterion(seen) for lesson, seen in zip(lessons, views, strict=True)]

        def criterion(logits: torch.Tensor) -> torch.Tensor:
            losses = [learn(part) for learn, part in zip(criteria, torch.split(logits, shares), strict=True)]
            return torch.stack(losses).mean()

        x = torch.cat([seen.x for seen in views]).contiguous(memory_format=torch.channels_last)
        with autocast(device, enabled=recipe.precision == "bf16"):
            logits = model(x)
            more = 0.0 if auxiliary_loss is None else auxiliary_loss(criterion)
        return criterion(logits.float()) + more

    task = Task(
        trained=list(model.parameters()),
        optimizer=_optimizer(model, recipe),
        rate=lambda step: rate_at(step, recipe),
        loss=loss,
        clip=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        train(task, recipe.steps, seed, progress)
    return at_inference(model).eval().to("cpu")


PREDICTED_PIXELS = 256 * 64**2
"""In one call of `predict`: a map of 128 channels takes 0.5 GB."""


def predict(model: nn.Module, images: Images, precision: str) -> Int64:
    """Predict the most likely class [n] of `images` [n, H, W, C], as many at a time as the memory holds easily."""
    if isinstance(model, Probe):
        return model.predict(images)
    side = (model.colours.side if isinstance(model, Backbone) else None) or images.shape[1]
    predictions, batch = [], max(1, PREDICTED_PIXELS // side**2)
    with torch.no_grad(), autocast("cpu", enabled=precision == "bf16"):
        for i in range(0, len(images), batch):
            x = to_float(torch.from_numpy(np.ascontiguousarray(images[i : i + batch])))
            predictions.append(model(x.contiguous(memory_format=torch.channels_last)).argmax(1).numpy())
    return np.concatenate(predictions).astype(np.int64)


def train_and_test(
    name: str,
    train: tuple[Images, Int64],
    test: tuple[Images, Int64],
    num_classes: int,
    recipe: Recipe,
    seed: int,
    progress: Progress = lambda step, steps: None,
    soft: Float32 | None = None,
    answers: Answers | None = None,
    *,
    device: str = "cpu",
) -> Int64:
    """Train on `train` in one thread and return the confusion matrix [true class, predicted class] on `test`."""
    with one_thread():
        model = train_student(name, *train, num_classes, recipe, seed, progress, soft, answers, device=device)
        return confusion_matrix(test[1], predict(model, test[0], recipe.precision), num_classes)


# -- Stored results of trainings, one JSON file each, so that an interrupted or larger evaluation can continue.


FORMAT = 1  # increase this whenever a change to the training or to a student changes results


@dataclass(frozen=True)
class TrainingResult:
    """Confusion matrix [true, predicted] of one student on the test images, and the seconds it took."""

    confusion: Int64
    seconds: float


def default_folder() -> Path:
    return cache_folder("evaluate")


def soft_labels_hash(soft: Float32) -> str:
    """Return the sha256 over shape and values of soft labels [n, C]."""
    return hashlib.sha256(json.dumps(soft.shape, allow_nan=False).encode() + soft.astype("<f4").tobytes()).hexdigest()


def training_key(
    train_hash: str,
    test_hash: str,
    num_classes: int,
    student: str,
    recipe: Recipe,
    seed: int,
    targets: str | None = None,
) -> str:
    """Return the sha256 of everything that decides a training's result on one type of machine.

    Args:
        student: its `student_identity`.
        recipe: with its final number of steps (`Recipe.for_training`).
        targets: what is learned in the place of the labels: the hash of soft labels, or a teacher's identity.
    """
    parts = [FORMAT, train_hash, test_hash, num_classes, student, recipe.key_dict(), seed, str(torch.__version__)]
    if targets is not None:
        parts.append(targets)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def load_result(folder: Path, key: str) -> TrainingResult | None:
    """Load a stored result; None if it is missing or damaged (the training is then repeated)."""
    raw = read_cached(folder / f"{key}.json")
    if raw is None:
        return None
    try:
        stored = json.loads(raw)
        confusion = np.array(stored["confusion"], dtype=np.int64)
        if stored["key"] != key or confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
            return None
        return TrainingResult(confusion, float(stored["seconds"]))
    except (ValueError, KeyError, TypeError):
        return None


def save_result(folder: Path, key: str, result: TrainingResult) -> None:
    """Write atomically: a reader sees the whole file or none.

    Raises:
        DiskError: the folder cannot be written.
    """
    text = json.dumps({"key": key, "confusion": result.confusion.tolist(), "seconds": result.seconds}, allow_nan=False)
    store(folder / f"{key}.json", text.encode())
