"""One training loop for every small classifier: teacher, latent classifier, perceptual networks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dpd_train.checkpoint import step_generator
from dpd_train.classifiers import ResNet, ResNetConfig, learning_rate, predict, set_learning_rate
from dpd_train.symmetry import random_d4

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """AdamW with warm-up, plateau and decay; label smoothing keeps the confidence on members in bounds (METHOD §9)."""

    steps: int
    batch: int = 64
    peak_rate: float = 2e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    colour_gain: float = 0.0
    validate_every: int = 200
    bfloat16: bool = True
    seed: int = 0


@dataclass(frozen=True)
class TrainedClassifier:
    model: ResNet
    accuracy: float
    step: int


def _jitter(images: torch.Tensor, gain: float, generator: torch.Generator) -> torch.Tensor:
    """Scale each colour channel of each image by 1 ± gain."""
    scale = 1 + gain * (2 * torch.rand(len(images), images.shape[1], 1, 1, generator=generator) - 1)
    return ((images + 1) * scale - 1).clamp(-1, 1)


def train_classifier(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor],
    shape: ResNetConfig,
    training: ClassifierTraining,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    noise: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
) -> TrainedClassifier:
    """Train on `inputs` [n, C, H, W] float32 and keep the weights that were best on the validation part.

    Args:
        noise: changes a batch after augmentation, e.g. adds diffusion noise for a judge on latents.
    """
    torch.manual_seed(training.seed)  # initial weights; every later draw has its own generator
    model = ResNet(shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    )
    best_accuracy, best_step = -1.0, 0
    best: dict[str, torch.Tensor] = {}
    for step in range(training.steps):
        generator = step_generator(training.seed, step)
        rows = torch.randint(len(inputs), (training.batch,), generator=generator)
        batch = random_d4(inputs[rows], generator)
        if training.colour_gain:
            batch = _jitter(batch, training.colour_gain, generator)
        if noise is not None:
            batch = noise(batch, generator)
        set_learning_rate(optimizer, learning_rate(step, training.steps, training.peak_rate))
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            logits = model(batch.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=training.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = step + 1 == training.steps
        if (step + 1) % training.validate_every == 0 or last:
            accuracy = (predict(model, validation[0]).argmax(1) == validation[1]).float().mean().item()
            log.info("step %d loss %.3f validation accuracy %.4f", step + 1, loss.item(), accuracy)
            if accuracy >= best_accuracy:
                best_accuracy, best_step = accuracy, step + 1
                best = {name: value.clone() for name, value in model.state_dict().items()}
        progress(step + 1, training.steps)
    model.load_state_dict(best)
    return TrainedClassifier(model.eval(), best_accuracy, best_step)
