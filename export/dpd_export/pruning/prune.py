"""A base with fewer filters in its UNet: which go is ranked, they are taken out, and what is left is tuned.

Everything is judged and tuned by what the whole UNet says of latents that it generated itself: no image of anyone's.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from onnxscript import ir

from dpd_export.graphs.calibration import Calibration, guided, in_batch
from dpd_export.graphs.int8 import Speed, compare_speed
from dpd_export.graphs.parts import UNET_INPUTS, unet_graph
from dpd_export.graphs.trace import export_graph
from dpd_export.pruning.filters import Block, keep, lowest, read_blocks
from dpd_export.pruning.pic_pq import difference, importance, learn_springs, output_error, same_share
from dpd_export.pruning.recovery import IMAGES, STEPS, generated, recover
from dpd_export.reference.cases import Scenes
from dpd_runtime.errors import InputError
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.bases.base import Base
from dpd_train.config import figure_of

METHODS = ("pic-pq", "magnitude")
SEED = 2  # neither the reference's nor the calibration's
ROWS = 2  # of each of the calibration's calls that a ranking is judged by
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Pruning:
    """Args: ratio: share of the filters that go."""

    method: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.method}:{self.ratio:g}"


def parse_pruning(text: str) -> Pruning:
    """`method:RATIO`.

    Raises:
        InputError: another method, or a ratio outside 0 ... 1.
    """
    method = text.partition(":")[0]
    ratio = figure_of(method, text)
    if method not in METHODS or not 0 < ratio < 1:
        raise InputError(
            f"--prune {text!r}: say {' or '.join(METHODS)} and the share of the UNet's filters to take out, above 0 "
            "and below 1, as in pic-pq:0.3"
        )
    return Pruning(method, ratio)


def check_size(large: bool) -> None:
    """Raises:
    InputError: a base of which a step takes seconds; ranking and tuning take some ten thousand.
    """
    if large:
        raise InputError("--prune calls the UNet ten thousand times: days for a base of this size; leave it out")


@dataclass(frozen=True)
class Pruned:
    """Args:
    filters, kept: of all residual blocks' first convolutions, before and after.
    parameters, parameters_kept: of the UNet.
    error, error_tuned: squared difference from what the whole UNet says over the square of that, on the calibration's
        latents: when the filters were out, and after tuning.
    speed: of both UNets. teacher_agreement: share of generated images of which the teacher says the same of both.
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
        """As the manifest holds them."""
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
    scenes: Scenes,
    sampler: Sampler,
    pruning: Pruning,
    calibration: Calibration,
    progress: Callable[[], None] = lambda: None,
    *,
    images: int = IMAGES,
    steps: int = STEPS,
) -> tuple[Base, Pruned]:
    """The base with a smaller UNet, and what it cost. `base` itself stays whole.

    Args:
        calibration: what the ranking is judged by. progress: called when filters are out, and when the rest is tuned.
        images: that the whole UNet generates, and `steps` that the rest is tuned on them.

    Raises:
        InputError: a ratio that takes no filter out, or one for which PIC-PQ finds no ranking.
    """
    unet, calls = base.unet, [_first_rows(call) for call in calibration.calls]
    with torch.no_grad():
        blocks, said = read_blocks(unet, calls[0]), [unet(*call, return_dict=False)[0] for call in calls]
    kept = _ranked(base, blocks, pruning, calls)
    everything = sum(block.units.numel() for block in blocks)
    left = sum(map(len, kept.values()))
    if left == everything:
        fewest = max(block.units.shape[1] for block in blocks)
        raise InputError(
            f"--prune {pruning} takes out none of the {everything} filters, which go "
            f"{fewest} at once: give a larger ratio"
        )
    error = output_error(unet, kept, calls, said)
    small = copy.deepcopy(unet)
    keep(small, kept)
    progress()
    recover(
        small,
        unet,
        generated(base, scenes, sampler, images, SEED),
        torch.from_numpy(scenes.prompts[-1]),
        base.scheduler.alphas_cumprod,
        guided(sampler),
        SEED,
        steps,
    )
    progress()
    tuned = difference(small, calls, said)
    pruned, batch = replace(base, unet=small), in_batch(calibration.calls, calibration.batch)
    counts = [sum(p.numel() for p in network.parameters()) for network in (unet, small)]
    speed = compare_speed(_graph(base), _graph(pruned), UNET_INPUTS, batch)
    return pruned, Pruned(pruning, everything, left, counts[0], counts[1], error, tuned, speed)


def _first_rows(call: Tensors) -> Tensors:
    return tuple(x[:ROWS] if x.ndim else x for x in call)


def _ranked(base: Base, blocks: list[Block], pruning: Pruning, calls: list[Tensors]) -> dict[str, torch.Tensor]:
    if pruning.method == "magnitude":
        return lowest(blocks, same_share(blocks), pruning.ratio)
    springs, error = learn_springs(base.unet, blocks, pruning.ratio, calls, SEED)
    if not math.isfinite(error):
        raise InputError(
            f"--prune {pruning}: no ranking leaves as few multiply-adds as magnitude:{pruning.ratio:g} does; take that"
        )
    return lowest(blocks, importance(blocks, springs), pruning.ratio)


def _graph(base: Base) -> bytes:
    """The UNet as ONNX in float32."""
    graph = unet_graph(base, torch.Generator().manual_seed(0))
    content: bytes = ir.to_proto(export_graph(graph)).SerializeToString()
    return content
