"""Students: the classifiers that are trained on every arm. None of them is a network that made or chose images."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from dpd_runtime.errors import InputError


class _Down(nn.Sequential):
    """3×3 convolution that halves the resolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        )


class _Residual(nn.Module):
    """x + ReLU(BN(conv 3×3)): one convolution a block keeps a shallow, fast network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class ConvNet(nn.Module):
    """[B, 3, H, W] in [-1, 1] → logits [B, num_classes], for any H and W (global average pooling).

    Args:
        widths: channels of each stage; every stage halves the resolution.
        blocks: residual blocks of each stage, after its halving convolution.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (0, 1, 2, 1),
    ) -> None:
        super().__init__()
        channels = 3
        layers: list[nn.Module] = []
        for width, count in zip(widths, blocks, strict=True):
            layers.append(_Down(channels, width))
            layers.extend(_Residual(width) for _ in range(count))
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits


STUDENTS: dict[str, Callable[[int], nn.Module]] = {"convnet": ConvNet}


def build_student(name: str, num_classes: int, seed: int) -> nn.Module:
    """A fresh student whose weights depend on `seed` alone; the global generator is left as it was.

    Raises:
        InputError: an unknown student.
    """
    if name not in STUDENTS:
        raise InputError(f"no student {name!r}: there are {', '.join(STUDENTS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STUDENTS[name](num_classes)


def count_multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of convolutions and linear layers for one [3, height, width] image; norms and pooling not counted.

    A convolution costs output elements × (in_channels / groups) × kernel area, a linear layer in × out.
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
