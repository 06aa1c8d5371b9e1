"""DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2, midpoint form). The last step is of first order, to sigma = 0."""

import math

from dpd_runtime.sampling.schedule import Array, Schedule
from dpd_runtime.sampling.solvers.step import Step, spaced_timesteps


def _log_snr(alpha: float, sigma: float) -> float:
    """λ = log(alpha / sigma), half of the log signal-to-noise ratio."""
    return math.log(alpha) - math.log(sigma)


def dpm_steps(schedule: Schedule, count: int) -> list[Step]:
    """The last step ends at ẑ0. At zero terminal SNR λ is −∞; the first step is of first order then."""
    timesteps = spaced_timesteps(schedule, count, last_point=1)
    levels = [schedule.alpha_sigma(t) for t in timesteps] + [(1.0, 0.0)]
    steps = []
    for i, timestep in enumerate(timesteps):
        (alpha, sigma), (alpha_next, sigma_next) = levels[i], levels[i + 1]
        correction = 0.0
        if 0 < i < count - 1 and levels[i - 1][0] > 0:
            h = _log_snr(alpha_next, sigma_next) - _log_snr(alpha, sigma)
            h_previous = _log_snr(alpha, sigma) - _log_snr(*levels[i - 1])
            correction = 0.5 * h / h_previous  # 1 / (2 r), r = h_previous / h
        steps.append(Step(timestep, alpha, sigma, alpha_next, sigma_next, correction))
    return steps


def dpm_advance(latents: Array, original: Array, step: Step, previous_original: Array | None) -> Array:
    """z' = (sigma'/sigma) z − alpha' (e^{−h} − 1) D, with D = ẑ0 + correction (ẑ0 − previous ẑ0)."""
    blended = original
    if step.correction:
        blended = (1.0 + step.correction) * original - step.correction * previous_original  # type: ignore[operator, assignment]
    # alpha' (1 − e^{−h}) = alpha' − sigma' alpha / sigma: finite at both ends of the schedule, where λ is not
    ratio = step.sigma_next / step.sigma
    return ratio * latents + (step.alpha_next - ratio * step.alpha) * blended  # type: ignore[operator, return-value]
