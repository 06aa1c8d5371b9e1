"""DDIM with eta = 0 (Song et al. 2020, eq. 12)."""

from dpd_runtime.sampling.schedule import Array, Schedule
from dpd_runtime.sampling.solvers.step import Step, spaced_timesteps


def ddim_steps(schedule: Schedule, count: int) -> list[Step]:
    """With even spacing each step goes back by T // count, as in diffusers, not to the next timestep of the list."""
    timesteps = spaced_timesteps(schedule, count)
    if schedule.timestep_power != 1:
        ways = zip(timesteps, [*timesteps[1:], -1], strict=True)
        return [Step(t, *schedule.alpha_sigma(t), *schedule.alpha_sigma(then)) for t, then in ways]
    stride = schedule.num_train_timesteps // count
    return [Step(t, *schedule.alpha_sigma(t), *schedule.alpha_sigma(t - stride)) for t in timesteps]


def ddim_advance(latents: Array, original: Array, step: Step, previous_original: Array | None) -> Array:
    """z_{t'} = alpha' ẑ0 + sigma' ε with ε = (z_t − alpha ẑ0) / sigma."""
    ratio = step.sigma_next / step.sigma
    return ratio * latents + (step.alpha_next - ratio * step.alpha) * original  # type: ignore[operator, return-value]
