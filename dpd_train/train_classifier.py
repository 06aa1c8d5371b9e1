"""One training loop for every small classifier: teacher, latent classifier, perceptual networks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from dpd_train.checkpoint import load_state, optimizer_tensors, prefixed, save_state, step_generator, without_prefix
from dpd_train.classifiers import ResNet, ResNetConfig, learning_rate, predict, set_learning_rate
from dpd_train.device import NEVER, Deadline, TimeUp, adamw, on_cpu, restore_moments, to_device
from dpd_train.symmetry import ORDER, d4_each
from dpd_train.weighted_rows import draw_rows

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
    return ((images + 1) * to_device(scale, images.device) - 1).clamp(-1, 1)


class _Run:
    """Model, optimiser and the best weights so far, and their way to and from the state file."""

    def __init__(self, shape: ResNetConfig, training: ClassifierTraining, device: torch.device) -> None:
        torch.manual_seed(training.seed)  # initial weights and dropout; every other draw has its own generator
        self.model = ResNet(shape).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = adamw(groups, device)
        self.accuracy, self.step = -1.0, 0
        self.best: dict[str, torch.Tensor] = {}

    def keep_if_best(self, accuracy: float, step: int) -> None:
        if accuracy >= self.accuracy:
            self.accuracy, self.step = accuracy, step
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}

    def restore(self, state: Path) -> int:
        tensors, meta = load_state(state)
        self.model.load_state_dict(without_prefix("model", tensors))
        restore_moments(self.optimizer, without_prefix("optimizer", tensors))
        self.best = without_prefix("best", tensors)
        torch.set_rng_state(tensors["rng"])  # dropout goes on as on the CPU; a GPU draws its own
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
    shape: ResNetConfig,
    training: ClassifierTraining,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    noise: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    *,
    observe: Callable[[torch.Tensor], None] = lambda logits: None,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
    state: Path | None = None,
    weights: torch.Tensor | None = None,
) -> TrainedClassifier:
    """Train on `inputs` [n, C, H, W] float32 and keep the weights that were best on the validation part.

    Args:
        noise: changes a batch after augmentation, e.g. adds diffusion noise for a judge on latents; the generator is a
            CPU one, the batch may be elsewhere.
        observe: is given the logits [n, C] of the validation part whenever they are computed.
        state: written when the deadline passes, and read where it exists.
        weights: of each input in the draws, see `draw_rows`.

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
    for step in range(start, training.steps):
        generator = step_generator(training.seed, step)
        rows = draw_rows(len(inputs), training.batch, weights, generator)
        elements = torch.randint(ORDER, (training.batch,), generator=generator)
        rows, elements = to_device(rows, device), to_device(elements, device)
        batch = d4_each(inputs[rows], elements)
        if training.colour_gain:
            batch = _jitter(batch, training.colour_gain, generator)
        if noise is not None:
            batch = noise(batch, generator)
        set_learning_rate(run.optimizer, learning_rate(step, training.steps, training.peak_rate))
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bfloat16):
            logits = run.model(batch.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=training.label_smoothing)
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
        last = step + 1 == training.steps
        if (step + 1) % training.validate_every == 0 or last:
            found = predict(run.model, held)
            observe(found)
            accuracy = (found.argmax(1) == validation[1]).float().mean().item()
            log.info("step %d loss %.3f validation accuracy %.4f", step + 1, loss.item(), accuracy)
            run.keep_if_best(accuracy, step + 1)
        stopped = deadline.passed and not last
        if stopped and state is not None:
            run.save(state, step + 1)
        progress(step + 1, training.steps)
        if stopped:
            raise TimeUp(step + 1, training.steps)
    run.model.load_state_dict(run.best)
    return TrainedClassifier(run.model.cpu().eval(), run.accuracy, run.step)
