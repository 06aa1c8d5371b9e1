"""Strategic stochastic sampling of Trajectory Consistency Distillation (Zheng et al. 2024, algorithm 4).

Each step follows the trajectory beyond the next timestep t' to s = ⌊(1 − γ) t'⌋ and returns to t' with fresh noise.
Only for networks that were distilled for it. With γ = 0 it is DDIM on the timesteps of distillation.
"""

import math

from dpd_runtime.sampling.schedule import Array, Schedule
from dpd_runtime.sampling.solvers.ddim import ddim_advance
from dpd_runtime.sampling.solvers.step import Step, distillation_timesteps

GAMMA = 0.3
"""γ in 0 … 1, the share of fresh noise: diffusers' default `eta`."""


def tcd_steps(schedule: Schedule, count: int, gamma: float = GAMMA) -> list[Step]:
    """The last step ends at timestep 0, not at ẑ0, as in diffusers."""
    timesteps = distillation_timesteps(schedule, count)
    steps = []
    for i, timestep in enumerate(timesteps):
        following = timesteps[i + 1] if i + 1 < count else 0
        beyond = math.floor(round((1.0 - gamma) * following, 6))  # 0.7 · 90 is 62.999…
        (alpha_next, _), (alpha_beyond, sigma_beyond) = schedule.alpha_sigma(following), schedule.alpha_sigma(beyond)
        back = alpha_next / alpha_beyond
        noise = math.sqrt(1.0 - back**2) if beyond < following else 0.0
        steps.append(Step(timestep, *schedule.alpha_sigma(timestep), alpha_next, back * sigma_beyond, noise=noise))
    return steps


def tcd_advance(latents: Array, original: Array, step: Step, previous_original: Array | None) -> Array:
    """DDIM's update to s, times alpha' / alpha_s. `sigma_next` already is sigma_s alpha' / alpha_s."""
    return ddim_advance(latents, original, step, previous_original)
