"""What one training step draws, the same in every process, and how it is cut into parts."""

from itertools import pairwise
from typing import NamedTuple

import torch

from dpd_runtime.schedule import Schedule
from dpd_train.captions import CaptionTable
from dpd_train.symmetry import ORDER
from dpd_train.weighted_rows import draw_rows


class Drawn(NamedTuple):
    """Of a whole batch, on the CPU. rows, elements, timesteps: [B] int64; ids: [B, L] int64; noise: [B, C, h, w];
    snr: [B] float64.
    """

    rows: torch.Tensor
    elements: torch.Tensor
    ids: torch.Tensor
    timesteps: torch.Tensor
    noise: torch.Tensor
    snr: torch.Tensor


def draw(
    batch: int,
    shape: torch.Size,
    labels: torch.Tensor,
    captions: CaptionTable,
    dropout: float,
    schedule: Schedule,
    generator: torch.Generator,
    weights: torch.Tensor | None = None,
) -> Drawn:
    """Images, their symmetries, captions, timesteps and noise.

    Args:
        shape: of all latents [n, C, h, w]. labels: [n] int64. dropout: share of empty captions.
        weights: of each image, see `draw_rows`.
    """
    rows = draw_rows(shape[0], batch, weights, generator)
    elements = torch.randint(ORDER, (batch,), generator=generator)
    ids = captions.draw(rows, labels, elements % 2 == 1, dropout, generator)
    timesteps = torch.randint(schedule.num_train_timesteps, (batch,), generator=generator)
    noise = torch.randn((batch, *shape[1:]), generator=generator)
    alphas = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps]
    return Drawn(rows, elements, ids, timesteps, noise, alphas / (1 - alphas))


def parts(share: range, most: int | None) -> list[slice]:
    """Rows `share` of a batch in equal parts, give or take one, of at most `most` rows; None: all at once."""
    count = 1 if most is None else -(-len(share) // most)
    ends = [share.start + i * len(share) // count for i in range(count + 1)]
    return [slice(*between) for between in pairwise(ends)]
