"""The default student: a shallow residual ConvNet that trains 1,000 steps in a minute on one core."""

from collections.abc import Sequence

import torch
from torch import nn


class _Down(nn.Sequential):
    """3×3 convolution that halves the resolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        )


class _Residual(nn.Module):
    """x + ReLU(BN(conv 3×3)), with one convolution per block to stay shallow and fast."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class ConvNet(nn.Module):
    """[B, in_channels, H, W] in [-1, 1] → logits [B, num_classes], for any H and W (global average pooling).

    Args:
        widths: channels of each stage; every stage halves the resolution.
        blocks: residual blocks in each stage, after its strided convolution.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (0, 1, 2, 1),
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        channels = in_channels
        layers: list[nn.Module] = []
        for width, count in zip(widths, blocks, strict=True):
            layers.append(_Down(channels, width))
            layers.extend(_Residual(width) for _ in range(count))
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps after each stage, fine to coarse."""
        maps: list[torch.Tensor] = []
        for layer in self.body:
            if isinstance(layer, _Down):
                maps.append(x)
            x = layer(x)
        return [*maps[1:], x]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits
