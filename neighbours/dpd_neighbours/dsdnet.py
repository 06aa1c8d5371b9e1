"""DSDNet: a student whose shallow stages learn from its deepest stage through a diffusion branch (TGRS 63, 5626315).

The map of each shallow stage, brought to the shape of the deepest map, is treated as a noisy version of it. A small
denoiser, trained on the deepest maps, cleans it. The cleaned map is compared with the deepest map, its logits with the
network's own logits (self-distillation) and with the labels. After training the branch is removed: the backbone alone
predicts, with its own size and speed. Deviations from the paper: docs/reference/neighbours.md.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dpd_eval.networks import ConvNet, Logits
from dpd_neighbours.self_distillation import disagreement, softened

LEVELS = 1000  # noise levels of a cosine schedule
START = 500  # assumed noise level of a shallow map
STEPS = 2  # DDIM steps from there
FEATURES, LOGITS, LABELS = 0.5, 0.5, 0.5
"""Weights of the three losses. The losses are averaged over the shallow stages."""


def signal(levels: torch.Tensor) -> torch.Tensor:
    """Return ᾱ of noise levels in 0 … LEVELS (Nichol and Dhariwal 2021, without the offset)."""
    return torch.cos(levels.float() / LEVELS * math.pi / 2).square()


def stage_maps(backbone: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the feature maps after each stage, fine to coarse, and the logits."""
    if isinstance(backbone, ConvNet):
        maps = backbone.stages(x)
        return maps, backbone.head(maps[-1].mean(dim=(2, 3)))
    assert isinstance(backbone, Logits)
    said: Any = backbone.model(pixel_values=x, output_hidden_states=True)
    return list(said.hidden_states[1:]), said.logits


class _Denoiser(nn.Module):
    """(noisy map, condition, level) → clean map, all [B, D, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2 * channels, channels, 1)
        self.level = nn.Linear(2, channels)
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, 1, 1, groups=channels), nn.SiLU()
        )
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, noisy: torch.Tensor, condition: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        alpha = signal(levels)
        known = self.level(torch.stack([alpha.sqrt(), (1 - alpha).sqrt()], dim=1).to(noisy.dtype))
        hidden = self.enter(torch.cat([noisy, condition], dim=1)) + known[:, :, None, None]
        clean: torch.Tensor = self.leave(self.body(hidden))
        return clean


class DsdNet(nn.Module):
    """A backbone with its branches. In training, `auxiliary_loss` is added to the loss after each call."""

    def __init__(self, backbone: nn.Module, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.backbone = backbone
        backbone.eval()  # running statistics stay as they are
        with torch.no_grad():
            channels = [values.shape[1] for values in stage_maps(backbone, torch.zeros(2, in_channels, 64, 64))[0]]
        backbone.train()
        deepest = channels[-1]
        self.target = nn.BatchNorm2d(deepest, affine=False)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, deepest, 1, bias=False), nn.BatchNorm2d(deepest)) for width in channels[:-1]
        )
        self.denoiser = _Denoiser(deepest)
        self.heads = nn.ModuleList(nn.Linear(deepest, num_classes) for _ in channels[:-1])
        self._shallow: list[torch.Tensor] = []
        self._deepest = self._logits = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps, self._logits = stage_maps(self.backbone, x)
        if self.training:
            self._deepest = self.target(maps[-1].detach())
            size = (maps[-1].shape[2], maps[-1].shape[3])
            self._shallow = [
                adapter(F.adaptive_avg_pool2d(values, size))
                for adapter, values in zip(self.adapters, maps, strict=False)
            ]
        return self._logits

    def at_inference(self) -> nn.Module:
        """The backbone alone."""
        return self.backbone

    def auxiliary_loss(self, criterion: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Compute the additional loss of the last training call.

        Args:
            criterion: logits [B, num_classes] → the loss with respect to that call's labels.
        """
        clean, teacher = self._deepest, softened(self._logits)
        total = torch.zeros((), device=clean.device)
        for shallow, head in zip(self._shallow, self.heads, strict=True):
            cleaned = self._cleaned(shallow)
            logits = head(cleaned.mean(dim=(2, 3))).float()
            total = total + self._denoising_loss(clean, shallow.detach())
            total = total + FEATURES * F.mse_loss(cleaned.float(), clean.float())
            total = total + LOGITS * disagreement(logits, teacher)
            total = total + LABELS * criterion(logits)
        return total / len(self._shallow)

    def _denoising_loss(self, clean: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        levels = torch.randint(1, LEVELS, (len(clean),)).to(clean.device)  # drawn on the CPU, so alike everywhere
        alpha = signal(levels)[:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * torch.randn(clean.shape).to(clean.device)
        return F.mse_loss(self.denoiser(noisy.to(clean.dtype), condition, levels).float(), clean.float())

    def _cleaned(self, shallow: torch.Tensor) -> torch.Tensor:
        """Run DDIM from START to 0. The shallow map is both the start and the condition."""
        now, levels = shallow, [START * (STEPS - i) // STEPS for i in range(STEPS + 1)]
        for level, following in pairwise(levels):
            clean = self.denoiser(now, shallow, torch.full((len(now),), level, device=now.device))
            alpha, after = (float(signal(torch.tensor(at))) for at in (level, following))
            noise = (now - alpha**0.5 * clean) / (1 - alpha) ** 0.5
            now = after**0.5 * clean + (1 - after) ** 0.5 * noise
        return now
