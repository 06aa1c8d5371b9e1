"""Multistep sampling of a latent consistency model (Luo et al. 2023, algorithm 3): jump to ẑ0, add fresh noise, repeat.

Only for networks that were distilled to consistency models: another network's ẑ0 from pure noise is a blurred mean.
"""

from dpd_runtime.sampling.schedule import Array, Schedule
from dpd_runtime.sampling.solvers.step import Step, distillation_timesteps

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def lcm_steps(schedule: Schedule, count: int) -> list[Step]:
    """The whole sigma of the next level is fresh noise. The last step ends at ẑ0."""
    timesteps = distillation_timesteps(schedule, count)
    levels = [*(schedule.alpha_sigma(t) for t in timesteps), (1.0, 0.0)]
    return [
        Step(t, *levels[i], alpha_next=levels[i + 1][0], sigma_next=0.0, noise=levels[i + 1][1])
        for i, t in enumerate(timesteps)
    ]


def lcm_advance(latents: Array, original: Array, step: Step, previous_original: Array | None) -> Array:
    """alpha' (c_out ẑ0 + c_skip z): the boundary condition of Song et al. 2023, eq. 5, with scaled timesteps."""
    scaled = step.timestep * TIMESTEP_SCALING
    total = scaled**2 + SIGMA_DATA**2
    skip, out = SIGMA_DATA**2 / total, scaled / total**0.5
    return (step.alpha_next * out) * original + (step.alpha_next * skip) * latents  # type: ignore[operator, no-any-return]
