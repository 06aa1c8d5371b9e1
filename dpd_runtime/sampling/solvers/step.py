"""One step of a solver as plain numbers, and the timesteps of sampling."""

import bisect
import math
from dataclasses import dataclass, replace

from dpd_runtime.sampling.schedule import Schedule

DISTILLATION_STEPS = 50
"""Timesteps on which consistency models are distilled: `original_inference_steps` of diffusers' LCM and TCD."""


@dataclass(frozen=True)
class Step:
    """From noise level (alpha, sigma) to (alpha_next, hypot(sigma_next, noise)).

    Args:
        timestep: the network's input.
        correction: weight of (ẑ0 − previous ẑ0) in a second-order update; 0 for first order.
        corrector: weight of (ẑ0 − previous ẑ0) in UniPC's correction of the current latents.
        corrector_older: weight of (previous ẑ0 − the one before it) in that correction. If it is not 0, `advance` has a
            fifth argument, the ẑ0 before the previous one.
        noise: standard deviation of the fresh noise that is added to the result of `advance`.
    """

    timestep: int
    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float
    correction: float = 0.0
    corrector: float = 0.0
    corrector_older: float = 0.0
    noise: float = 0.0


def spaced_timesteps(schedule: Schedule, count: int, *, last_point: int = 0) -> list[int]:
    """Timesteps from noise to data, spaced as in diffusers.

    Args:
        count: 1 … T.
        last_point: 1 if the solver appends the final point itself (the DPM family), 0 for DDIM.

    Raises:
        ValueError: `count` is out of range for the schedule.
    """
    total = schedule.num_train_timesteps
    if not 1 <= count <= total:
        raise ValueError(f"steps is {count}; it must be 1 … {total}")
    if schedule.timestep_power != 1:
        return _crowded_timesteps(schedule, count)
    if schedule.timestep_spacing == "trailing":
        stride = (total - total / count) - total  # rounded as in np.arange: ties of round() depend on the last bit
        return [round(total + i * stride) - 1 for i in range(count)]
    if schedule.timestep_spacing == "leading":
        ratio = total // (count + last_point)
        first = (count + last_point - 1) * ratio + schedule.steps_offset
        if ratio < 1 or not schedule.steps_offset <= first < total:
            raise ValueError(f"steps is {count}; that is too many for leading timesteps among {total}")
        return [first - i * ratio for i in range(count)]
    points = count + last_point
    if points == 1:
        return [0]
    if points > total:
        raise ValueError(f"steps is {count}; that is too many for linspace timesteps among {total}")
    stride = (total - 1) / (points - 1)  # rounded before it is multiplied, as in np.linspace
    return [round((points - 1 - i) * stride) for i in range(count)]


def _crowded_timesteps(schedule: Schedule, count: int) -> list[int]:
    """The timesteps of `timestep_power`. Equal ones are replaced by the nearest free ones."""
    total, power = schedule.num_train_timesteps, schedule.timestep_power
    angles = [math.atan2(sigma, alpha) for alpha, sigma in map(schedule.alpha_sigma, range(total))]

    def nearest(angle: float) -> int:
        above = min(bisect.bisect_left(angles, angle), total - 1)
        return above - 1 if above and angle - angles[above - 1] < angles[above] - angle else above

    timesteps = [nearest(angles[-1] * (1 - (i / count) ** power) ** power) for i in range(count)]
    for i in range(1, count):
        timesteps[i] = min(timesteps[i], timesteps[i - 1] - 1)
    for i in range(count - 1, -1, -1):
        timesteps[i] = max(timesteps[i], timesteps[i + 1] + 1 if i + 1 < count else 0)
    return timesteps


def distillation_timesteps(schedule: Schedule, count: int) -> list[int]:
    """Timesteps of LCM and TCD: some of those on which such models are distilled. The schedule's spacing is ignored.

    Args:
        count: 1 … 50.

    Raises:
        ValueError: `count` is out of range, or the schedule has fewer than 50 timesteps.
    """
    total = schedule.num_train_timesteps
    stride = total // DISTILLATION_STEPS
    if not 1 <= count <= DISTILLATION_STEPS:
        raise ValueError(f"steps is {count}; it must be 1 … {DISTILLATION_STEPS}")
    if stride < 1:
        raise ValueError(
            f"steps is {count}; models are distilled on {DISTILLATION_STEPS} timesteps, and there are {total}"
        )
    ratio = DISTILLATION_STEPS / count  # rounded before it is multiplied, as in np.linspace
    return [(DISTILLATION_STEPS - math.floor(i * ratio)) * stride - 1 for i in range(count)]


def without_pure_noise(schedule: Schedule) -> Schedule:
    """Replace a last ᾱ of 0 by 2⁻²⁴, because sigma / alpha would be infinite. diffusers does the same."""
    if schedule.alphas_cumprod[-1] > 0:
        return schedule
    return replace(schedule, alphas_cumprod=(*schedule.alphas_cumprod[:-1], 2.0**-24))
