"""PIC-PQ's criterion: importance linear in a property of the filter, with a scale and a shift learned for each layer.

Physics-inspired, as a spring's force is linear in its deformation (arXiv 2312.00851, METHOD §6): I = a·F + b, F the
filter's norm, a and b of each layer, and one ranking over all layers. The pairs (a, b) are found by regularised
evolution on what the network says with the lowest filters gone, as LeGR does (Chin et al., CVPR 2020).
"""

import copy
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dpd_export.pruning.filters import Block, keep, lowest, multiply_adds

POPULATION, TOURNAMENT, TRIALS = 24, 6, 160
CHANGED, CHANGE = 0.2, 0.3
"""Share of the layers whose scale and shift a child changes, and the standard deviation of that."""
Tensors = tuple[torch.Tensor, ...]
Springs = npt.NDArray[np.float64]
"""Logarithm of the scale, and shift, of each layer: [layers, 2]."""


def same_share(blocks: list[Block]) -> list[torch.Tensor]:
    """Importance by magnitude alone: each layer loses the same share, its filters of the smallest norm."""
    return [(torch.arange(len(block.units)) + 0.5) / len(block.units) for block in blocks]


def importance(blocks: list[Block], springs: Springs) -> list[torch.Tensor]:
    return [
        float(np.exp(scale)) * block.norms + float(shift) for block, (scale, shift) in zip(blocks, springs, strict=True)
    ]


@torch.no_grad()
def difference(unet: nn.Module, calls: list[Tensors], said: list[torch.Tensor]) -> float:
    """Squared difference from what the whole UNet `said` to these calls, over the square of that."""
    found = [unet(*call, return_dict=False)[0] for call in calls]
    squares = sum(float((a - b).square().sum()) for a, b in zip(found, said, strict=True))
    return squares / sum(float(b.square().sum()) for b in said)


def output_error(
    unet: nn.Module, kept: dict[str, torch.Tensor], calls: list[Tensors], said: list[torch.Tensor]
) -> float:
    """`difference` of a copy with these filters alone."""
    rest = copy.deepcopy(unet)
    keep(rest, kept)
    return difference(rest, calls, said)


def learn_springs(
    unet: nn.Module,
    blocks: list[Block],
    ratio: float,
    calls: list[Tensors],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> tuple[Springs, float]:
    """Scales and shifts, and the output's error with the lowest filters gone.

    A candidate that leaves more multiply-adds than the same share of each layer would is worse than any that does not:
    without this only the cheap layers would lose filters.
    """
    generator = np.random.default_rng(seed)
    limit = multiply_adds(blocks, lowest(blocks, same_share(blocks), ratio))
    with torch.no_grad():
        said = [unet(*call, return_dict=False)[0] for call in calls]
    known: dict[bytes, float] = {}

    def judge(springs: Springs) -> tuple[float, float]:
        kept = lowest(blocks, importance(blocks, springs), ratio)
        beyond = max(0.0, multiply_adds(blocks, kept) / limit - 1)
        key = b"".join(kept[name].numpy().tobytes() + b"|" for name in sorted(kept))
        if not beyond and key not in known:
            known[key] = output_error(unet, kept, calls, said)
        return beyond, known.get(key, float("inf"))

    def child(parent: Springs) -> Springs:
        chosen = generator.random(len(blocks)) < CHANGED
        chosen[generator.integers(len(blocks))] = True
        return parent + chosen[:, None] * generator.normal(0, CHANGE, (len(blocks), 2))

    neutral = np.zeros((len(blocks), 2))
    best = (judge(neutral), neutral)
    alive = deque([best], maxlen=POPULATION)
    for trial in range(TRIALS):
        some = [alive[i] for i in generator.integers(len(alive), size=min(TOURNAMENT, len(alive)))]
        made = child(min(some, key=lambda one: one[0])[1])
        alive.append((judge(made), made))
        best = min(best, alive[-1], key=lambda one: one[0])
        progress(trial + 1, TRIALS)
    return best[1], best[0][1]
