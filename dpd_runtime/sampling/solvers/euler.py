"""Euler (Karras et al. 2022, algorithm 1 without its second-order part and without churn). It ends at sigma = 0."""

from dpd_runtime.sampling.schedule import Array, Schedule
from dpd_runtime.sampling.solvers.ddim import ddim_advance
from dpd_runtime.sampling.solvers.step import Step, spaced_timesteps, without_pure_noise


def euler_steps(schedule: Schedule, count: int) -> list[Step]:
    """Each step goes to the next timestep of the list, the last one to ẑ0.

    With linspace spacing diffusers uses fractional timesteps. Here they are rounded, as in DDIM, because a graph may
    take whole numbers only.
    """
    schedule = without_pure_noise(schedule)
    timesteps = spaced_timesteps(schedule, count)
    levels = [*(schedule.alpha_sigma(t) for t in timesteps), (1.0, 0.0)]
    return [Step(t, *levels[i], *levels[i + 1]) for i, t in enumerate(timesteps)]


def euler_advance(latents: Array, original: Array, step: Step, previous_original: Array | None) -> Array:
    """x' = x + (s' − s) (x − ẑ0) / s with x = z / alpha and s = sigma / alpha, which is DDIM's update of z."""
    return ddim_advance(latents, original, step, previous_original)
