"""The schedule's arithmetic and the solvers, written once for numpy arrays and torch tensors."""

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

# -- The noise schedule in plain arithmetic, for numpy arrays and torch tensors.
#
# Coefficients are Python floats: a numpy float64 scalar would turn a float32 array into float64. Notation: alpha =
# √ᾱ_t, sigma = √(1 − ᾱ_t), z_t = alpha · ẑ0 + sigma · ε, v = alpha · ε − sigma · ẑ0.


PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]
Array = TypeVar("Array")

PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")
MAX_TIMESTEPS = 100_000
TIMESTEP_SPACINGS: tuple[TimestepSpacing, ...] = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Schedule:
    """ᾱ_t for t = 0 … T − 1, what the network predicts, and how the timesteps of sampling are chosen.

    Args:
        timestep_power: 1 uses `timestep_spacing`. p > 1 ignores it and uses the timesteps whose angle atan(sigma /
            alpha) is nearest to (1 − (i / N)^p)^p times the last one's, i = 0 … N − 1. They are dense at both ends:
            near pure noise, where the mean colours of a scene are decided, and near the data, where its finest details
            are.
    """

    alphas_cumprod: tuple[float, ...] = field(repr=False)
    prediction_type: PredictionType
    timestep_spacing: TimestepSpacing = "trailing"
    steps_offset: int = 0
    final_alpha_cumprod: float = 1.0
    timestep_power: float = 1.0

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def alpha_sigma(self, timestep: int) -> tuple[float, float]:
        """(√ᾱ_t, √(1 − ᾱ_t)). A negative timestep means the final ᾱ."""
        ratio = self.alphas_cumprod[timestep] if timestep >= 0 else self.final_alpha_cumprod
        return math.sqrt(ratio), math.sqrt(1.0 - ratio)


def _betas(config: Mapping[str, Any], count: int) -> list[float]:
    kind = config["beta_schedule"]
    if kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, eq. 17

        def alpha_bar(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        return [min(1 - alpha_bar((i + 1) / count) / alpha_bar(i / count), 0.999) for i in range(count)]
    low, high = float(config["beta_start"]), float(config["beta_end"])
    if kind == "linear":
        return [low + (high - low) * i / (count - 1) for i in range(count)]
    if kind == "scaled_linear":  # Stable Diffusion
        low, high = math.sqrt(low), math.sqrt(high)
        return [(low + (high - low) * i / (count - 1)) ** 2 for i in range(count)]
    raise ValueError(f"beta_schedule {kind!r} is not supported: use squaredcos_cap_v2, linear or scaled_linear")


def _zero_terminal_snr(alphas_cumprod: list[float]) -> list[float]:
    """Shift and scale √ᾱ so that the last one is 0 (Lin et al. 2023, algorithm 1)."""
    roots = [math.sqrt(a) for a in alphas_cumprod]
    first, last = roots[0], roots[-1]
    return [((r - last) * first / (first - last)) ** 2 for r in roots]


def schedule_from_config(config: Mapping[str, Any]) -> Schedule:
    """Read a diffusers `scheduler_config.json`.

    Raises:
        ValueError: an option that changes the result and is not supported, or a value out of range.
    """
    count = int(config["num_train_timesteps"])
    if not 2 <= count <= MAX_TIMESTEPS:
        raise ValueError(f"num_train_timesteps is {count}: it must be 2 … {MAX_TIMESTEPS}")
    alphas_cumprod, product = [], 1.0
    for beta in _betas(config, count):
        if not 0 < beta < 1:
            raise ValueError(f"beta_start and beta_end give a beta of {beta}: each must lie between 0 and 1")
        product *= 1.0 - beta
        alphas_cumprod.append(product)
    if config.get("rescale_betas_zero_snr"):
        alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
    prediction_type = config.get("prediction_type", "epsilon")
    spacing = config.get("timestep_spacing", "leading")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
    if spacing not in TIMESTEP_SPACINGS:
        raise ValueError(f"timestep_spacing {spacing!r} is not one of {', '.join(TIMESTEP_SPACINGS)}")
    offset = int(config.get("steps_offset", 0))
    if not 0 <= offset < count:
        raise ValueError(f"steps_offset is {offset}: it must be 0 … {count - 1}")
    for option in ("clip_sample", "thresholding"):
        if config.get(option):
            raise ValueError(f"scheduler option {option} is not supported: latents are not bounded; set it to false")
    if config.get("trained_betas") is not None:
        raise ValueError("scheduler option trained_betas is not supported: name a beta_schedule")
    if prediction_type == "epsilon" and alphas_cumprod[-1] == 0:
        raise ValueError(
            "rescale_betas_zero_snr is not supported with epsilon: pure noise does not determine z0 from it"
        )
    return Schedule(
        alphas_cumprod=tuple(alphas_cumprod),
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        steps_offset=offset,
        final_alpha_cumprod=1.0 if config.get("set_alpha_to_one", True) else alphas_cumprod[0],
    )


def add_noise(latents: Array, noise: Array, alpha: float, sigma: float) -> Array:
    """Noisy latents z_t = alpha · z_0 + sigma · ε."""
    return alpha * latents + sigma * noise  # type: ignore[operator, return-value]


def predicted_original(
    latents: Array, output: Array, prediction_type: PredictionType, alpha: float, sigma: float
) -> Array:
    """ẑ0 from the noisy latents z_t and the network's output."""
    if prediction_type == "sample":
        return output
    if prediction_type == "v_prediction":
        return alpha * latents - sigma * output  # type: ignore[operator, return-value]
    return (latents - sigma * output) / alpha  # type: ignore[operator, return-value]


# -- Solvers of the diffusion process. Each advances from ẑ0, so guidance on ẑ0 works with all of them.
#
# A solver is a function `steps(schedule, count) -> list[Step]` and a pure function `advance(latents, original, step,
# previous_original) -> latents`. Two fields of a step have consequences for the sampling loop: if `corrector_older` is
# not 0, `advance` has a fifth argument, the ẑ0 before the previous one; if `noise` is not 0, the loop adds fresh noise
# to the result.


Advance = Callable[..., Any]

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


# DDIM with eta = 0 (Song et al. 2020, eq. 12).


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


# DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2, midpoint form). The last step is of first order, to sigma = 0.


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


# UniPC of order 2 (Zhao et al. 2023, algorithms 1 and 2) with B₂(h) = e^h − 1 ("bh2") in data prediction.
#
# Its predictor UniP-2 is the update of DPM-Solver++(2M). Its corrector UniC-2 uses ẑ0 at the predicted latents to
# correct them, without a further evaluation. Both are linear in the same terms. Therefore the corrected latents are
# the predicted ones plus a weighted sum of the last three ẑ0, and no earlier latents are needed.


def _corrector(before: Step, step: Step) -> tuple[float, float]:
    """Weights of (ẑ0 − previous ẑ0) and (previous ẑ0 − the one before it).

    With h the step in λ, B = 1 − e^{−h} and r = (λ_{i−2} − λ_{i−1}) / h, UniC-2 solves ρ0 + ρ1 = b1, r ρ0 + ρ1 = b2.
    The predictor has already used −1/2 for ρ0, and 1 / r = −2 · its correction.
    """
    h = math.log(step.alpha / step.sigma) - math.log(before.alpha / before.sigma)
    shrink = -math.expm1(-h)  # B
    if not before.correction:  # order 1
        return 0.5 * step.alpha * shrink, 0.0
    ratio = -0.5 / before.correction  # r
    first = 1.0 / shrink - 1.0 / h  # b1
    second = 1.0 / shrink - 2.0 * first / h  # b2
    rho = (first - second) / (1.0 - ratio)  # ρ0
    gain = step.alpha * shrink
    return gain * (first - rho), gain * 2.0 * before.correction * (rho - 0.5)


def unipc_steps(schedule: Schedule, count: int) -> list[Step]:
    """The steps of DPM-Solver++(2M). Each but the first also corrects the latents that it starts from."""
    steps = dpm_steps(without_pure_noise(schedule), count)
    corrected = steps[:1]
    for before, step in pairwise(steps):
        corrector, older = _corrector(before, step)
        corrected.append(replace(step, corrector=corrector, corrector_older=older))
    return corrected


def unipc_advance(
    latents: Array,
    original: Array,
    step: Step,
    previous_original: Array | None,
    older_original: Array | None = None,
) -> Array:
    """Correct the latents, then predict the next ones (see `_corrector`).

    Args:
        older_original: the ẑ0 before the previous one, from the third step on.
    """
    if step.corrector:
        latents = latents + step.corrector * (original - previous_original)  # type: ignore[operator]
    if step.corrector_older:
        latents = latents + step.corrector_older * (previous_original - older_original)  # type: ignore[operator]
    return dpm_advance(latents, original, step, previous_original)


# Euler (Karras et al. 2022, algorithm 1 without its second-order part and without churn). It ends at sigma = 0.


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


# Multistep sampling of a latent consistency model (Luo et al. 2023, algorithm 3): jump to ẑ0, add fresh noise, repeat.
#
# Only for networks that were distilled to consistency models: another network's ẑ0 from pure noise is a blurred mean.

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


# Strategic stochastic sampling of Trajectory Consistency Distillation (Zheng et al. 2024, algorithm 4).
#
# Each step follows the trajectory beyond the next timestep t' to s = ⌊(1 − γ) t'⌋ and returns to t' with fresh noise.
# Only for networks that were distilled for it. With γ = 0 it is DDIM on the timesteps of distillation.

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


SOLVERS: dict[str, tuple[Callable[[Schedule, int], list[Step]], Advance]] = {
    "ddim": (ddim_steps, ddim_advance),
    "dpm++2m": (dpm_steps, dpm_advance),
    "unipc": (unipc_steps, unipc_advance),
    "euler": (euler_steps, euler_advance),
    "lcm": (lcm_steps, lcm_advance),
    "tcd": (tcd_steps, tcd_advance),
}
