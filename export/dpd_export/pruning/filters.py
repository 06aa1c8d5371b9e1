"""Filters of a UNet that can be taken out: those of each residual block's first convolution.

What they give is seen by the block's second norm and second convolution alone, so that a block with fewer of them takes
and gives what it did. A group norm keeps its groups: filters go in units, as many from each group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

VECTOR = 16
"""Filters that a CPU computes at once (AVX-512 in float32): fewer than these of a unit would cost as much."""
SMALLEST = 4
"""Units that a block has to have; in smaller ones a unit is one filter of each group."""


@dataclass(frozen=True)
class Block:
    """A residual block's filters.

    Args:
        units: channel numbers, [units, filters of a unit], in ascending order of their norms within each group.
        norms: mean L2 norm of a unit's filters over that of the block's, [units].
        multiply_adds: of both convolutions, that one unit takes for one latent.
    """

    name: str
    units: torch.Tensor
    norms: torch.Tensor
    multiply_adds: int


def residual_blocks(unet: nn.Module) -> dict[str, ResnetBlock2D]:
    """Those whose time embedding is added: with `scale_shift` it is bound to the second norm's channels otherwise."""
    found = {name: module for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D)}
    return {name: block for name, block in found.items() if block.time_embedding_norm == "default"}


@torch.no_grad()
def read_blocks(unet: nn.Module, call: tuple[torch.Tensor, ...]) -> list[Block]:
    """Args:
    call: inputs of the UNet: latents [B, C, h, w], timestep, context. It is called with the first row, to see sizes.
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


def _read(name: str, block: ResnetBlock2D, positions: int) -> Block:
    weight, groups = block.conv1.weight, int(block.norm2.num_groups)
    width, wide = len(weight), lcm(groups, VECTOR)
    size = wide if width % wide == 0 and width >= SMALLEST * wide else groups
    norms = weight.flatten(1).norm(dim=1)
    order = norms.view(groups, -1).argsort(dim=1) + torch.arange(groups)[:, None] * (width // groups)
    units = order.view(groups, -1, size // groups).transpose(0, 1).flatten(1)
    taps = weight[0].numel() + block.conv2.weight[:, 0].numel()
    return Block(name, units, norms[units].mean(1) / norms.mean(), size * taps * positions)


def lowest(blocks: list[Block], importance: list[torch.Tensor], ratio: float) -> dict[str, torch.Tensor]:
    """Numbers of the filters to keep, ascending, of each block: units go in ascending order of their importance until
    `ratio` of all filters are gone; one that would pass it stays, and so does a block's last one.

    Args:
        importance: of each block's units, [units].
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


def multiply_adds(blocks: list[Block], kept: Mapping[str, torch.Tensor]) -> int:
    """Of the convolutions of all blocks with these filters, for one latent."""
    return sum(block.multiply_adds * (len(kept[block.name]) // block.units.shape[1]) for block in blocks)


@torch.no_grad()
def keep(unet: nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
    """Take all other filters out of `unet`, in place."""
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
