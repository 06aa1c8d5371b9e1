"""What a student costs: multiply-adds of one image."""

from typing import Any

import torch
from torch import nn


def count_multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of convolutions and linear layers for one [3, height, width] image.

    A convolution costs output elements × (in_channels / groups) × kernel area, a linear layer in × out. Norms, pooling
    and the products inside attention are not counted.
    """
    total = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += output[0].numel() * weight[0].numel()

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, height, width))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return total
