"""One step of a solver as plain numbers, and the timesteps that inference visits."""

from dataclasses import dataclass

from dpd_runtime.schedule import Schedule


@dataclass(frozen=True)
class Step:
    """From noise level (alpha, sigma) to (alpha_next, sigma_next).

    Args:
        timestep: what the network is told.
        correction: weight of (ẑ0 − previous ẑ0) in a second-order update; 0 for first order.
    """

    timestep: int
    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float
    correction: float = 0.0


def spaced_timesteps(schedule: Schedule, count: int, *, last_point: int = 0) -> list[int]:
    """Timesteps from noise to data, as diffusers spaces them.

    Args:
        count: 1 … T.
        last_point: 1 where the solver itself appends the final point (the DPM family), 0 in DDIM.
    """
    total = schedule.num_train_timesteps
    if not 1 <= count <= total:
        raise ValueError(f"steps is {count}; it must be 1 … {total}")
    if schedule.timestep_spacing == "trailing":
        stride = (total - total / count) - total  # as np.arange rounds it: ties of round() hang on the last bit
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
    stride = (total - 1) / (points - 1)  # rounded before it is multiplied, as in np.linspace
    return [round((points - 1 - i) * stride) for i in range(count)]
