"""The noise schedule in plain arithmetic, for numpy arrays and torch tensors.

Coefficients are Python floats: a numpy float64 scalar would turn a float32 array into float64.
Notation: alpha = √ᾱ_t, sigma = √(1 − ᾱ_t), z_t = alpha · ẑ0 + sigma · ε, v = alpha · ε − sigma · ẑ0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

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

    alphas_cumprod: tuple[float, ...]
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
