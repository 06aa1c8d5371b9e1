import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.solvers import PREDICTION_TYPES, Schedule, add_noise, predicted_original, schedule_from_config

CONFIGS: dict[str, dict[str, Any]] = {
    "cosine": {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"},
    "linear": {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
}
ZERO_SNR = CONFIGS["scaled_linear"] | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


@pytest.mark.parametrize("config", [*CONFIGS.values(), ZERO_SNR], ids=[*CONFIGS, "zero_snr"])
@pytest.mark.parametrize("count", [1000, 200])
def test_alphas_cumprod_equal_diffusers(config: dict[str, Any], count: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    config = config | {"num_train_timesteps": count}
    theirs = diffusers.DDIMScheduler(**config, clip_sample=False).alphas_cumprod.double().numpy()
    ours = np.array(schedule_from_config(config).alphas_cumprod)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-6  # theirs is a float32 product of up to 1000 factors
    assert (np.diff(ours) < 0).all()


def test_cosine_equals_its_closed_form_before_the_cap() -> None:
    """ᾱ_t = f(t + 1) / f(0): the product of Nichol & Dhariwal's betas telescopes."""

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    schedule = schedule_from_config(CONFIGS["cosine"])
    for t in (0, 1, 250, 500, 900):
        assert math.isclose(schedule.alphas_cumprod[t], f((t + 1) / 1000) / f(0), rel_tol=1e-9)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_beginning() -> None:
    plain, shifted = schedule_from_config(CONFIGS["scaled_linear"]), schedule_from_config(ZERO_SNR)
    assert plain.alphas_cumprod[-1] > 1e-3
    assert shifted.alpha_sigma(999) == (0.0, 1.0)
    assert math.isclose(shifted.alphas_cumprod[0], plain.alphas_cumprod[0], rel_tol=1e-12)


@pytest.mark.parametrize(("to_one", "expected"), [(True, 1.0), (False, 1 - 0.00085)])
def test_level_before_the_first_timestep(to_one: bool, expected: float) -> None:
    schedule = schedule_from_config(CONFIGS["scaled_linear"] | {"set_alpha_to_one": to_one})
    alpha, sigma = schedule.alpha_sigma(-20)
    assert math.isclose(alpha**2, expected, rel_tol=1e-12)
    assert math.isclose(alpha**2 + sigma**2, 1.0, rel_tol=1e-12)


@given(
    clean=st.floats(-10, 10),
    noise=st.floats(-10, 10),
    angle=st.floats(0.01, math.pi / 2 - 0.01),  # alpha = 0 has no epsilon form
    prediction_type=st.sampled_from(PREDICTION_TYPES),
)
def test_predicted_original_inverts_add_noise(clean: float, noise: float, angle: float, prediction_type: Any) -> None:
    alpha, sigma = math.cos(angle), math.sin(angle)
    noisy = add_noise(np.array([clean]), np.array([noise]), alpha, sigma)
    assert math.isclose(noisy[0], math.cos(angle) * clean + math.sin(angle) * noise, abs_tol=1e-12)
    outputs = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "sample": clean}
    found = predicted_original(noisy, np.array([outputs[prediction_type]]), prediction_type, alpha, sigma)
    assert found[0] == pytest.approx(clean, abs=1e-10)  # float64 divided by alpha ≥ 0.01


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_float32_stays_float32(prediction_type: Any) -> None:
    alpha, sigma = schedule_from_config(CONFIGS["cosine"]).alpha_sigma(500)
    assert type(alpha) is float
    assert type(sigma) is float
    clean, noise = np.ones((2, 3), np.float32), np.full((2, 3), 0.5, np.float32)
    noisy = add_noise(clean, noise, alpha, sigma)
    assert noisy.dtype == np.float32
    assert predicted_original(noisy, noise, prediction_type, alpha, sigma).dtype == np.float32


def test_defaults_are_those_of_diffusers() -> None:
    schedule = schedule_from_config(CONFIGS["linear"])
    assert isinstance(schedule, Schedule)
    assert (schedule.prediction_type, schedule.timestep_spacing) == ("epsilon", "leading")
    assert (schedule.steps_offset, schedule.final_alpha_cumprod, schedule.num_train_timesteps) == (0, 1.0, 1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "sigmoid.*squaredcos_cap_v2"),
        ({"prediction_type": "flow"}, "flow.*epsilon"),
        ({"timestep_spacing": "karras"}, "karras.*trailing"),
        ({"clip_sample": True}, "clip_sample.*false"),
        ({"thresholding": True}, "thresholding.*false"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"num_train_timesteps": 1}, "num_train_timesteps.*2 …"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps.*2 …"),
        ({"beta_end": 1.5}, "between 0 and 1"),
        ({"beta_start": -0.1}, "between 0 and 1"),
        ({"beta_start": math.nan}, "between 0 and 1"),
        ({"rescale_betas_zero_snr": True}, "epsilon"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_options_that_would_change_the_result_are_refused(change: dict[str, Any], message: str) -> None:
    schedule_from_config(CONFIGS["linear"])
    with pytest.raises(ValueError, match=message):
        schedule_from_config(CONFIGS["linear"] | change)
