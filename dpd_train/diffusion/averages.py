"""Power-function averages of the weights (Karras et al. 2024, EDM2)."""

import copy

import numpy as np
import torch
from torch import nn


def power_exponent(length: float) -> float:
    """γ of the power-function average whose relative width is `length` (Karras et al. 2024, EDM2, algorithm 2).

    Raises:
        ValueError: a length outside (0, 0.28); the widest average, γ = 0, has 0.289.
    """
    if not 0 < length < 0.28:
        raise ValueError(f"an average of relative width {length} does not exist: give a number between 0 and 0.28")
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerAverage:
    """Power-function average of the weights: after t steps it covers a fixed share of the last t steps."""

    def __init__(self, modules: nn.ModuleDict, length: float) -> None:
        self.modules = copy.deepcopy(modules)
        self.modules.requires_grad_(False).eval()
        self.length, self.gamma = length, power_exponent(length)

    @torch.no_grad()
    def update(self, modules: nn.Module, step: int) -> None:
        """Add the weights after `step`, counted from 0."""
        kept = (1 - 1 / (step + 1)) ** (self.gamma + 1)
        torch._foreach_lerp_(list(self.modules.parameters()), list(modules.parameters()), 1 - kept)
