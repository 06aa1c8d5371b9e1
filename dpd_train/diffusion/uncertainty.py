"""A learned weight of each noise level (Karras et al. 2024, EDM2, 2312.02696, eq. 21 and appendix B)."""

import math

import torch
from torch import nn


class Uncertainty(nn.Module):
    """u of a noise level: with the loss e^−u · L + u it becomes ln E[L], so that every level counts by relative error.

    L is all that has this weight: with `direction_weight` also that part of the loss.

    u is linear in random Fourier features of ln(σ / α) / 4, and 0 before training.
    """

    def __init__(self, features: int = 128) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        frequencies = 2 * math.pi * torch.randn(features, generator=generator)
        phases = 2 * math.pi * torch.rand(features, generator=generator)
        self.waves: torch.Tensor
        self.register_buffer("waves", torch.stack([frequencies, phases]), persistent=False)
        self.head = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, snr: torch.Tensor) -> torch.Tensor:
        """u [B] of signal-to-noise ratios α²/σ² [B]."""
        noise = -0.5 * snr.float().log() / 4
        frequencies, phases = self.waves
        features = math.sqrt(2) * (noise[:, None] * frequencies + phases).cos()
        uncertainty: torch.Tensor = self.head(features)[:, 0]
        return uncertainty
