"""The diffusion loss: a small denoiser that sees the encoder's last map must predict the noise of an image."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from dpd_runtime.solvers import Schedule, add_noise, schedule_from_config
from dpd_train.bases import nano_scheduler
from dpd_train.compute import to_device

WIDTH = 64
BLOCKS = 2
PATCH = 4  # pixels a side; the denoiser works on patches, where convolutions are cheap


def cosine_schedule() -> Schedule:
    """The schedule of the nano base (Nichol & Dhariwal 2021), of which only ᾱ is used: what is predicted is ε."""
    return schedule_from_config(nano_scheduler().config)


def noisy_images(
    images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, schedule: Schedule
) -> torch.Tensor:
    """√ᾱ_t · x + √(1 − ᾱ_t) · ε for each image (Ho et al. 2020, eq. 4).

    Args:
        images, noise: [B, 3, S, S]. timesteps: int64 [B], on the CPU.
    """
    ratio = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps][:, None, None, None]
    alpha, sigma = (to_device(root.sqrt().float(), images.device) for root in (ratio, 1 - ratio))
    return add_noise(images, noise, alpha, sigma)  # type: ignore[arg-type]


def timestep_waves(timesteps: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of timesteps [B] at `width` / 2 wavelengths from 2π to 20000π: [B, width]."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=timesteps.device) / (width // 2))
    angles = timesteps.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _ModulatedBlock(nn.Module):
    """Two convolutions beside a shortcut; the context scales and shifts what they see."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.modulate = nn.Conv2d(width, 2 * width, 1)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulate(F.silu(context)).chunk(2, dim=1)
        hidden = self.conv1(F.silu(self.norm(x) * (1 + scale) + shift))
        out: torch.Tensor = x + self.conv2(F.silu(hidden))
        return out


class FeatureDenoiser(nn.Module):
    """Noisy images [B, 3, S, S], timesteps [B] and the encoder's last map [B, F, s, s] → noise [B, 3, S, S].

    Args:
        features: F. S must be a multiple of PATCH.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3 * PATCH**2, WIDTH, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.condition = nn.Conv2d(features, WIDTH, 1)
        self.blocks = nn.ModuleList(_ModulatedBlock(WIDTH) for _ in range(BLOCKS))
        self.leave = nn.Conv2d(WIDTH, 3 * PATCH**2, 3, padding=1)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        x = self.enter(F.pixel_unshuffle(noisy, PATCH))
        seen = F.interpolate(self.condition(maps), x.shape[-2:], mode="bilinear")
        context = seen + self.time(timestep_waves(timesteps, WIDTH))[:, :, None, None]
        for block in self.blocks:
            x = block(x, context)
        return F.pixel_shuffle(self.leave(x), PATCH)


def diffusion_loss(
    denoiser: nn.Module,
    maps: torch.Tensor,
    images: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    schedule: Schedule,
) -> torch.Tensor:
    """Mean of (ε − ε_θ(x_t, t, f(x)))², the diffusion term of SwiMDiff.

    Args:
        denoiser: as `FeatureDenoiser`. maps: f(x), the encoder's last map [B, F, s, s] of `images`.
        images, noise: x and ε [B, 3, S, S]. timesteps: int64 [B], on the CPU.
    """
    noisy = noisy_images(images, noise, timesteps, schedule).contiguous(memory_format=torch.channels_last)
    predicted = denoiser(noisy, to_device(timesteps, images.device), maps)
    return F.mse_loss(predicted.float(), noise)
