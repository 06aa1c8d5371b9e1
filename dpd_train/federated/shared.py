"""The weights that server and sites know alike after each round, and their average over rounds."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from dpd_train.bases.base import Base
from dpd_train.bases.latents import weights_hash
from dpd_train.diffusion.averages import PowerAverage

LENGTH = 0.1  # relative width of the average, the wider one of the training loop


class Shared:
    """Begins as a copy of the trained parts; every participant adds the same updates to it, on the CPU.

    The last rounds' average is what a tuning gives, as the training loop gives the average of its last steps.
    """

    def __init__(self, trained: nn.ModuleDict) -> None:
        self._average = PowerAverage(trained, LENGTH)
        self.modules = copy.deepcopy(trained).requires_grad_(False).eval()
        self.rounds = 0

    @property
    def average(self) -> nn.ModuleDict:
        return self._average.modules

    @property
    def shapes(self) -> list[torch.Size]:
        return [parameter.shape for parameter in self.modules.parameters()]

    @torch.no_grad()
    def add(self, update: Sequence[torch.Tensor]) -> None:
        for parameter, change in zip(self.modules.parameters(), update, strict=True):
            parameter.add_(change)
        self._average.update(self.modules, self.rounds)
        self.rounds += 1


def base_hash(base: Base) -> str:
    """Of all weights that decide what the trained parts mean."""
    parts = (base.unet, base.text_encoder, base.vae.encoder, base.vae.quant_conv)
    return "".join(weights_hash(part)[:16] for part in parts)
