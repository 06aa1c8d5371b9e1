"""The weights that the server and all sites have after each round, and their average over the rounds."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from dpd_neighbours.federated.settings import UpdateError
from dpd_train.bases import Base, weights_hash
from dpd_train.denoiser import PowerAverage

LENGTH = 0.1  # relative width of the average; the wider one of the training loop


class Shared:
    """A copy of the trained parts on the CPU, to which every participant adds the same updates.

    The result of a tuning is the average over the last rounds, as the training loop averages its last steps.
    """

    def __init__(self, trained: nn.ModuleDict) -> None:
        self._average = PowerAverage(trained, LENGTH)
        self.modules = copy.deepcopy(trained).requires_grad_(False).eval()
        self.rounds = 0

    @property
    def average(self) -> nn.ModuleDict:
        """The averaged weights."""
        return self._average.modules

    @property
    def shapes(self) -> list[torch.Size]:
        return [parameter.shape for parameter in self.modules.parameters()]

    @torch.no_grad()
    def add(self, update: Sequence[torch.Tensor]) -> None:
        """Add the update of a round.

        Raises:
            UpdateError: a sum is not finite; the weights stay as they were.
        """
        parameters = list(self.modules.parameters())
        sums = [parameter + change for parameter, change in zip(parameters, update, strict=True)]
        if not all(bool(values.isfinite().all()) for values in sums):
            raise UpdateError(f"the updates of round {self.rounds + 1} add up to weights that are not finite")
        for parameter, values in zip(parameters, sums, strict=True):
            parameter.copy_(values)
        self._average.update(self.modules, self.rounds)
        self.rounds += 1


def base_hash(base: Base) -> str:
    """Hash of the weights that every participant must have: UNet, text encoder, and the VAE's encoder."""
    parts = (base.unet, base.text_encoder, base.vae.encoder, base.vae.quant_conv)
    return "".join(weights_hash(part)[:16] for part in parts)
