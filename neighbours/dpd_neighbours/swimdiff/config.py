"""Everything that decides an encoder except the images."""

import math
from dataclasses import dataclass

from dpd_runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SwimDiff:
    """Settings of a training: AdamW with warm-up, plateau and decay.

    Args:
        batch: images per step, 2 to `queue`.
        peak_rate: 0 or more; 0 changes no weight and sets the batch statistics, which makes a control.
        weight_decay: 0 or more.
        momentum: share of the key encoder that a step keeps, from 0 to below 1. MoCo's 0.999 is for trainings a hundred
            times as long.
        queue: keys of earlier steps that are negatives.
        temperature: of the contrast, above 0; as in MoCo v2.
        contrast_weight, diffusion_weight: λ_C and λ_D of L = λ_C · L_C + λ_D · L_D.
        same_scene_negatives: keep keys of the query's own scene among the negatives, as plain momentum contrast does.

    Raises:
        InputError: a value out of range.
    """

    steps: int = 5000
    batch: int = 128
    peak_rate: float = 2e-3
    weight_decay: float = 1e-4
    momentum: float = 0.99
    queue: int = 4096
    temperature: float = 0.2
    contrast_weight: float = 1.0
    diffusion_weight: float = 1.0
    same_scene_negatives: bool = False
    bfloat16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"--steps is {self.steps}: give at least 1")
        if self.batch < 2:
            raise InputError(f"--batch is {self.batch}: batch statistics need at least 2 images")
        if self.queue < 1:
            raise InputError(f"queue is {self.queue}: give at least 1 key")
        if self.batch > self.queue:
            raise InputError(f"--batch is {self.batch}: it must be at most {self.queue}, the queue's length")
        weights = self.contrast_weight, self.diffusion_weight
        if not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise InputError(
                f"--lambda-contrast {self.contrast_weight:g} and --lambda-diffusion {self.diffusion_weight:g}: give "
                "numbers of 0 or more, not both 0"
            )
        for name, value in (("--rate", self.peak_rate), ("weight_decay", self.weight_decay)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is {value:g}: give a number of 0 or more")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum:g}: give 0 to below 1; at 1 nothing follows the weights")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature:g}: give a number above 0, such as 0.2")
