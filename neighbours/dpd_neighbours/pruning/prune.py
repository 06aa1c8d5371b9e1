"""Remove filters from a base's UNet: rank them, remove the lowest, fine-tune the rest.

Ranking and fine-tuning use the whole UNet's outputs on latents that it generated itself; no real image is used.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from onnxscript import ir

from dpd_export.graphs import UNET_INPUTS, Tensors, export_graph, unet_graph
from dpd_export.int8 import compare_speed
from dpd_export.pruned import Pruned, Pruning
from dpd_export.reference import RunCases, calibrate, extent_of, guided
from dpd_neighbours.pruning.filters import FilterBlock, keep, lowest, read_blocks
from dpd_neighbours.pruning.pic_pq import difference, importance, learn_springs, output_error, same_share
from dpd_neighbours.pruning.recovery import IMAGES, generated, recover
from dpd_runtime.errors import InputError
from dpd_train.bases import Base

SEED = 2  # neither the reference's nor the calibration's
ROWS = 2  # of each calibration call that judges a ranking
Kept = dict[str, torch.Tensor]
"""Numbers of the filters that stay, ascending, by block."""
Rank = Callable[[Base, list[FilterBlock], Pruning, list[Tensors]], Kept]
"""(base, its filters, what is asked, calls of the UNet that judge a ranking) → the filters that stay."""


def smaller(
    base: Base, cases: RunCases, pruning: Pruning, rank: Rank, step: Callable[[], None] = lambda: None
) -> tuple[Base, Pruned]:
    """The base with a smaller UNet, and what it cost. `base` itself does not change.

    Args:
        step: called after the removal and after fine-tuning.

    Raises:
        InputError: a large base, a ratio that removes no filter, or one for which PIC-PQ finds no ranking.
    """
    check_size(extent_of(base, len(cases.names), cases.sampler).large)
    calibration = calibrate(base, cases)
    unet, calls = base.unet, [_first_rows(call) for call in calibration.calls]
    with torch.no_grad():
        blocks, outputs = read_blocks(unet, calls[0]), [unet(*call, return_dict=False)[0] for call in calls]
    kept = rank(base, blocks, pruning, calls)
    everything = sum(block.units.numel() for block in blocks)
    left = sum(map(len, kept.values()))
    if left == everything:
        fewest = max(block.units.shape[1] for block in blocks)
        raise InputError(
            f"--prune {pruning} removes none of the {everything} filters, which are removed {fewest} at a time: "
            "give a larger ratio"
        )
    error = output_error(unet, kept, calls, outputs)
    small = copy.deepcopy(unet)
    keep(small, kept)
    step()
    recover(
        small,
        unet,
        generated(base, cases, IMAGES, SEED),
        torch.from_numpy(cases.prompts[-1]),
        base.scheduler.alphas_cumprod,
        guided(cases.sampler),
        SEED,
    )
    step()
    tuned = difference(small, calls, outputs)
    pruned = replace(base, unet=small)
    counts = [sum(p.numel() for p in network.parameters()) for network in (unet, small)]
    speed = compare_speed(_graph(base), _graph(pruned), UNET_INPUTS, calibration.one_call())
    return pruned, Pruned(pruning, everything, left, counts[0], counts[1], error, tuned, speed)


def check_size(large: bool) -> None:
    """Refuse a large base: ranking and fine-tuning take some ten thousand steps.

    Raises:
        InputError: the base is large.
    """
    if large:
        raise InputError("--prune calls the UNet ten thousand times: days for a base of this size; leave it out")


def by_magnitude(base: Base, blocks: list[FilterBlock], pruning: Pruning, calls: list[Tensors]) -> Kept:
    """Remove the same share of each layer, the filters with the smallest norms."""
    return lowest(blocks, same_share(blocks), pruning.ratio)


def by_learned_importance(base: Base, blocks: list[FilterBlock], pruning: Pruning, calls: list[Tensors]) -> Kept:
    """Remove the least important filters of all layers by PIC-PQ's criterion.

    Raises:
        InputError: no ranking leaves as few multiply-adds as `by_magnitude`.
    """
    springs, error = learn_springs(base.unet, blocks, pruning.ratio, calls, SEED)
    if not math.isfinite(error):
        raise InputError(
            f"--prune {pruning}: no ranking leaves as few multiply-adds as magnitude:{pruning.ratio:g}; use that"
        )
    return lowest(blocks, importance(blocks, springs), pruning.ratio)


RANKINGS: dict[str, Rank] = {"pic-pq": by_learned_importance, "magnitude": by_magnitude}


def _first_rows(call: Tensors) -> Tensors:
    return tuple(x[:ROWS] if x.ndim else x for x in call)


def _graph(base: Base) -> bytes:
    """The UNet as ONNX in float32."""
    graph = unet_graph(base, torch.Generator().manual_seed(0))
    content: bytes = ir.to_proto(export_graph(graph)).SerializeToString()
    return content
