"""The one diffusion training loop: `pretrain` starts it from random weights, `train` from a base."""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from dpd_runtime.schedule import Schedule, add_noise
from dpd_train.captions import CaptionTable
from dpd_train.checkpoint import load_state, optimizer_tensors, prefixed, save_state, step_generator, without_prefix
from dpd_train.classifiers import learning_rate, rewarmed, set_learning_rate
from dpd_train.device import NEVER, Deadline, TimeUp, adamw, on_cpu, restore_moments, to_device
from dpd_train.precision import norms_in_float32
from dpd_train.symmetry import ORDER, d4_each

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining:
    """Length and constants of one piece of denoiser training."""

    steps: int
    batch: int = 48
    peak_rate: float = 6e-4
    warmup: int = 200
    min_snr_gamma: float = 5.0  # 2303.09556
    prompt_dropout: float = 0.1
    ema_decay: float = 0.999
    seed: int = 0
    bfloat16: bool = True
    validate_every: int = 500
    checkpoint_seconds: float = 240.0


@dataclass(frozen=True)
class LatentData:
    """Scaled latents [n, C, h, w] with labels [n] and captions; validation in the same form."""

    latents: torch.Tensor
    labels: torch.Tensor
    captions: CaptionTable


def min_snr_weight(alpha: torch.Tensor, sigma: torch.Tensor, prediction_type: str, gamma: float) -> torch.Tensor:
    """Weight of the squared error of the network's own output (Hang et al. 2023, eq. 6 and appendix).

    min(SNR, γ) weighs the error of ẑ0; for ε that is ÷ SNR, for v ÷ (SNR + 1).
    """
    snr = (alpha / sigma).square()
    capped = snr.clamp(max=gamma)
    return capped / (snr + 1) if prediction_type == "v_prediction" else capped / snr


def denoising_loss(
    unet: nn.Module,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    context: torch.Tensor,
    schedule: Schedule,
    gamma: float,
) -> torch.Tensor:
    """Weighted squared error for each sample [B].

    Args:
        latents, noise: [B, C, h, w]; timesteps: [B] int64 on the CPU; context: [B, L, D].
    """
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps]
    alpha = to_device(table.sqrt().float()[:, None, None, None], latents.device)
    sigma = to_device((1 - table).sqrt().float()[:, None, None, None], latents.device)
    noisy = add_noise(latents, noise, alpha, sigma)  # type: ignore[arg-type]
    targets = alpha * noise - sigma * latents if schedule.prediction_type == "v_prediction" else noise
    output = unet(noisy, to_device(timesteps, latents.device), context).sample.float()
    weight = min_snr_weight(alpha, sigma, schedule.prediction_type, gamma).flatten()
    losses: torch.Tensor = weight * (output - targets).square().mean(dim=(1, 2, 3))
    return losses


class _Ema:
    """Exponential moving average with a start that forgets the first steps."""

    def __init__(self, modules: nn.ModuleDict, decay: float) -> None:
        self.average = copy.deepcopy(modules)
        self.average.requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, modules: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(modules.parameters()), 1 - decay)


@torch.no_grad()
def validation_loss(modules: nn.ModuleDict, data: LatentData, schedule: Schedule, gamma: float) -> float:
    """Loss on fixed noise and evenly spread timesteps, with the class captions."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(data.latents.shape, generator=generator)
    timesteps = torch.linspace(0, schedule.num_train_timesteps - 1, len(data.latents)).long()
    timesteps = timesteps[torch.randperm(len(timesteps), generator=generator)]
    device = next(modules.parameters()).device
    losses = []
    for i in range(0, len(data.latents), 100):
        part = slice(i, i + 100)
        ids = to_device(data.captions.template[data.labels[part]], device)
        context = modules["text_encoder"](ids).last_hidden_state
        latents = to_device(data.latents[part], device)
        shaken = to_device(noise[part], device)
        losses.append(denoising_loss(modules["unet"], latents, shaken, timesteps[part], context, schedule, gamma))
    return float(torch.cat(losses).mean())


class _Run:
    """Networks, average and optimiser of one training, on its device, and their way to and from the state file."""

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, training: DenoiserTraining, device: torch.device
    ) -> None:
        self.training, self.device = training, device
        modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).train().to(device)
        self.modules: nn.ModuleDict = modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed = [p for p in self.modules.parameters() if p.ndim > 1]
        rest = [p for p in self.modules.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = adamw(groups, device, betas=(0.9, 0.99))
        self.ema = _Ema(self.modules, training.ema_decay)
        self.history: list[dict[str, float]] = []
        self.recent = torch.zeros((), dtype=torch.float64, device=device)  # smoothed loss; read only when logged
        self.fresh_since = 0  # step at which the optimiser's moments were lost

    def restore(self, state: Path) -> int:
        """The step at which `state` stands. One that travelled light holds the averages alone: training goes on from
        them, with a fresh optimiser and a second warm-up.
        """
        tensors, meta = load_state(state)
        average, moments = without_prefix("ema", tensors), without_prefix("optimizer", tensors)
        self.modules.load_state_dict(without_prefix("modules", tensors) or average)
        self.ema.average.load_state_dict(average)
        restore_moments(self.optimizer, moments)
        step = int(meta["step"])
        self.history = meta["history"]
        self.recent.fill_(meta["recent"])
        self.fresh_since = meta.get("fresh_since", 0) if moments else step
        log.info("resumed at step %d%s", step, "" if moments else ", with a fresh optimiser")
        return step

    def save(self, state: Path, step: int) -> None:
        tensors = prefixed("modules", self.modules.state_dict()) | prefixed("ema", self.ema.average.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        meta = {"step": step, "history": self.history, "recent": float(self.recent), "fresh_since": self.fresh_since}
        save_state(state, on_cpu(tensors), meta | {"steps": self.training.steps})

    def step(self, step: int, latents: torch.Tensor, data: LatentData, schedule: Schedule) -> None:
        """One update. latents: those of `data`, on the device."""
        training, device = self.training, self.device
        generator = step_generator(training.seed, step)
        rows = torch.randint(len(latents), (training.batch,), generator=generator)
        elements = torch.randint(ORDER, (training.batch,), generator=generator)
        ids = data.captions.draw(rows, data.labels, elements % 2 == 1, training.prompt_dropout, generator)
        timesteps = torch.randint(schedule.num_train_timesteps, (training.batch,), generator=generator)
        noise = torch.randn((training.batch, *latents.shape[1:]), generator=generator)
        batch = d4_each(latents[to_device(rows, device)], to_device(elements, device))
        rate = learning_rate(step, training.steps, training.peak_rate, training.warmup)
        set_learning_rate(self.optimizer, rewarmed(rate, step, self.fresh_since, training.warmup))
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bfloat16):
            context = self.modules["text_encoder"](to_device(ids, device)).last_hidden_state
            losses = denoising_loss(
                self.modules["unet"],
                batch,
                to_device(noise, device),
                timesteps,
                context,
                schedule,
                training.min_snr_gamma,
            )
        loss = losses.mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.modules, step)
        smoothed = loss.detach().double()
        self.recent = smoothed if step == 0 else 0.98 * self.recent + 0.02 * smoothed

    def validate(self, step: int, validation: LatentData, schedule: Schedule) -> None:
        held_out = validation_loss(self.ema.average, validation, schedule, self.training.min_snr_gamma)
        self.history.append({"step": step, "loss": float(self.recent), "validation_loss": held_out})
        log.info("step %d loss %.4f validation %.4f", step, float(self.recent), held_out)


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    data: LatentData,
    validation: LatentData,
    schedule: Schedule,
    training: DenoiserTraining,
    state: Path,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> tuple[UNet2DConditionModel, CLIPTextModel, list[dict[str, float]]]:
    """Train both networks; the run resumes from `state` where that file exists, on whatever device it was written.

    Returns:
        the averaged networks, on the CPU, and the log: step, loss, validation_loss.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    run = _Run(unet, text_encoder, training, torch.device(device))
    start = run.restore(state) if state.exists() else 0
    latents = data.latents.to(run.device)
    hooks = norms_in_float32(run.modules)
    saved_at = time.monotonic()
    try:
        for step in range(start, training.steps):
            run.step(step, latents, data, schedule)
            last = step + 1 == training.steps
            if (step + 1) % training.validate_every == 0 or last:
                run.validate(step + 1, validation, schedule)
            stopped = deadline.passed and not last
            if time.monotonic() - saved_at > training.checkpoint_seconds or last or stopped:
                run.save(state, step + 1)
                saved_at = time.monotonic()
            progress(step + 1, training.steps)
            if stopped:
                raise TimeUp(step + 1, training.steps)
    finally:
        for hook in hooks:
            hook.remove()
    average = run.ema.average.cpu()
    return average["unet"], average["text_encoder"], run.history
