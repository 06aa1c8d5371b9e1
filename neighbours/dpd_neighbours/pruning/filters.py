"""The filters of a UNet that can be removed: those of each residual block's first convolution.

Only the block's second norm and second convolution read their outputs, so the block's own input and output keep their
shapes. A group norm keeps its groups: filters are removed in units with as many filters from each group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from dpd_export.graphs import Tensors

VECTOR = 16
"""Filters that a CPU computes at once (AVX-512 in float32); removing fewer would not save time."""
SMALLEST = 4
"""Units that a block must have; in smaller blocks a unit is one filter of each group."""


@dataclass(frozen=True)
class FilterBlock:
    """A residual block's filters.

    Args:
        units: channel numbers [units, filters per unit], in ascending order of their norms within each group.
        norms: [units], mean L2 norm of a unit's filters divided by the block's mean.
        multiply_adds: of both convolutions for one unit and one latent.
    """

    name: str
    units: torch.Tensor
    norms: torch.Tensor
    multiply_adds: int


def residual_blocks(unet: nn.Module) -> dict[str, ResnetBlock2D]:
    """Residual blocks that add their time embedding; `scale_shift` would tie it to the second norm's channels."""
    blocks = {name: module for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D)}
    return {name: block for name, block in blocks.items() if block.time_embedding_norm == "default"}


@torch.no_grad()
def read_blocks(unet: nn.Module, call: Tensors) -> list[FilterBlock]:
    """The filters of every residual block.

    Args:
        call: inputs of the UNet: latents [B, C, h, w], timestep, context. Its first row is run to learn the sizes.
    """
    blocks, positions = residual_blocks(unet), {}

    def remember(name: str) -> object:
        def hook(module: nn.Module, args: object, output: torch.Tensor) -> None:
            positions[name] = output.shape[2] * output.shape[3]

        return blocks[name].conv1.register_forward_hook(hook)

    hooks = [remember(name) for name in blocks]
    unet(call[0][:1], call[1], call[2][:1])
    for hook in hooks:
        hook.remove()  # type: ignore[attr-defined]
    return [_read(name, block, positions[name]) for name, block in blocks.items()]


def _read(name: str, block: ResnetBlock2D, positions: int) -> FilterBlock:
    weight, groups = block.conv1.weight, int(block.norm2.num_groups)
    width, wide = len(weight), lcm(groups, VECTOR)
    size = wide if width % wide == 0 and width >= SMALLEST * wide else groups
    norms = weight.flatten(1).norm(dim=1)
    order = norms.view(groups, -1).argsort(dim=1) + torch.arange(groups)[:, None] * (width // groups)
    units = order.view(groups, -1, size // groups).transpose(0, 1).flatten(1)
    taps = weight[0].numel() + block.conv2.weight[:, 0].numel()
    return FilterBlock(name, units, norms[units].mean(1) / norms.mean(), size * taps * positions)


def lowest(blocks: list[FilterBlock], importance: list[torch.Tensor], ratio: float) -> dict[str, torch.Tensor]:
    """Numbers of the filters to keep, ascending, by block.

    Units are removed in ascending order of importance until `ratio` of all filters are gone. A unit that would exceed
    the ratio stays, and so does a block's last unit.

    Args:
        importance: for each block [units].
    """
    place = [(float(value), i, k) for i, own in enumerate(importance) for k, value in enumerate(own)]
    left = [len(block.units) for block in blocks]
    gone: list[set[int]] = [set() for _ in blocks]
    rest = ratio * sum(block.units.numel() for block in blocks)
    for _, i, k in sorted(place):
        size = blocks[i].units.shape[1]
        if left[i] > 1 and rest >= size:
            gone[i].add(k)
            left[i] -= 1
            rest -= size
    return {
        block.name: block.units[[k for k in range(len(block.units)) if k not in own]].flatten().sort().values
        for block, own in zip(blocks, gone, strict=True)
    }


def multiply_adds(blocks: list[FilterBlock], kept: Mapping[str, torch.Tensor]) -> int:
    """Multiply-adds of all blocks' convolutions with these filters, for one latent."""
    return sum(block.multiply_adds * (len(kept[block.name]) // block.units.shape[1]) for block in blocks)


@torch.no_grad()
def keep(unet: nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
    """Remove all other filters from `unet`, in place."""
    for name, block in residual_blocks(unet).items():
        rows = kept[name]
        block.conv1 = _convolution(block.conv1, block.conv1.weight[rows], block.conv1.bias[rows])
        block.conv2 = _convolution(block.conv2, block.conv2.weight[:, rows], block.conv2.bias)
        if block.time_emb_proj is not None:
            block.time_emb_proj = _linear(block.time_emb_proj, rows)
        norm = nn.GroupNorm(block.norm2.num_groups, len(rows), eps=block.norm2.eps)
        norm.weight.copy_(block.norm2.weight[rows])
        norm.bias.copy_(block.norm2.bias[rows])
        block.norm2 = norm


def _convolution(old: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    new = nn.Conv2d(weight.shape[1], len(weight), old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
    new.weight.copy_(weight)
    assert new.bias is not None
    new.bias.copy_(bias)
    return new


def _linear(old: nn.Linear, rows: torch.Tensor) -> nn.Linear:
    new = nn.Linear(old.in_features, len(rows))
    new.weight.copy_(old.weight[rows])
    new.bias.copy_(old.bias[rows])
    return new
