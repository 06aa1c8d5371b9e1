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
from dpd_train.checkpoint import (
    load_state,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    save_state,
    step_generator,
    without_prefix,
)
from dpd_train.classifiers import learning_rate, set_learning_rate
from dpd_train.precision import norms_in_float32
from dpd_train.symmetry import ORDER, d4

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
        latents, noise: [B, C, h, w]; timesteps: [B] int64; context: [B, L, D].
    """
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps]
    alpha = table.sqrt().float()[:, None, None, None]
    sigma = (1 - table).sqrt().float()[:, None, None, None]
    noisy = add_noise(latents, noise, alpha, sigma)  # type: ignore[arg-type]
    targets = alpha * noise - sigma * latents if schedule.prediction_type == "v_prediction" else noise
    output = unet(noisy, timesteps, context).sample.float()
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
        for mean, value in zip(self.average.parameters(), modules.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


@torch.no_grad()
def validation_loss(modules: nn.ModuleDict, data: LatentData, schedule: Schedule, gamma: float) -> float:
    """Loss on fixed noise and evenly spread timesteps, with the class captions."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(data.latents.shape, generator=generator)
    timesteps = torch.linspace(0, schedule.num_train_timesteps - 1, len(data.latents)).long()
    timesteps = timesteps[torch.randperm(len(timesteps), generator=generator)]
    losses = []
    for i in range(0, len(data.latents), 100):
        part = slice(i, i + 100)
        context = modules["text_encoder"](data.captions.template[data.labels[part]]).last_hidden_state
        losses.append(
            denoising_loss(modules["unet"], data.latents[part], noise[part], timesteps[part], context, schedule, gamma)
        )
    return float(torch.cat(losses).mean())


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    data: LatentData,
    validation: LatentData,
    schedule: Schedule,
    training: DenoiserTraining,
    state: Path,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> tuple[UNet2DConditionModel, CLIPTextModel, list[dict[str, float]]]:
    """Train both networks; the run resumes from `state` where that file exists.

    Returns:
        the averaged networks and the log: step, loss, validation_loss.
    """
    modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).train()
    modules = modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in modules.parameters() if p.ndim > 1]
    rest = [p for p in modules.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.99)
    )
    ema = _Ema(modules, training.ema_decay)
    start, history, recent = 0, [], 0.0
    if state.exists():
        tensors, meta = load_state(state)
        modules.load_state_dict(without_prefix("modules", tensors))
        ema.average.load_state_dict(without_prefix("ema", tensors))
        restore_optimizer(optimizer, without_prefix("optimizer", tensors))
        start, history, recent = meta["step"], meta["history"], meta["recent"]
        log.info("resumed at step %d", start)
    hooks = norms_in_float32(modules)
    saved_at = time.monotonic()
    for step in range(start, training.steps):
        generator = step_generator(training.seed, step)
        rows = torch.randint(len(data.latents), (training.batch,), generator=generator)
        elements = torch.randint(ORDER, (training.batch,), generator=generator)
        latents = torch.stack([d4(data.latents[r], e) for r, e in zip(rows.tolist(), elements.tolist(), strict=True)])
        ids = data.captions.draw(rows, data.labels, elements % 2 == 1, training.prompt_dropout, generator)
        timesteps = torch.randint(schedule.num_train_timesteps, (training.batch,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        set_learning_rate(optimizer, learning_rate(step, training.steps, training.peak_rate, training.warmup))
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            context = modules["text_encoder"](ids).last_hidden_state
            losses = denoising_loss(
                modules["unet"], latents, noise, timesteps, context, schedule, training.min_snr_gamma
            )
        loss = losses.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        ema.update(modules, step)
        recent = float(loss.detach()) if step == 0 else 0.98 * recent + 0.02 * float(loss.detach())
        last = step + 1 == training.steps
        if (step + 1) % training.validate_every == 0 or last:
            held_out = validation_loss(ema.average, validation, schedule, training.min_snr_gamma)
            history.append({"step": step + 1, "loss": recent, "validation_loss": held_out})
            log.info("step %d loss %.4f validation %.4f", step + 1, recent, held_out)
        if time.monotonic() - saved_at > training.checkpoint_seconds or last:
            tensors = prefixed("modules", modules.state_dict()) | prefixed("ema", ema.average.state_dict())
            tensors |= prefixed("optimizer", optimizer_tensors(optimizer))
            save_state(state, tensors, {"step": step + 1, "history": history, "recent": recent})
            saved_at = time.monotonic()
        progress(step + 1, training.steps)
    for hook in hooks:
        hook.remove()
    return ema.average["unet"], ema.average["text_encoder"], history
