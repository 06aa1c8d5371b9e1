"""PIC-PQ's criterion (arXiv 2312.00851): importance is linear in the filter's norm, learned for each layer.

As a spring's force is linear in its deformation, I = a·F + b with F the filter's norm, one a and b per layer, and one
ranking over all layers. Regularised evolution finds the pairs (a, b): it compares the network's outputs with the lowest
filters removed, as LeGR does (Chin et al., CVPR 2020).
"""

import copy
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dpd_export.graphs import Tensors
from dpd_neighbours.pruning.filters import FilterBlock, keep, lowest, multiply_adds

POPULATION, TOURNAMENT, TRIALS = 24, 6, 160
CHANGED, CHANGE = 0.2, 0.3
"""Share of the layers whose scale and shift a child changes, and the standard deviation of the change."""
Springs = npt.NDArray[np.float64]
"""[layers, 2]: the scale's logarithm and the shift of each layer."""


def same_share(blocks: list[FilterBlock]) -> list[torch.Tensor]:
    """Importance by magnitude: each layer loses the same share, its filters with the smallest norms."""
    return [(torch.arange(len(block.units)) + 0.5) / len(block.units) for block in blocks]


def importance(blocks: list[FilterBlock], springs: Springs) -> list[torch.Tensor]:
    """Importance of each block's units, [units] for each block."""
    return [
        float(np.exp(scale)) * block.norms + float(shift) for block, (scale, shift) in zip(blocks, springs, strict=True)
    ]


@torch.no_grad()
def difference(unet: nn.Module, calls: list[Tensors], outputs: list[torch.Tensor]) -> float:
    """Squared difference from the whole UNet's `outputs` for these calls, divided by their square."""
    pruned_outputs = [unet(*call, return_dict=False)[0] for call in calls]
    squares = sum(float((a - b).square().sum()) for a, b in zip(pruned_outputs, outputs, strict=True))
    return squares / sum(float(b.square().sum()) for b in outputs)


def output_error(
    unet: nn.Module, kept: dict[str, torch.Tensor], calls: list[Tensors], outputs: list[torch.Tensor]
) -> float:
    """`difference` of a copy that keeps only these filters."""
    rest = copy.deepcopy(unet)
    keep(rest, kept)
    return difference(rest, calls, outputs)


def learn_springs(
    unet: nn.Module,
    blocks: list[FilterBlock],
    ratio: float,
    calls: list[Tensors],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> tuple[Springs, float]:
    """Find scales and shifts, and the output's error with the lowest filters removed.

    A candidate that leaves more multiply-adds than removing the same share of each layer ranks below all others.
    Otherwise only the cheap layers would lose filters.
    """
    generator = np.random.default_rng(seed)
    limit = multiply_adds(blocks, lowest(blocks, same_share(blocks), ratio))
    with torch.no_grad():
        outputs = [unet(*call, return_dict=False)[0] for call in calls]
    known: dict[bytes, float] = {}

    def rated(springs: Springs) -> tuple[float, float]:
        kept = lowest(blocks, importance(blocks, springs), ratio)
        beyond = max(0.0, multiply_adds(blocks, kept) / limit - 1)
        key = b"".join(kept[name].numpy().tobytes() + b"|" for name in sorted(kept))
        if not beyond and key not in known:
            known[key] = output_error(unet, kept, calls, outputs)
        return beyond, known.get(key, float("inf"))

    def child(parent: Springs) -> Springs:
        chosen = generator.random(len(blocks)) < CHANGED
        chosen[generator.integers(len(blocks))] = True
        return parent + chosen[:, None] * generator.normal(0, CHANGE, (len(blocks), 2))

    neutral = np.zeros((len(blocks), 2))
    best = (rated(neutral), neutral)
    alive = deque([best], maxlen=POPULATION)
    for trial in range(TRIALS):
        some = [alive[i] for i in generator.integers(len(alive), size=min(TOURNAMENT, len(alive)))]
        made = child(min(some, key=lambda one: one[0])[1])
        alive.append((rated(made), made))
        best = min(best, alive[-1], key=lambda one: one[0])
        progress(trial + 1, TRIALS)
    return best[1], best[0][1]
