"""Solvers against exact solutions and values by hand. `test_solvers_diffusers.py` compares them with diffusers."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from dpd_runtime.sampler import BlockGuidance
from dpd_runtime.sampling import noise_draws, sample
from dpd_runtime.solvers import (
    PREDICTION_TYPES,
    SOLVERS,
    Schedule,
    Step,
    lcm_advance,
    lcm_steps,
    predicted_original,
    schedule_from_config,
    tcd_steps,
)

LINEAR: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "timestep_spacing": "trailing",
}
COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
SCALED_LINEAR = LINEAR | {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
ZERO_SNR = SCALED_LINEAR | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
OF_DISTILLED = ("lcm", "tcd")
ORDERS = {"ddim": 1, "euler": 1, "dpm++2m": 2, "unipc": 3}
SHAPE = (2, 3, 4, 4)


def follow(solver: str, steps: list[Step], latents: Any, predict: Any, draw: Any = None) -> Any:
    """The loop of `sample`, for arrays or tensors, with ẑ0 = predict(latents, step) and noise from `draw`."""
    previous, older = None, None
    for step in steps:
        original = predict(latents, step)
        memory = (previous, older) if step.corrector_older else (previous,)
        latents = SOLVERS[solver][1](latents, original, step, *memory)
        if step.noise:
            latents = latents + step.noise * draw()
        previous, older = original, previous
    return latents


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_numpy_and_torch_agree(solver: str, prediction_type: Any) -> None:
    torch = pytest.importorskip("torch")
    schedule = schedule_from_config(LINEAR | {"prediction_type": prediction_type})
    steps = SOLVERS[solver][0](schedule, 10)

    def run(convert: Any) -> Any:
        generator = np.random.default_rng(0)

        def draw() -> Any:
            return convert(generator.standard_normal(SHAPE).astype(np.float32))

        def predict(latents: Any, step: Step) -> Any:
            return predicted_original(latents, draw(), prediction_type, step.alpha, step.sigma)

        return follow(solver, steps, draw(), predict, draw)

    array, tensor = run(lambda array: array), run(torch.from_numpy)
    assert array.dtype == np.float32
    assert tensor.dtype == torch.float32
    assert np.abs(array - tensor.numpy()).max() < 1e-5 * max(1.0, np.abs(array).max())  # float32 roundings; fma differs


def gaussian_error(
    solver: str,
    count: int,
    spread: float,
    mean: float,
    part: float,
    timestep_power: float = 1.0,
    config: dict[str, Any] = LINEAR,
) -> float:
    """For z0 ~ N(m, s²), E[z0 | z_t] is linear and (z_t − α_t m) / √(α_t² s² + σ_t²) stays what it is along the ODE.

    Args:
        part: share of the steps after which the latents are compared, in standard deviations of the data.
    """
    schedule = schedule_from_config(config | {"prediction_type": "sample"})
    schedule = dataclasses.replace(schedule, timestep_power=timestep_power)
    steps = SOLVERS[solver][0](schedule, count)[: round(part * count)]
    start = np.linspace(-3, 3, 13)

    def standard(latents: Any, alpha: float, sigma: float) -> Any:
        return (latents - alpha * mean) / math.hypot(alpha * spread, sigma)

    def predict(latents: Any, step: Step) -> Any:
        gain = step.alpha * spread**2 / (step.alpha**2 * spread**2 + step.sigma**2)
        return mean + gain * (latents - step.alpha * mean)

    last = steps[-1]
    expected = standard(start, steps[0].alpha, steps[0].sigma)
    found = standard(follow(solver, steps, start, predict), last.alpha_next, last.sigma_next)
    return float(np.abs(found - expected).max()) * math.hypot(last.alpha_next * spread, last.sigma_next) / spread


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("spread", [0.25, 1.0, 2.0])
def test_the_error_falls_as_the_order_says(solver: str, spread: float) -> None:
    """Half way, at t = 499: the last step, to σ = 0, is of first order in each of them. UniC-2 makes UniPC's 3."""
    half, full = gaussian_error(solver, 100, spread, 0.5, 0.5), gaussian_error(solver, 200, spread, 0.5, 0.5)
    assert full < 10.0 ** -(ORDERS[solver] + 1)
    assert math.log2(half / full) == pytest.approx(ORDERS[solver], rel=0.05)


@pytest.mark.parametrize(("solver", "limit"), [("ddim", 0.1), ("euler", 0.1), ("dpm++2m", 0.003), ("unipc", 0.01)])
@pytest.mark.parametrize("spread", [0.25, 1.0, 2.0])
def test_gaussian_data_keep_their_mean_and_spread(solver: str, limit: float, spread: float) -> None:
    assert gaussian_error(solver, 200, spread, 0.5, 1.0) < limit


@pytest.mark.parametrize("spread", [0.1, 13.0])
def test_crowded_timesteps_keep_the_spread_of_means_and_of_details(spread: float) -> None:
    """The mean of a channel of latents has some 13 times the standard deviation of the noise's mean, the finest details
    a tenth. On the cosine schedule 15 even steps keep 58 to 72 % of it, though the network is exact.
    """

    def kept(solver: str, power: float) -> float:
        return 1 - gaussian_error(solver, 15, spread, 0.0, 1.0, power, COSINE) / 3  # the largest error is at 3 σ

    for solver in ("dpm++2m", "unipc"):
        assert kept(solver, 1.0) < 0.73
        assert kept(solver, 2.0) > 0.88
    assert kept("unipc", 2.0) > 0.93


def test_crowded_timesteps_of_the_cosine_schedule() -> None:
    """There the angle grows with t, so that the timesteps are T (1 − (i / N)²)²."""
    schedule = dataclasses.replace(schedule_from_config(COSINE), timestep_power=2.0)
    found = [step.timestep for step in SOLVERS["unipc"][0](schedule, 15)]
    expected = [1000 * (1 - (i / 15) ** 2) ** 2 for i in range(15)]
    assert np.abs(np.array(found) - expected).max() < 8.1  # Nichol's offset of 0.008, and rounding
    assert abs(expected[7] - 1000 * (1 - 7 / 15)) > 70  # the control: even ones


@pytest.mark.parametrize("config", [COSINE, LINEAR, SCALED_LINEAR | {"timestep_spacing": "leading"}])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "unipc", "euler"])
@pytest.mark.parametrize("count", [1, 2, 15, 100, 1000])
def test_crowded_timesteps_descend_to_the_data(config: dict[str, Any], solver: str, count: int) -> None:
    schedule = dataclasses.replace(schedule_from_config(config), timestep_power=2.0)
    steps = SOLVERS[solver][0](schedule, count)
    assert all(a.timestep > b.timestep for a, b in itertools.pairwise(steps))
    assert all((a.alpha_next, a.sigma_next) == (b.alpha, b.sigma) for a, b in itertools.pairwise(steps))
    end = schedule.alpha_sigma(-1)[1] if solver == "ddim" else 0  # as in diffusers, whatever the timesteps
    assert (steps[0].timestep, steps[-1].sigma_next) == (999, end)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_lands_on_the_prediction(solver: str) -> None:
    """TCD ends at timestep 0 instead, and LCM keeps 2.5e-9 of the latents, as in diffusers."""
    schedule = schedule_from_config(LINEAR)
    make_steps, advance = SOLVERS[solver]
    (step,) = make_steps(schedule, 1)
    assert (step.timestep, step.noise) == (999, 0)
    latents, original = np.array([3.0, 1.0]), np.array([0.25, -4.0])
    found = advance(latents, original, step, None)
    if solver == "tcd":
        (alpha, sigma), (first_alpha, first_sigma) = schedule.alpha_sigma(999), schedule.alpha_sigma(0)
        assert found == pytest.approx(first_alpha * original + first_sigma * (latents - alpha * original) / sigma)
    elif solver == "lcm":
        assert found == pytest.approx(original, rel=1e-7)
    else:
        assert np.array_equal(found, original)


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_step_ends_where_the_next_begins(solver: str) -> None:
    """alpha and, with the noise that is added, sigma. DDIM goes back by T // count instead, which is the same here."""
    steps = SOLVERS[solver][0](schedule_from_config(LINEAR), 10)
    for step, following in itertools.pairwise(steps):
        assert step.alpha_next == pytest.approx(following.alpha, rel=1e-12)
        assert math.hypot(step.sigma_next, step.noise) == pytest.approx(following.sigma, rel=1e-12)
    assert noise_draws(steps) == (9 if solver in OF_DISTILLED else 0)


def test_second_order_weights_by_hand() -> None:
    """correction = h / (2 h_previous) inside, none in the first and the last step (lower_order_final)."""
    schedule = schedule_from_config(LINEAR)
    steps = SOLVERS["dpm++2m"][0](schedule, 5)
    log_snr = [0.5 * math.log(a / (1 - a)) for a in (schedule.alphas_cumprod[t] for t in (999, 799, 599, 399, 199))]
    assert [step.timestep for step in steps] == [999, 799, 599, 399, 199]
    for i in (1, 2, 3):
        expected = (log_snr[i + 1] - log_snr[i]) / (2 * (log_snr[i] - log_snr[i - 1]))
        assert steps[i].correction == pytest.approx(expected, rel=1e-12)
    assert (steps[0].correction, steps[4].correction, steps[4].sigma_next) == (0, 0, 0)


def test_dpm_starts_at_zero_terminal_snr() -> None:
    """λ = −∞ there: its step, and the one that would look back over it, are first order, and all stays finite."""
    make_steps, advance = SOLVERS["dpm++2m"]
    steps = make_steps(schedule_from_config(ZERO_SNR), 6)
    assert (steps[0].alpha, steps[0].sigma) == (0.0, 1.0)
    assert [step.correction == 0 for step in steps] == [True, True, False, False, False, True]
    first = advance(np.array([2.0]), np.array([0.5]), steps[0], None)
    assert first == pytest.approx(steps[0].sigma_next * 2.0 + steps[0].alpha_next * 0.5, rel=1e-12)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_zero_terminal_snr_begins_just_below_pure_noise(solver: str) -> None:
    steps = SOLVERS[solver][0](schedule_from_config(ZERO_SNR), 6)
    assert steps[0].alpha == 2.0**-12
    assert all(math.isfinite(value) for step in steps for value in dataclasses.astuple(step))


def test_the_corrector_makes_up_for_the_first_order_step_by_hand() -> None:
    """UniC-1 averages both ends of a step: it does to the first step, once ẑ0 at its end is known, what the
    trapezoidal rule does, z' = (σ'/σ) z + α' (1 − e^{−h}) (ẑ0 + ẑ0') / 2.
    """
    schedule = schedule_from_config(LINEAR)
    first, second, third = SOLVERS["unipc"][0](schedule, 3)
    advance = SOLVERS["unipc"][1]
    start, clean, after = np.array([1.5]), np.array([0.3]), np.array([-0.8])
    reached = advance(start, clean, first, None)
    ratio = second.sigma / first.sigma
    gain = second.alpha - ratio * first.alpha
    assert reached == pytest.approx(ratio * start + gain * clean)
    corrected = ratio * start + gain * (clean + after) / 2
    expected = SOLVERS["dpm++2m"][1](corrected, after, second, clean)
    assert advance(reached, after, second, clean) == pytest.approx(expected, rel=1e-12)
    assert (first.corrector, first.corrector_older, second.corrector_older) == (0, 0, 0)
    assert third.corrector_older != 0


def test_unipc_costs_and_visits_what_dpm_does() -> None:
    schedule = schedule_from_config(LINEAR)
    for ours, theirs in zip(SOLVERS["unipc"][0](schedule, 7), SOLVERS["dpm++2m"][0](schedule, 7), strict=True):
        assert dataclasses.replace(ours, corrector=0.0, corrector_older=0.0) == theirs


def test_lcm_keeps_the_distribution_of_a_consistent_network() -> None:
    """Shown z_t, it answers with the end of the ODE for N(0.5, 0.25²): then so is each ẑ0, whatever noise follows."""
    schedule, mean, spread = schedule_from_config(LINEAR), 0.5, 0.25
    rng = np.random.default_rng(0)

    def consistent(latents: Any, step: Step) -> Any:
        return mean + spread * (latents - step.alpha * mean) / math.hypot(step.alpha * spread, step.sigma)

    result = follow("lcm", lcm_steps(schedule, 4), rng.normal(size=40_000), consistent, lambda: rng.normal(size=40_000))
    assert result.mean() == pytest.approx(mean, abs=0.01)
    assert result.std() == pytest.approx(spread, rel=0.02)


def test_lcm_by_hand() -> None:
    schedule = schedule_from_config(LINEAR)
    first, second = lcm_steps(schedule, 2)
    alpha, sigma = schedule.alpha_sigma(499)
    assert (first.timestep, second.timestep) == (999, 499)
    assert (first.alpha_next, first.sigma_next, first.noise, second.noise) == (alpha, 0, sigma, 0)
    early = dataclasses.replace(first, timestep=0)  # c_skip = 1, c_out = 0: z itself
    assert lcm_advance(np.array([2.0]), np.array([9.0]), early, None) == pytest.approx(2.0 * alpha)
    middle = dataclasses.replace(second, timestep=1)
    assert lcm_advance(np.array([2.0]), np.array([9.0]), middle, None) == pytest.approx(
        9.0 * 10 / math.sqrt(100.25) + 2.0 * 0.25 / 100.25
    )


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7, 1.0])
def test_tcd_goes_beyond_and_comes_back(gamma: float) -> None:
    """γ = 0 is DDIM on its timesteps; γ = 1 keeps nothing of the trajectory but what timestep 0 has."""
    schedule = schedule_from_config(LINEAR)
    steps = tcd_steps(schedule, 5, gamma)
    assert [step.timestep for step in steps] == [999, 799, 599, 399, 199]
    for step, following in zip(steps, [799, 599, 399, 199, 0], strict=True):
        alpha, sigma = schedule.alpha_sigma(following)
        assert step.alpha_next == alpha
        assert math.hypot(step.sigma_next, step.noise) == pytest.approx(sigma, rel=1e-12)
        if gamma == 0:
            assert (step.noise, step.sigma_next) == (0, sigma)
    if gamma == 1:
        first_alpha, first_sigma = schedule.alpha_sigma(0)
        assert steps[0].sigma_next == pytest.approx(schedule.alpha_sigma(799)[0] * first_sigma / first_alpha)
    assert noise_draws(steps) == (0 if gamma == 0 else 4)


def test_a_decimal_gamma_reaches_the_timestep_it_says() -> None:
    """⌊0.7 · 90⌋ is 63, though 0.7 * 90 is 62.99999999999999."""
    schedule = schedule_from_config(LINEAR | {"num_train_timesteps": 91 * 50})
    steps = tcd_steps(schedule, 50)
    assert steps[48].timestep == 2 * 91 - 1
    alpha, sigma = schedule.alpha_sigma(63)
    assert steps[48].sigma_next == pytest.approx(schedule.alpha_sigma(90)[0] * sigma / alpha, rel=1e-12)


@pytest.mark.parametrize("draws", [None, 0, 2, 4])
def test_noise_of_another_number_of_draws_is_refused(draws: int | None) -> None:
    schedule = schedule_from_config(LINEAR)
    start = np.zeros(SHAPE, np.float32)
    noise = None if draws is None else np.zeros((draws, *SHAPE), np.float32)
    prompts = np.zeros((SHAPE[0], 1, 1), np.float32)
    with pytest.raises(ValueError, match=f"holds {draws or 0} draws: these steps need 3"):
        sample(
            lambda latents, timestep, context: latents,
            start,
            prompts,
            prompts[0],
            None,
            lcm_steps(schedule, 4),
            lcm_advance,
            "sample",
            BlockGuidance(),
            noise,
        )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("count", "spacing"), [(0, "trailing"), (1001, "linspace"), (1000, "leading")])
def test_impossible_counts_are_refused(solver: str, count: int, spacing: str) -> None:
    schedule = schedule_from_config(SCALED_LINEAR | {"timestep_spacing": spacing})
    with pytest.raises(ValueError, match=f"steps is {count}"):
        SOLVERS[solver][0](schedule, count)


@pytest.mark.parametrize(
    ("solver", "count", "total"),
    [("dpm++2m", 1000, 1000), ("unipc", 1000, 1000), ("lcm", 51, 1000), ("tcd", 51, 1000), ("lcm", 4, 49)],
)
def test_counts_that_one_solver_cannot_have_are_refused(solver: str, count: int, total: int) -> None:
    """T + 1 points of linspace would visit a timestep twice; models are distilled on 50 timesteps."""
    schedule = Schedule(tuple(np.linspace(0.99, 0.01, total).tolist()), "epsilon", "linspace")
    with pytest.raises(ValueError, match=f"steps is {count}"):
        SOLVERS[solver][0](schedule, count)
