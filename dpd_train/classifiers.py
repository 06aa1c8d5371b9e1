"""Train classifiers: of images and latents, and several as watchers."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from dpd_runtime.annotations import Progress
from dpd_runtime.files import write_atomically
from dpd_train.compute import (
    NEVER,
    Deadline,
    TimeUp,
    adamw,
    autocast,
    decay_groups,
    draw_rows,
    prefixed,
    to_device,
    without_prefix,
)
from dpd_train.loop import State, Task, Tensors, train, trapezium
from dpd_train.networks import (
    Classifier,
    Network,
    ResNet,
    ResNetConfig,
    Shape,
    load_classifier,
    predict,
    save_classifier,
    weights_to_bytes,
)
from dpd_train.scene_set import SceneSet, to_float
from dpd_train.symmetry import ORDER, d4_each

# -- The task of all small classifiers: teacher, latent classifier, perceptual networks, watchers.


log = logging.getLogger(__name__)
Labelled = tuple[torch.Tensor, torch.Tensor]
"""Inputs [n, C, H, W] float32 and labels [n] int64."""
Noise = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""(batch [B, C, H, W], generator on the CPU) → the batch with noise, on its device."""


def evenly(data: Labelled, count: int) -> Labelled:
    """Evenly spaced images: all of fewer than 2 · `count`, otherwise `count` to 2 · `count`."""
    every = max(1, len(data[0]) // count)
    return data[0][::every], data[1][::every]


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """AdamW with warm-up, plateau and decay. Label smoothing limits the confidence on training images."""

    steps: int
    batch: int = 64
    peak_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    colour_gain: float = 0.0
    validate_every: int = 200
    bfloat16: bool = True
    seed: int = 0


@dataclass(frozen=True)
class TrainedClassifier(Generic[Network]):
    model: Network
    accuracy: float
    step: int


def labelled(scenes: SceneSet) -> Labelled:
    """Images in [-1, 1] with labels."""
    return to_float(torch.from_numpy(scenes.images)), torch.from_numpy(scenes.labels)


def _jitter(images: torch.Tensor, gain: float, generator: torch.Generator) -> torch.Tensor:
    """Scale each colour channel of each image by 1 ± gain."""
    scale = 1 + gain * (2 * torch.rand(len(images), images.shape[1], 1, 1, generator=generator) - 1)
    return ((images + 1) * to_device(scale, images.device) - 1).clamp(-1, 1)


def _augmented_batch(
    inputs: torch.Tensor, training: ClassifierTraining, weights: torch.Tensor | None, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs after random symmetries and jitter of the colours [B, C, H, W], and their rows [B] int64."""
    rows = draw_rows(len(inputs), training.batch, weights, generator)
    elements = torch.randint(ORDER, (training.batch,), generator=generator)
    rows, elements = to_device(rows, inputs.device), to_device(elements, inputs.device)
    batch = d4_each(inputs[rows], elements)
    if training.colour_gain:
        batch = _jitter(batch, training.colour_gain, generator)
    return batch, rows


def train_classifier(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor],
    shape: Shape[Network],
    training: ClassifierTraining,
    progress: Progress = lambda step, steps: None,
    noise: Noise | None = None,
    *,
    observe: Callable[[torch.Tensor], None] = lambda logits: None,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    state: Path | None = None,
    weights: torch.Tensor | None = None,
) -> TrainedClassifier[Network]:
    """Train on `inputs` [n, C, H, W] float32 and keep the weights with the best validation accuracy.

    Args:
        noise: changes a batch after augmentation.
        observe: called with the logits [n, C] of the validation part each time they are computed.
        state: file that is written every minute and when the deadline passes, and read if it exists.
        weights: of the inputs, see `draw_rows`.

    Returns:
        the model, on the CPU.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    device = torch.device(device)
    torch.manual_seed(training.seed)  # initial weights and dropout; all other random numbers have their generator
    model: Network = shape.build().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs, labels, held = inputs.to(device), labels.to(device), validation[0].to(device)
    best, found = dict[str, torch.Tensor](), {"best_accuracy": -1.0, "best_step": 0}

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        batch, rows = _augmented_batch(inputs, training, weights, generator)
        if noise is not None:
            batch = noise(batch, generator)
        with autocast(device, enabled=training.bfloat16):
            logits = model(batch.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), labels[rows], label_smoothing=training.label_smoothing)

    def after(done: int) -> None:
        if done % training.validate_every and done != training.steps:
            return
        logits = predict(model, held)
        observe(logits)
        accuracy = (logits.argmax(1) == validation[1]).float().mean().item()
        log.debug("step %d validation accuracy %.4f", done, accuracy)
        if accuracy >= found["best_accuracy"]:
            found.update(best_accuracy=accuracy, best_step=done)
            best.update({name: value.clone() for name, value in model.state_dict().items()})

    def kept(done: int) -> State:
        return prefixed("best", best) | {"rng": torch.get_rng_state()}, dict(found)

    def restore(path: Path, tensors: Tensors, meta: dict[str, Any]) -> None:
        best.update(without_prefix("best", tensors))
        found.update({name: meta[name] for name in found})
        torch.set_rng_state(tensors["rng"])  # of dropout on the CPU; on a GPU dropout is not resumed exactly

    task = Task(
        modules={"model": model},
        trained=list(model.parameters()),
        optimizer=adamw(decay_groups(model.parameters(), training.weight_decay), device),
        rate=trapezium(training.steps, training.peak_rate, training.warmup),
        loss=loss,
        after=after,
        kept=kept,
        restore=restore,
    )
    train(task, training.steps, training.seed, progress, state=state, deadline=deadline)
    model.load_state_dict(best)
    return TrainedClassifier(model.cpu().eval(), found["best_accuracy"], int(found["best_step"]))


def trained_classifier(
    folder: Path,
    data: Labelled,
    validation: Labelled,
    shape: ResNetConfig,
    training: ClassifierTraining,
    progress: Progress,
    *,
    state: Path,
    noise: Noise | None = None,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> ResNet:
    """Train a classifier and save it to `folder`, or read what an earlier session saved there.

    Args:
        state: file of an unfinished training. noise: as in `train_classifier`.

    Raises:
        TimeUp: the deadline passed.
    """
    if not (folder / "model.safetensors").exists():
        trained = train_classifier(
            *data, validation, shape, training, progress, noise, device=device, deadline=deadline, state=state
        )
        log.info("%s: validation accuracy %.4f at step %d", folder.name, trained.accuracy, trained.step)
        save_classifier(trained.model, folder)
        state.unlink(missing_ok=True)
    return load_classifier(folder)


# -- Several small classifiers of one data set, trained one after another and stored in a folder.


Plan = tuple[Shape[Classifier], ClassifierTraining]


def _weights(folder: Path, name: str, index: int) -> Path:
    return folder / f"{name}{index}.safetensors"


def load_pool(folder: Path, name: str, shapes: Sequence[Shape[Network]]) -> list[Network]:
    """Read what `train_pool` wrote to `folder`, frozen and in evaluation mode."""
    networks = []
    for i, shape in enumerate(shapes):
        network = shape.build()
        network.load_state_dict(load_file(_weights(folder, name, i)))
        networks.append(network.eval().requires_grad_(False).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return networks


def train_pool(
    folder: Path,
    name: str,
    plans: Sequence[Plan],
    data: Labelled,
    validation: Labelled,
    progress: Callable[[int, int], None],
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    weights: torch.Tensor | None = None,
) -> list[float]:
    """Train the networks and write their weights to `folder`, named `name` and number. Finished ones are skipped.

    weights: of the training images, see `draw_rows`.

    Returns:
        accuracy on the validation part of each network that was trained now.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    total, accuracies = sum(training.steps for _, training in plans), list[float]()
    for i, (shape, training) in enumerate(plans):
        kept, unfinished = _weights(folder, name, i), folder / f"{name}{i}.unfinished.safetensors"
        done = sum(before.steps for _, before in plans[:i])
        if kept.exists():
            continue
        try:
            trained = train_classifier(
                *data,
                validation,
                shape,
                training,
                lambda step, steps, done=done: progress(done + step, total),  # type: ignore[misc]
                device=device,
                deadline=deadline,
                state=unfinished,
                weights=weights,
            )
        except TimeUp as stop:
            raise TimeUp(done + stop.step, total) from stop
        accuracies.append(trained.accuracy)
        write_atomically(kept, weights_to_bytes(trained.model))
        unfinished.unlink(missing_ok=True)
    return accuracies
