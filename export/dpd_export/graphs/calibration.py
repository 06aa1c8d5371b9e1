"""What int8 is calibrated on: inputs of the UNet which come up while PyTorch generates; no image of anyone's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpd_export.reference.cases import Scenes
from dpd_export.reference.reference import Recorder, spread
from dpd_runtime.generation.cases import sample_case
from dpd_runtime.sampling.sampler import Sampler
from dpd_train.bases.base import Base, torch_denoise

SEED = 1
"""Not the reference's: the images that int8 is judged by shall not be those that set its ranges."""
CLASSES, IMAGES, MOMENTS = 10, 4, 5
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Calibration:
    """Args: calls: inputs of the UNet, all in one batch size. batch: rows of a call when the bundle generates."""

    calls: list[Tensors]
    batch: int


def calibrate(base: Base, scenes: Scenes, sampler: Sampler) -> Calibration:
    """MOMENTS calls of IMAGES latents (twice as many rows with guidance) for each of up to CLASSES classes."""
    labels = spread(min(CLASSES, len(scenes.names)), list(range(len(scenes.names))))
    wanted = {moment * (sampler.steps - 1) // (MOMENTS - 1) for moment in range(MOMENTS)}
    calls: list[Tensors] = []
    for label in labels:
        rows = [(label, index) for index in range(IMAGES)]
        chosen = (sampler.solver, sampler.steps, sampler.first_drawn(), IMAGES, SEED)
        recorder = Recorder(torch_denoise(base), wanted, ends_only=False)
        sample_case(recorder, scenes.case(rows, *chosen, half=False))
        calls += recorder.calls
    return Calibration(calls, sampler.compute_batch * (2 if guided(sampler) else 1))


def guided(sampler: Sampler) -> bool:
    """Whether images that are drawn take an unconditional pass in any step."""
    return any(sampler.first_drawn().guides(step, sampler.steps) for step in range(sampler.steps))


def in_batch(calls: Sequence[Tensors], batch: int) -> Tensors:
    """Rows of these calls as one call of `batch` rows, at the middle call's timestep."""
    columns = zip(*calls, strict=True)
    rows = [column[len(column) // 2] if not column[0].ndim else torch.cat(column) for column in columns]
    return tuple(x[torch.arange(batch) % len(x)] if x.ndim else x for x in rows)
