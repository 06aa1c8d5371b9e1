"""Train classifiers: of images and latents, and several as watchers."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from dpd_runtime.annotations import Progress
from dpd_runtime.files import write_atomically
from dpd_train.compute import (
    NEVER,
    Deadline,
    TimeUp,
    adamw,
    autocast,
    checkpointed,
    decay_groups,
    draw_rows,
    load_state,
    on_cpu,
    optimizer_tensors,
    prefixed,
    restore_moments,
    save_state,
    step_generator,
    to_device,
    without_prefix,
)
from dpd_train.networks import (
    Classifier,
    Network,
    ResNet,
    ResNetConfig,
    Shape,
    learning_rate,
    load_classifier,
    predict,
    save_classifier,
    set_learning_rate,
    weights_to_bytes,
)
from dpd_train.scene_set import SceneSet, to_float
from dpd_train.symmetry import ORDER, d4_each

# -- The training loop of all small classifiers: teacher, latent classifier, perceptual networks, watchers.


log = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 60.0
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


class _Run(Generic[Network]):
    """Model, optimiser and the best weights so far, saved to and restored from the state file."""

    def __init__(self, shape: Shape[Network], training: ClassifierTraining, device: torch.device) -> None:
        self.training = training
        torch.manual_seed(training.seed)  # initial weights and dropout; all other random numbers have their generator
        self.model = shape.build().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = adamw(decay_groups(self.model.parameters(), training.weight_decay), device)
        self.accuracy, self.step = -1.0, 0
        self.best: dict[str, torch.Tensor] = {}

    def update(self, step: int, batch: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One update. Returns the loss."""
        training = self.training
        set_learning_rate(self.optimizer, learning_rate(step, training.steps, training.peak_rate, training.warmup))
        with autocast(batch.device, enabled=training.bfloat16):
            logits = self.model(batch.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=training.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss

    def keep_if_best(self, accuracy: float, step: int) -> None:
        if accuracy >= self.accuracy:
            self.accuracy, self.step = accuracy, step
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}

    def restore(self, state: Path) -> int:
        tensors, meta = load_state(state)
        self.model.load_state_dict(without_prefix("model", tensors))
        restore_moments(self.optimizer, without_prefix("optimizer", tensors))
        self.best = without_prefix("best", tensors)
        torch.set_rng_state(tensors["rng"])  # of dropout on the CPU; on a GPU dropout is not resumed exactly
        self.accuracy, self.step = meta["best_accuracy"], meta["best_step"]
        return int(meta["step"])

    def save(self, state: Path, step: int) -> None:
        tensors = prefixed("model", self.model.state_dict()) | prefixed("best", self.best)
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        tensors |= {"rng": torch.get_rng_state()}
        meta = {"step": step, "best_accuracy": self.accuracy, "best_step": self.step}
        save_state(state, on_cpu(tensors), meta)


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
    if deadline is not NEVER and state is None:
        raise ValueError("a deadline needs a state file to stop at")
    device = torch.device(device)
    run = _Run(shape, training, device)
    start = run.restore(state) if state is not None and state.exists() else 0
    inputs, labels, held = inputs.to(device), labels.to(device), validation[0].to(device)

    def save(done: int) -> None:
        if state is not None:
            run.save(state, done)

    for step in checkpointed(range(start, training.steps), save, CHECKPOINT_SECONDS, deadline, progress):
        generator = step_generator(training.seed, step)
        batch, rows = _augmented_batch(inputs, training, weights, generator)
        if noise is not None:
            batch = noise(batch, generator)
        loss = run.update(step, batch, labels[rows])
        last = step + 1 == training.steps
        if (step + 1) % training.validate_every == 0 or last:
            logits = predict(run.model, held)
            observe(logits)
            accuracy = (logits.argmax(1) == validation[1]).float().mean().item()
            log.debug("step %d loss %.3f validation accuracy %.4f", step + 1, loss.item(), accuracy)
            run.keep_if_best(accuracy, step + 1)
    run.model.load_state_dict(run.best)
    return TrainedClassifier(run.model.cpu().eval(), run.accuracy, run.step)


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
