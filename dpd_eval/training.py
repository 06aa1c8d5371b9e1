"""Train one student on one arm and count what it says about the test images."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from dpd_eval.recipe import Recipe
from dpd_eval.statistics import confusion_matrix
from dpd_eval.students import build_student
from dpd_train.images import to_float
from dpd_train.symmetry import random_d4


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate of `step` (from 0): linear warm-up, then a cosine or a line which reaches 0 after the last step."""
    if step < recipe.warmup:
        return recipe.peak_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    if recipe.decay == "linear":
        return recipe.peak_rate * (1 - done)
    return recipe.peak_rate * 0.5 * (1 + math.cos(math.pi * done))


def batches(count: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Rows [batch] without end: every permutation of 0 … count-1 is used up before the next is drawn."""
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < batch:
            queue = torch.cat([queue, torch.randperm(count, generator=generator)])
        yield queue[:batch]
        queue = queue[batch:]


def random_shift(images: torch.Tensor, limit: int, generator: torch.Generator) -> torch.Tensor:
    """Translate each image of [B, C, H, W] by up to `limit` pixels along each axis, borders mirrored.

    The same as a random crop after reflect padding, in one gather. `limit` is cut to the image's size minus one.
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
    """Paste one box from a permuted batch (Yun et al. 2019, alpha 1: kept share uniform in [0, 1]).

    Returns:
        the mixed images, the permutation [B], and the share of each image's own pixels.
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


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.peak_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.peak_rate)


def train_student(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    num_classes: int,
    recipe: Recipe,
    seed: int,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> nn.Module:
    """Train student `name` on `images` [n, H, W, 3]; the weights after the last step are the result.

    The same arguments give the same weights on the same machine and thread count.
    """
    model = build_student(name, num_classes, seed)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optimizer = _optimizer(model, recipe)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    targets = torch.from_numpy(np.ascontiguousarray(labels))
    stream = batches(len(pixels), recipe.batch, generator)
    for step in range(recipe.steps):
        rows = next(stream)
        batch = pixels[rows].permute(0, 3, 1, 2)  # augmented as bytes: a quarter of the traffic of float32
        if recipe.d4:
            batch = random_d4(batch, generator)
        if recipe.shift:
            batch = random_shift(batch, recipe.shift, generator)
        order, kept = None, 1.0
        if recipe.cutmix and torch.rand((), generator=generator).item() < recipe.cutmix:
            batch, order, kept = cutmix(batch, generator)
        x = to_float(batch.permute(0, 2, 3, 1)).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = model(x)
        logits = logits.float()
        loss = F.cross_entropy(logits, targets[rows], label_smoothing=recipe.label_smoothing)
        if order is not None:
            other = F.cross_entropy(logits, targets[rows[order]], label_smoothing=recipe.label_smoothing)
            loss = kept * loss + (1 - kept) * other
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(step + 1, recipe.steps)
    return model.eval()


def predict(model: nn.Module, images: NDArray[np.uint8], precision: str, batch: int = 256) -> NDArray[np.int64]:
    """Most likely class [n] of each of `images` [n, H, W, 3]."""
    found = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for i in range(0, len(images), batch):
            x = to_float(torch.from_numpy(np.ascontiguousarray(images[i : i + batch])))
            found.append(model(x.contiguous(memory_format=torch.channels_last)).argmax(1).numpy())
    return np.concatenate(found).astype(np.int64)


def train_and_test(
    name: str,
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    num_classes: int,
    recipe: Recipe,
    seed: int,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> NDArray[np.int64]:
    """Confusion matrix [true class, predicted class] on `test` after training on `train` in one thread.

    One thread always, so that the number of workers does not change the figures.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = train_student(name, *train, num_classes, recipe, seed, progress)
        return confusion_matrix(test[1], predict(model, test[0], recipe.precision), num_classes)
    finally:
        torch.set_num_threads(threads)
