"""Train one student on one arm and count its predictions on the test images."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.statistics import confusion_matrix
from dpd_eval.students.augmentation import augment, cutmix
from dpd_eval.students.recipe import Recipe
from dpd_eval.students.student import at_inference, build_student
from dpd_runtime.annotations import Float32, Images, Int64, Progress
from dpd_train.compute.device import autocast, decay_groups, has_bfloat16, one_thread, to_device
from dpd_train.images import to_float


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
    """Yield rows [batch] forever: each random permutation of 0 … count-1 is used up before the next one."""
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


def _criterion(
    targets: torch.Tensor, order: torch.Tensor | None, kept: float, smoothing: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the loss of logits [B, num_classes] for `targets`, mixed with those in `order` for a mixed batch."""

    def loss(logits: torch.Tensor) -> torch.Tensor:
        own = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if order is None:
            return own
        return kept * own + (1 - kept) * F.cross_entropy(logits, targets[order], label_smoothing=smoothing)

    return loss


def train_student(
    name: str,
    images: Images,
    labels: Int64,
    num_classes: int,
    recipe: Recipe,
    seed: int,
    progress: Progress = lambda step, steps: None,
    soft: Float32 | None = None,
    *,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Build student `name` with new weights and train it, as `train_network`, or as it fits itself."""
    model = build_student(name, num_classes, seed, images.shape[-1])
    fit: Any = getattr(model, "fit", None)
    if fit is not None:
        fit(images, labels, soft)
        return model.eval()
    return train_network(model, images, labels, recipe, seed, progress, soft, device=device)


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
    device = torch.device(device)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    auxiliary_loss: Any = getattr(model, "auxiliary_loss", None)
    optimizer = _optimizer(model, recipe)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    targets = torch.from_numpy(np.ascontiguousarray(labels if soft is None else soft))
    smoothing = recipe.label_smoothing if soft is None else 0.0
    stream = batches(len(pixels), recipe.batch, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for step in range(recipe.steps):
            rows = next(stream)
            batch = augment(pixels[rows].permute(0, 3, 1, 2), recipe, generator)
            order, kept = None, 1.0
            if recipe.cutmix and torch.rand((), generator=generator).item() < recipe.cutmix:
                batch, order, kept = cutmix(batch, generator)
            wanted = to_device(targets[rows], device)
            criterion = _criterion(wanted, None if order is None else to_device(order, device), kept, smoothing)
            x = to_device(to_float(batch.permute(0, 2, 3, 1)), device).contiguous(memory_format=torch.channels_last)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, recipe)
            with autocast(device, enabled=recipe.precision == "bf16"):
                logits = model(x)
                more = 0.0 if auxiliary_loss is None else auxiliary_loss(criterion)
            loss = criterion(logits.float()) + more
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress(step + 1, recipe.steps)
    return at_inference(model).eval().to("cpu")


def predict(model: nn.Module, images: Images, precision: str, batch: int = 256) -> Int64:
    """Predict the most likely class [n] of `images` [n, H, W, C]."""
    predictions = []
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
    *,
    device: str = "cpu",
) -> Int64:
    """Train on `train` in one thread and return the confusion matrix [true class, predicted class] on `test`."""
    with one_thread():
        model = train_student(name, *train, num_classes, recipe, seed, progress, soft, device=device)
        return confusion_matrix(test[1], predict(model, test[0], recipe.precision), num_classes)
