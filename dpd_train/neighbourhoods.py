"""Nine neighbouring entries of a gradient as six bytes: one step of 32 for all of them, three bits each, and a place.

What rounding takes away is known to the sender, which sends it later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

WIDTH = 9  # entries, in the weight's order: the taps of one 3 × 3 filter
BYTES = 6  # that travel of a neighbourhood
PIECE = 2**15  # of a layer at once, so that a place fits in two bytes
LEVELS = 32  # of a neighbourhood's step, evenly spread up to the largest one of its piece
MOST = 3  # values are whole multiples of the step, −3 … 3


@dataclass(frozen=True)
class Chosen:
    """Neighbourhoods of several pieces, one piece after the other.

    Args:
        counts: how many are each piece's; k together.
        places: [k] int16, within each piece. words: [k] int32: the level, then nine values of three bits.
        largest: [pieces] float32: the largest entry of what each sends.
    """

    counts: list[int]
    places: torch.Tensor
    words: torch.Tensor
    largest: torch.Tensor

    @property
    def bytes(self) -> int:
        return BYTES * sum(self.counts) + 4 * len(self.counts)

    def to_bytes(self) -> torch.Tensor:
        """[bytes] uint8; all know the counts."""
        return torch.cat([part.view(torch.uint8) for part in (self.places, self.words, self.largest)])

    @classmethod
    def from_bytes(cls, content: torch.Tensor, counts: list[int]) -> "Chosen":
        k = sum(counts)
        parts = torch.split(content, [2 * k, 4 * k, 4 * len(counts)])
        kinds = (torch.int16, torch.int32, torch.float32)
        return cls(counts, *(part.clone().view(kind) for part, kind in zip(parts, kinds, strict=True)))

    def values(self) -> torch.Tensor:
        """[k, WIDTH] float32, as every receiver has them."""
        word = self.words.long()[:, None]
        codes = (word >> _shifts(word)) & 7
        return (codes - MOST) * _steps(word[:, 0] >> 3 * WIDTH & LEVELS - 1, self.counts, self.largest)

    def add_to(self, pieces: Sequence[torch.Tensor], scale: float = 1) -> None:
        """Add `scale` times each neighbourhood to its place in the pieces [n, WIDTH], in place."""
        parts = (torch.split(tensor, self.counts) for tensor in (self.places.int(), self.values()))
        for piece, places, values in zip(pieces, *parts, strict=True):
            piece.index_add_(0, places, values.to(piece.dtype), alpha=scale)


def packed(values: Sequence[torch.Tensor], places: Sequence[torch.Tensor]) -> Chosen:
    """Of each piece the neighbourhoods [k, WIDTH], k ≥ 1, and their places [k]."""
    counts = [len(own) for own in values]
    largest = torch.stack([own.abs().amax().float() for own in values])
    joined = torch.cat([own.float() for own in values])
    whole = torch.repeat_interleave(largest, torch.tensor(counts, device=largest.device))
    level = (LEVELS * joined.abs().amax(1) / whole).nan_to_num(1).ceil().clamp(1, LEVELS).long() - 1
    codes = (joined / _steps(level, counts, largest)).nan_to_num(0).round().clamp(-MOST, MOST).long() + MOST
    words = (codes << _shifts(codes)).sum(1) | level << 3 * WIDTH
    return Chosen(counts, torch.cat(list(places)).to(torch.int16), words.to(torch.int32), largest)


def _shifts(like: torch.Tensor) -> torch.Tensor:
    return 3 * torch.arange(WIDTH, device=like.device)


def _steps(level: torch.Tensor, counts: list[int], largest: torch.Tensor) -> torch.Tensor:
    """[k, 1], of the levels [k], 0 … LEVELS − 1."""
    whole = torch.repeat_interleave(largest, torch.tensor(counts, device=largest.device))
    return (whole * (level + 1) / (LEVELS * MOST))[:, None]


def in_pieces(flat: torch.Tensor) -> list[torch.Tensor]:
    """Neighbourhoods [n, WIDTH] of flat entries whose number is a multiple of WIDTH, at most PIECE at once: views."""
    return list(torch.split(flat.view(-1, WIDTH), PIECE))


def padded(flat: torch.Tensor) -> torch.Tensor:
    """With zeros behind it, to a multiple of WIDTH."""
    return F.pad(flat, (0, -len(flat) % WIDTH))


def indicator(piece: torch.Tensor) -> torch.Tensor:
    """Importance of each neighbourhood of a piece [n, WIDTH]: the root mean square of its entries."""
    return piece.float().square().mean(1).sqrt()
