"""Gradients as neighbourhoods: nine entries, each −1, 0 or 1 times a common scale, in three bytes and a position bit.

The sender knows its rounding error, and sends it in a later step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

WIDTH = 9  # entries, in the weight's order: the taps of one 3 × 3 filter
CODES = 3**WIDTH
BYTES = 3  # per neighbourhood: 3⁹ codes in two bytes, the scale in one
OCTAVE = 8  # scales per halving
SCALES = torch.tensor([2.0 ** (-level / OCTAVE) for level in range(256)], dtype=torch.float64).float()
"""Scale of each level. A table, because different processors may differ in the last bit of a power."""


@dataclass(frozen=True)
class Chosen:
    """The chosen neighbourhoods of several layers, layer by layer.

    Args:
        sizes: number of neighbourhoods of each layer.
        bitmap: [Σ ⌈size / 8⌉] uint8: one bit per neighbourhood, lowest first, 1 if it was chosen. k bits are 1.
        codes: [k] int16: Σ (entry + 1) 3ⁱ. levels: [k] uint8: the scale is 2^(−level / OCTAVE) of the layer's largest.
        largest: [layers] float32: largest entry that each layer sends.
    """

    sizes: list[int]
    bitmap: torch.Tensor
    codes: torch.Tensor
    levels: torch.Tensor
    largest: torch.Tensor

    @property
    def bytes(self) -> int:
        return len(self.bitmap) + BYTES * len(self.codes) + 4 * len(self.sizes)

    def to_bytes(self) -> torch.Tensor:
        """The content as [bytes] uint8; all processes know sizes and k."""
        return torch.cat([part.view(torch.uint8) for part in (self.bitmap, self.codes, self.levels, self.largest)])

    @classmethod
    def from_bytes(cls, content: torch.Tensor, sizes: list[int], k: int) -> "Chosen":
        parts = torch.split(content, [bitmap_bytes(sizes), 2 * k, k, 4 * len(sizes)])
        kinds = (torch.uint8, torch.int16, torch.uint8, torch.float32)
        return cls(sizes, *(part.clone().view(kind) for part, kind in zip(parts, kinds, strict=True)))

    @cached_property
    def indices(self) -> list[torch.Tensor]:
        """Ascending indices of the chosen neighbourhoods of each layer."""
        parts = torch.split(self.bitmap, [bitmap_bytes([size]) for size in self.sizes])
        return [(part[:, None] >> _bits(part) & 1).flatten().nonzero().flatten() for part in parts]

    def add_to(self, layers: Sequence[torch.Tensor], factor: float = 1) -> None:
        """Add `factor` times each neighbourhood to its place in the layers [size, WIDTH]."""
        parts = (torch.split(tensor, [len(own) for own in self.indices]) for tensor in (self.codes, self.levels))
        for layer, own, codes, levels, largest in zip(layers, self.indices, *parts, self.largest, strict=True):
            entries = (codes.long()[:, None] // _powers(codes)) % 3 - 1
            layer.index_add_(0, own, entries * _scales(levels, largest), alpha=factor)


def encode(layers: Sequence[torch.Tensor], indices: Sequence[torch.Tensor]) -> Chosen:
    """Encode the neighbourhoods at `indices` of the layers [size, WIDTH] float32, at least one of each layer."""
    bitmap, codes, levels, everything = [], [], [], []
    for layer, unordered in zip(layers, indices, strict=True):
        own = unordered.sort().values
        bits = torch.zeros(8 * bitmap_bytes([len(layer)]), dtype=torch.uint8, device=layer.device)
        bits[own] = 1
        bitmap.append((bits.view(-1, 8) << _bits(bits)).sum(1).to(torch.uint8))
        entries = layer[own]
        most = entries.abs().amax(1)
        everything.append(most.max())
        below = OCTAVE * (everything[-1] / most).log2()  # 0 / 0 if all entries are 0
        levels.append(below.nan_to_num(0).clamp(0, 255).floor().to(torch.uint8))
        steps = (entries / _scales(levels[-1], everything[-1])).nan_to_num(0).round().clamp(-1, 1).long()
        codes.append(((steps + 1) * _powers(steps)).sum(1).to(torch.int16))
    sizes = [len(layer) for layer in layers]
    return Chosen(sizes, torch.cat(bitmap), torch.cat(codes), torch.cat(levels), torch.stack(everything))


def bitmap_bytes(sizes: Sequence[int]) -> int:
    """Bytes of the bitmap of layers with these numbers of neighbourhoods."""
    return sum(math.ceil(size / 8) for size in sizes)


def neighbourhoods(flat: torch.Tensor) -> torch.Tensor:
    """Flat entries as [size, WIDTH], the last row padded with zeros."""
    return F.pad(flat, (0, -len(flat) % WIDTH)).view(-1, WIDTH)


def indicator(layer: torch.Tensor) -> torch.Tensor:
    """Importance of each neighbourhood of a layer [size, WIDTH]: root mean square of its entries."""
    return layer.square().mean(1).sqrt()


def _bits(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def _powers(like: torch.Tensor) -> torch.Tensor:
    return 3 ** torch.arange(WIDTH, device=like.device)


def _scales(levels: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Scales [k, 1] of levels [k]."""
    return (largest * SCALES.to(levels.device)[levels.long()])[:, None]
