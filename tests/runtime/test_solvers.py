"""Solvers against diffusers, and against the exact answer for Gaussian data, which needs no PyTorch."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from dpd_runtime.schedule import PREDICTION_TYPES, TIMESTEP_SPACINGS, predicted_original, schedule_from_config
from dpd_runtime.solvers import SOLVERS

COSINE: dict[str, Any] = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
CONFIGS: dict[str, dict[str, Any]] = {
    "cosine": COSINE,
    "linear": COSINE | {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": COSINE
    | {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        "set_alpha_to_one": False,
    },
}
ZERO_SNR = CONFIGS["scaled_linear"] | {"rescale_betas_zero_snr": True}
COUNTS = (1, 2, 5, 15, 20, 50)
SHAPE = (2, 3, 4, 4)


def their_scheduler(solver: str, config: dict[str, Any], count: int, *, exact: bool) -> Any:
    """diffusers' scheduler; `exact` gives its float32 coefficients in float64, by its own formulas."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    if solver == "ddim":
        scheduler = diffusers.DDIMScheduler(**config, clip_sample=False)
    else:
        config = {key: value for key, value in config.items() if key != "set_alpha_to_one"}  # DDIM's own
        scheduler = diffusers.DPMSolverMultistepScheduler(
            **config,
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            final_sigmas_type="zero",
        )
    scheduler.set_timesteps(count)
    if exact:
        alphas = torch.tensor(schedule_from_config(config).alphas_cumprod, dtype=torch.float64)
        assert (alphas - scheduler.alphas_cumprod).abs().max() < 1e-6
        scheduler.alphas_cumprod = alphas
        if solver == "ddim":
            scheduler.final_alpha_cumprod = torch.tensor(1.0) if config.get("set_alpha_to_one", True) else alphas[0]
        else:
            sigmas = ((1 - alphas) / alphas)[scheduler.timesteps].sqrt()
            scheduler.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    return scheduler


def largest_difference(solver: str, config: dict[str, Any], count: int, *, exact: bool) -> float:
    """max |ours − theirs| over the whole trajectory on random outputs, relative to the largest latent in it."""
    torch = pytest.importorskip("torch")
    theirs = their_scheduler(solver, config, count, exact=exact)
    schedule = schedule_from_config(config)
    make_steps, advance = SOLVERS[solver]
    steps = make_steps(schedule, count)
    assert [step.timestep for step in steps] == theirs.timesteps.tolist()
    generator = torch.Generator().manual_seed(count)
    ours = reference = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    previous, worst, scale = None, 0.0, 1.0
    for step, timestep in zip(steps, theirs.timesteps, strict=True):
        output = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        original = predicted_original(ours, output, schedule.prediction_type, step.alpha, step.sigma)
        ours, previous = advance(ours, original, step, previous), original
        reference = theirs.step(output, timestep, reference).prev_sample
        scale = max(scale, reference.abs().max().item())
        worst = max(worst, (ours - reference).abs().max().item())
    assert math.isfinite(scale)
    return worst / scale


CASES = [
    pytest.param(solver, CONFIGS[name] | {"prediction_type": prediction_type, "timestep_spacing": spacing})
    for solver, name, prediction_type, spacing in itertools.product(
        SOLVERS, CONFIGS, PREDICTION_TYPES, TIMESTEP_SPACINGS
    )
]
CASES += [
    pytest.param("ddim", ZERO_SNR | {"prediction_type": prediction_type, "timestep_spacing": spacing})
    for prediction_type, spacing in itertools.product(("v_prediction", "sample"), TIMESTEP_SPACINGS)
]


@pytest.mark.parametrize(("solver", "config"), CASES)
def test_equals_diffusers(solver: str, config: dict[str, Any]) -> None:
    """As shipped, 1 − ᾱ of its float32 ᾱ has lost digits near t = 0, which a network that predicts z0 at random shows
    (ε and v are multiplied by that small σ). With ᾱ in float64 only rounding is left: float64 in DDIM; float32 in the
    DPM family, which casts its sample in each step.
    """
    for count in COUNTS:
        shipped = 5e-5 if config["prediction_type"] == "sample" else 1e-5
        assert largest_difference(solver, config, count, exact=False) < shipped
        assert largest_difference(solver, config, count, exact=True) < (1e-10 if solver == "ddim" else 1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("name", CONFIGS)
def test_timesteps_equal_diffusers(solver: str, spacing: str, name: str) -> None:
    config = CONFIGS[name] | {"timestep_spacing": spacing}
    schedule = schedule_from_config(config)
    compared = 0
    for count in range(1, 121):
        theirs = their_scheduler(solver, config, count, exact=False).timesteps.tolist()
        if len(theirs) == count + 1 and theirs[-1] == -1:
            continue  # np.arange overshoots for a few counts of DDIM's trailing spacing: a step at timestep −1
        assert [step.timestep for step in SOLVERS[solver][0](schedule, count)] == theirs, count
        compared += 1
    assert compared >= 117


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_numpy_and_torch_agree(solver: str, prediction_type: Any) -> None:
    torch = pytest.importorskip("torch")
    schedule = schedule_from_config(CONFIGS["linear"] | {"prediction_type": prediction_type})
    make_steps, advance = SOLVERS[solver]
    generator = np.random.default_rng(0)
    array = generator.standard_normal(SHAPE).astype(np.float32)
    tensor = torch.from_numpy(array.copy())
    before_array, before_tensor = None, None
    for step in make_steps(schedule, 10):
        output = generator.standard_normal(SHAPE).astype(np.float32)
        clean_array = predicted_original(array, output, prediction_type, step.alpha, step.sigma)
        clean_tensor = predicted_original(tensor, torch.from_numpy(output), prediction_type, step.alpha, step.sigma)
        array, before_array = advance(array, clean_array, step, before_array), clean_array
        tensor, before_tensor = advance(tensor, clean_tensor, step, before_tensor), clean_tensor
        assert array.dtype == np.float32
        assert tensor.dtype == torch.float32
        scale = max(1.0, np.abs(array).max())
        assert np.abs(array - tensor.numpy()).max() < 1e-5 * scale  # a few float32 roundings; fma may differ


def gaussian_error(solver: str, count: int, spread: float, mean: float) -> float:
    """For z0 ~ N(m, s²), E[z0 | z_t] is linear and the ODE maps (z_T − α_T m) / √(α_T² s² + σ_T²) to itself."""
    schedule = schedule_from_config(CONFIGS["linear"] | {"timestep_spacing": "trailing", "prediction_type": "sample"})
    make_steps, advance = SOLVERS[solver]
    latents, previous = np.linspace(-3, 3, 13), None
    alpha, sigma = schedule.alpha_sigma(999)
    expected = mean + spread * (latents - alpha * mean) / math.hypot(alpha * spread, sigma)
    for step in make_steps(schedule, count):
        gain = step.alpha * spread**2 / (step.alpha**2 * spread**2 + step.sigma**2)
        original = mean + gain * (latents - step.alpha * mean)
        latents, previous = advance(latents, original, step, previous), original
    return float(np.abs(latents - expected).max()) / spread


@pytest.mark.parametrize(("solver", "order", "limit"), [("ddim", 1, 0.1), ("dpm++2m", 2, 0.003)])
@pytest.mark.parametrize("spread", [0.25, 1.0, 2.0])
def test_gaussian_data_keep_their_mean_and_spread(solver: str, order: int, limit: float, spread: float) -> None:
    """The error, in standard deviations of the data, falls as steps ** -order."""
    half, full = gaussian_error(solver, 100, spread, 0.5), gaussian_error(solver, 200, spread, 0.5)
    assert full < limit
    assert math.log2(half / full) == pytest.approx(order, rel=0.2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_lands_on_the_prediction(solver: str) -> None:
    schedule = schedule_from_config(CONFIGS["linear"] | {"timestep_spacing": "trailing"})
    make_steps, advance = SOLVERS[solver]
    (step,) = make_steps(schedule, 1)
    assert step.timestep == 999
    original = np.array([0.25, -4.0])
    assert np.array_equal(advance(np.array([3.0, 1.0]), original, step, None), original)


def test_second_order_weights_by_hand() -> None:
    """correction = h / (2 h_previous) inside, none in the first and the last step (lower_order_final)."""
    schedule = schedule_from_config(CONFIGS["linear"] | {"timestep_spacing": "trailing"})
    steps = SOLVERS["dpm++2m"][0](schedule, 5)
    log_snr = [0.5 * math.log(a / (1 - a)) for a in (schedule.alphas_cumprod[t] for t in (999, 799, 599, 399, 199))]
    assert [step.timestep for step in steps] == [999, 799, 599, 399, 199]
    for i in (1, 2, 3):
        expected = (log_snr[i + 1] - log_snr[i]) / (2 * (log_snr[i] - log_snr[i - 1]))
        assert steps[i].correction == pytest.approx(expected, rel=1e-12)
    assert (steps[0].correction, steps[4].correction, steps[4].sigma_next) == (0, 0, 0)


def test_dpm_starts_at_zero_terminal_snr() -> None:
    """λ = −∞ there: its step, and the one that would look back over it, are first order, and all stays finite."""
    config = ZERO_SNR | {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    make_steps, advance = SOLVERS["dpm++2m"]
    steps = make_steps(schedule_from_config(config), 6)
    assert (steps[0].alpha, steps[0].sigma) == (0.0, 1.0)
    assert [step.correction == 0 for step in steps] == [True, True, False, False, False, True]
    first = advance(np.array([2.0]), np.array([0.5]), steps[0], None)
    assert first == pytest.approx(steps[0].sigma_next * 2.0 + steps[0].alpha_next * 0.5, rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("count", "spacing"), [(0, "trailing"), (1001, "linspace"), (1000, "leading")])
def test_impossible_counts_are_refused(solver: str, count: int, spacing: str) -> None:
    schedule = schedule_from_config(CONFIGS["scaled_linear"] | {"timestep_spacing": spacing})
    with pytest.raises(ValueError, match=f"steps is {count}"):
        SOLVERS[solver][0](schedule, count)
