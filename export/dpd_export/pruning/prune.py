"""Remove filters from a base's UNet: rank them, remove the lowest, fine-tune the rest.

Ranking and fine-tuning use the whole UNet's outputs on latents that it generated itself; no real image is used.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from onnxscript import ir

from dpd_export.graphs import UNET_INPUTS, Calibration, Tensors, export_graph, unet_graph
from dpd_export.int8 import Speed, compare_speed
from dpd_export.options import Pruning
from dpd_export.pruning.filters import FilterBlock, keep, lowest, read_blocks
from dpd_export.pruning.pic_pq import difference, importance, learn_springs, output_error, same_share
from dpd_export.pruning.recovery import IMAGES, generated, recover
from dpd_export.reference import RunCases, guided
from dpd_runtime.errors import InputError
from dpd_train.bases import Base

SEED = 2  # neither the reference's nor the calibration's
ROWS = 2  # of each calibration call that judges a ranking


def check_size(large: bool) -> None:
    """Refuse a large base: ranking and fine-tuning take some ten thousand steps.

    Raises:
        InputError: the base is large.
    """
    if large:
        raise InputError("--prune calls the UNet ten thousand times: days for a base of this size; leave it out")


@dataclass(frozen=True)
class Pruned:
    """What pruning removed, and what it cost.

    Args:
        filters, kept: number of filters in the first convolutions of all residual blocks, before and after.
        parameters, parameters_kept: of the UNet, before and after.
        error, error_tuned: squared difference from the whole UNet's outputs on the calibration's latents, divided by
            the square of those outputs: after removal, and after fine-tuning.
        speed: of both UNets.
        teacher_agreement: share of images from the same noise that get the same label from the teacher.
    """

    pruning: Pruning
    filters: int
    kept: int
    parameters: int
    parameters_kept: int
    error: float
    error_tuned: float
    speed: Speed
    teacher_agreement: float = math.nan

    def entries(self) -> dict[str, object]:
        """The manifest's figures."""
        return {
            "method": self.pruning.method,
            "ratio": self.pruning.ratio,
            "filters": self.filters,
            "filters_kept": self.kept,
            "parameters": self.parameters,
            "parameters_kept": self.parameters_kept,
            "error": round(self.error, 4),
            "error_tuned": round(self.error_tuned, 4),
            "teacher_agreement": self.teacher_agreement,
        }


def prune(
    base: Base,
    cases: RunCases,
    pruning: Pruning,
    calibration: Calibration,
    progress: Callable[[], None] = lambda: None,
) -> tuple[Base, Pruned]:
    """The base with a smaller UNet, and what it cost. `base` itself does not change.

    Args:
        calibration: inputs on which the ranking is judged.
        progress: called after the removal and after fine-tuning.

    Raises:
        InputError: a ratio that removes no filter, or one for which PIC-PQ finds no ranking.
    """
    unet, calls = base.unet, [_first_rows(call) for call in calibration.calls]
    with torch.no_grad():
        blocks, outputs = read_blocks(unet, calls[0]), [unet(*call, return_dict=False)[0] for call in calls]
    kept = _ranked(base, blocks, pruning, calls)
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
    progress()
    recover(
        small,
        unet,
        generated(base, cases, IMAGES, SEED),
        torch.from_numpy(cases.prompts[-1]),
        base.scheduler.alphas_cumprod,
        guided(cases.sampler),
        SEED,
    )
    progress()
    tuned = difference(small, calls, outputs)
    pruned = replace(base, unet=small)
    counts = [sum(p.numel() for p in network.parameters()) for network in (unet, small)]
    speed = compare_speed(_graph(base), _graph(pruned), UNET_INPUTS, calibration.one_call())
    return pruned, Pruned(pruning, everything, left, counts[0], counts[1], error, tuned, speed)


def _first_rows(call: Tensors) -> Tensors:
    return tuple(x[:ROWS] if x.ndim else x for x in call)


def _ranked(base: Base, blocks: list[FilterBlock], pruning: Pruning, calls: list[Tensors]) -> dict[str, torch.Tensor]:
    if pruning.method == "magnitude":
        return lowest(blocks, same_share(blocks), pruning.ratio)
    springs, error = learn_springs(base.unet, blocks, pruning.ratio, calls, SEED)
    if not math.isfinite(error):
        raise InputError(
            f"--prune {pruning}: no ranking leaves as few multiply-adds as magnitude:{pruning.ratio:g}; use that"
        )
    return lowest(blocks, importance(blocks, springs), pruning.ratio)


def _graph(base: Base) -> bytes:
    """The UNet as ONNX in float32."""
    graph = unet_graph(base, torch.Generator().manual_seed(0))
    content: bytes = ir.to_proto(export_graph(graph)).SerializeToString()
    return content
