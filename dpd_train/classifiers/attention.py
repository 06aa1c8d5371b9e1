"""Small attention networks: convolutions down to at most 8 × 8 tokens, then transformer blocks."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dpd_train.classifiers.network import Classifier

TOKENS = 8  # a side at most; larger maps are averaged, as the cost of attention grows with the square of the tokens
STRIDE = 8  # of both convolutions together
LONGEST_WAVE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Shape of an attention network.

    Args:
        num_classes: length of the logits.
        width: channels of a token, a multiple of 4 and of `heads`.
        blocks: transformer blocks.
        heads: of each block.
        in_channels: bands of the images, 3 for RGB.
    """

    num_classes: int
    width: int
    blocks: int
    heads: int
    in_channels: int = 3

    def build(self) -> "AttentionNetwork":
        return AttentionNetwork(self)


class AttentionBlock(nn.Module):
    """Self-attention and two layers, each after a layer norm and beside a shortcut (Dosovitskiy et al. 2021, §3.1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, N, width] → [B, N, width]."""
        count, number, width = tokens.shape
        parts = self.qkv(self.norm1(tokens)).reshape(count, number, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        # not fused: with so few tokens on a CPU the backward pass of fused attention takes twice as long
        weights = (queries @ keys.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(dim=-1)
        tokens = tokens + self.out((weights @ values).transpose(1, 2).reshape(count, number, width))
        output: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class AttentionNetwork(Classifier):
    """Attention network: [B, in_channels, H, W] → logits [B, num_classes]. H and W are at least STRIDE."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        narrow = config.width // 2
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_channels, narrow, 5, 4, 2, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, config.width, 3, 2, 1),
        )
        self.blocks = nn.ModuleList([AttentionBlock(config.width, config.heads) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Identity()
        self.head = nn.Linear(config.width, config.num_classes)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps [B, width, h, w] of the stem and of each block."""
        stem = self.stem(x)
        height, breadth = (min(TOKENS, side) for side in stem.shape[2:])
        stem = F.adaptive_avg_pool2d(stem, (height, breadth))
        tokens = stem.flatten(2).transpose(1, 2) + positions(self.config.width, height, breadth).to(stem)
        maps = [stem]
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            seen = self.norm(tokens) if number == len(self.blocks) - 1 else tokens
            maps.append(seen.transpose(1, 2).reshape(stem.shape))
        return maps


def positions(width: int, height: int, breadth: int) -> torch.Tensor:
    """Sines and cosines of row and column [height · breadth, width] (Vaswani et al. 2017, §3.5, a half for each)."""
    waves = LONGEST_WAVE ** (-torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(breadth), indexing="ij")
    angles = [place.flatten()[:, None] * waves for place in (rows, columns)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
