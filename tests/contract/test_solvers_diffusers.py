"""Complete trajectories of `sample` and of diffusers' schedulers, with equal outputs, guidance and noise."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dpd_runtime.sampler import BlockGuidance
from dpd_runtime.sampling import noise_draws, sample
from dpd_runtime.solvers import (
    GAMMA,
    PREDICTION_TYPES,
    SOLVERS,
    TIMESTEP_SPACINGS,
    Schedule,
    schedule_from_config,
    tcd_steps,
)

diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")

Float64 = npt.NDArray[np.float64]
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
OF_DISTILLED = ("lcm", "tcd")
FINAL_ALPHA = ("ddim", *OF_DISTILLED)
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpm++2m": (
        "DPMSolverMultistepScheduler",
        {
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "final_sigmas_type": "zero",
        },
    ),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2", "final_sigmas_type": "zero"}),
    "euler": ("EulerDiscreteScheduler", {"final_sigmas_type": "zero"}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
    "tcd": ("TCDScheduler", {}),
}
COUNTS = (1, 2, 5, 20, 50)
SHAPE = (2, 3, 4, 4)


def their_scheduler(solver: str, config: dict[str, Any], count: int, exact: Schedule | None = None) -> Any:
    """diffusers' scheduler; with `exact` its float32 table gives way to that one in float64, by its own formulas."""
    name, options = THEIRS[solver]
    if solver not in FINAL_ALPHA:
        config = {key: value for key, value in config.items() if key != "set_alpha_to_one"}
    scheduler = getattr(diffusers, name)(**config, **options)
    if solver == "euler" and config["timestep_spacing"] == "linspace":  # rounded: ours has no fractions of a timestep
        spaced = np.linspace(0, config["num_train_timesteps"] - 1, count).round()[::-1]
        scheduler.set_timesteps(timesteps=spaced.astype(int).tolist())
    else:
        scheduler.set_timesteps(count)
    if exact is not None:
        alphas = torch.tensor(exact.alphas_cumprod, dtype=torch.float64)
        if solver in ("euler", "unipc") and alphas[-1] == 0:
            alphas[-1] = 2**-24
        assert (alphas - scheduler.alphas_cumprod).abs().max() < 1e-4
        scheduler.alphas_cumprod = alphas
        if solver in FINAL_ALPHA:
            scheduler.final_alpha_cumprod = torch.tensor(exact.final_alpha_cumprod, dtype=torch.float64)
        else:
            sigmas = ((1 - alphas) / alphas)[scheduler.timesteps.long()].sqrt()
            scheduler.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    return scheduler


@dataclass
class Trajectory:
    """What the network says in each step, whatever it is shown.

    Args:
        outputs: [steps, 2, *SHAPE], for the prompt and the empty one.
        seed: of the noise of stochastic solvers.
    """

    start: Float64
    outputs: Float64
    guidance_scale: float
    seed: int

    def ours(self, schedule: Schedule, solver: str, steps: list[Any]) -> list[Float64]:
        """What the network is shown in each step, and the result."""
        seen: list[Float64] = []

        def denoise(latents: Any, timestep: int, context: Any) -> Any:
            said = self.outputs[len(seen)]
            seen.append(latents[: SHAPE[0]])
            return said.reshape(-1, *SHAPE[1:]) if len(latents) == 2 * SHAPE[0] else said[0]

        generator = torch.Generator().manual_seed(self.seed)
        draws = noise_draws(steps)
        noise = torch.stack([self._draw(generator) for _ in range(draws)]).numpy() if draws else None
        prompts: Any = np.zeros((SHAPE[0], 1, 1))
        guidance = BlockGuidance(guidance_scale=self.guidance_scale)
        start: Any = self.start
        kind, advance = schedule.prediction_type, SOLVERS[solver][1]
        final: Any = sample(denoise, start, prompts, prompts[0], None, steps, advance, kind, guidance, noise)
        return [*seen, final]

    def theirs(self, scheduler: Any, solver: str, gamma: float) -> list[Float64]:
        """The same from diffusers. Its Euler holds latents / alpha; its LCM and TCD draw noise from the generator."""
        generator = torch.Generator().manual_seed(self.seed)
        options: dict[str, Any] = {"generator": generator} if solver in OF_DISTILLED else {}
        if solver == "tcd":
            options["eta"] = gamma
        latents = torch.from_numpy(self.start)
        if solver == "euler":
            latents = latents * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
        seen = []
        for timestep, said in zip(scheduler.timesteps, torch.from_numpy(self.outputs), strict=True):
            seen.append(scheduler.scale_model_input(latents, timestep).numpy())
            output = said[1] + self.guidance_scale * (said[0] - said[1]) if self.guidance_scale > 1 else said[0]
            latents = scheduler.step(output, timestep, latents, **options).prev_sample
        return [*seen, latents.numpy()]

    @staticmethod
    def _draw(generator: Any) -> Any:
        return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def largest_difference(
    solver: str, schedule: Schedule, scheduler: Any, count: int, *, guidance_scale: float = 1.0, gamma: float = GAMMA
) -> float:
    """max |ours − theirs| over the trajectory, relative to the largest latent in it."""
    steps = tcd_steps(schedule, count, gamma) if solver == "tcd" else SOLVERS[solver][0](schedule, count)
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()
    rng = np.random.default_rng(count)
    trajectory = Trajectory(rng.normal(size=SHAPE), rng.normal(size=(count, 2, *SHAPE)), guidance_scale, count)
    ours, theirs = trajectory.ours(schedule, solver, steps), trajectory.theirs(scheduler, solver, gamma)
    assert len(ours) == len(theirs) == count + 1
    scale = max(1.0, *(np.abs(latents).max() for latents in theirs))
    assert math.isfinite(scale)
    return float(max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) / scale)


def spacings(solver: str) -> tuple[str, ...]:
    return ("trailing",) if solver in OF_DISTILLED else TIMESTEP_SPACINGS  # those two have their own timesteps


CASES = [
    pytest.param(solver, CONFIGS[name] | {"prediction_type": prediction_type, "timestep_spacing": spacing})
    for solver, name, prediction_type in itertools.product(SOLVERS, CONFIGS, PREDICTION_TYPES)
    for spacing in spacings(solver)
]
CASES += [
    pytest.param(solver, ZERO_SNR | {"prediction_type": prediction_type, "timestep_spacing": spacing})
    for solver, prediction_type in itertools.product(SOLVERS, ("v_prediction", "sample"))
    for spacing in spacings(solver)
    if solver != "dpm++2m"  # ours starts at pure noise itself, theirs just below it
]


@pytest.mark.parametrize(("solver", "config"), CASES)
def test_equals_diffusers(solver: str, config: dict[str, Any]) -> None:
    """As shipped, 1 − ᾱ of its float32 ᾱ has lost digits near t = 0, which a network that predicts z0 at random shows
    (ε and v are multiplied by that small σ). Its Euler takes differences of σ / α in float32, with up to 20 000 in the
    cosine table and 4096 at zero terminal SNR: good to 1e-3 there. With ᾱ in float64 only rounding is left: float32
    where it casts its sample (DPM, Euler) or its coefficients (LCM), float64 in the others.
    """
    schedule = schedule_from_config(config)
    shipped = 5e-5 if config["prediction_type"] == "sample" else 1e-5
    if solver == "euler" and schedule.alphas_cumprod[-1] < 1e-7:
        shipped = 1e-3
    exact = 1e-6 if solver in ("dpm++2m", "euler", "lcm") else 1e-10
    for count in COUNTS:
        theirs = their_scheduler(solver, config, count)
        assert largest_difference(solver, schedule, theirs, count) < shipped
        theirs = their_scheduler(solver, config, count, schedule)
        assert largest_difference(solver, schedule, theirs, count, guidance_scale=3.0) < exact


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_step_towards_the_prototype_is_that_of_the_dpd_paper(prediction_type: str) -> None:
    """Its loop, with diffusers' DDIM: z_t += s √(1 − ᾱ_t) (p − ẑ0) / ‖p − ẑ0‖ over the first 80 % of the steps, then
    the scheduler's step from there (arXiv 2601.15829)."""
    count, strength, config = 10, 1.5, CONFIGS["cosine"] | {"prediction_type": prediction_type}
    schedule = schedule_from_config(config)
    scheduler = their_scheduler("ddim", config | {"timestep_spacing": "leading"}, count, schedule)
    rng = np.random.default_rng(0)
    start, prototypes, outputs = (rng.normal(size=shape) for shape in (SHAPE, SHAPE, (count, *SHAPE)))
    latents = torch.from_numpy(start)
    for number, timestep in enumerate(scheduler.timesteps):
        said = torch.from_numpy(outputs[number])
        if number < 0.8 * count:
            apart = torch.from_numpy(prototypes) - scheduler.step(said, timestep, latents).pred_original_sample
            noise = (1 - scheduler.alphas_cumprod[timestep]).sqrt()
            latents = latents + strength * noise * apart / apart.flatten(1).norm(dim=1)[:, None, None, None]
        latents = scheduler.step(said, timestep, latents).prev_sample

    seen = iter(outputs)
    steps, advance = SOLVERS["ddim"][0](schedule, count), SOLVERS["ddim"][1]
    guidance = BlockGuidance(prototype_step=strength, prototype_until=0.8)
    prompts: Any = np.zeros((SHAPE[0], 1, 1))
    arrays: Any = start, prototypes
    kind = schedule.prediction_type
    found = sample(lambda *_: next(seen), arrays[0], prompts, prompts[0], arrays[1], steps, advance, kind, guidance)
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()
    np.testing.assert_allclose(found, latents.numpy(), rtol=1e-9, atol=1e-9)


@st.composite
def betas(draw: st.DrawFn) -> list[float]:
    """A table of its own: any length, reach and bend, and no smoothness."""
    total = draw(st.sampled_from([50, 64, 177, 400]))
    low = 10 ** draw(st.floats(-4.5, -2.5))
    high = low * 10 ** draw(st.floats(0.0, 2.0))
    bend, rough = draw(st.floats(0.3, 3.0)), draw(st.floats(0.0, 0.5))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    smooth = low + (high - low) * np.linspace(0, 1, total) ** bend
    found: list[float] = (smooth * np.exp(rough * rng.normal(size=total))).clip(1e-6, 0.5).tolist()
    return found


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    table=betas(),
    kind=st.sampled_from(PREDICTION_TYPES),
    spacing=st.sampled_from(TIMESTEP_SPACINGS),
    offset=st.integers(0, 2),
    to_one=st.booleans(),
    count=st.integers(1, 24),
    guidance_scale=st.sampled_from([1.0, 1.5, 7.5]),
    tenths=st.integers(0, 10),
)
def test_equals_diffusers_on_any_table(
    solver: str,
    table: list[float],
    kind: Any,
    spacing: Any,
    offset: int,
    to_one: bool,
    count: int,
    guidance_scale: float,
    tenths: int,
) -> None:
    alphas = np.cumprod(1.0 - np.array(table)).tolist()
    schedule = Schedule(tuple(alphas), kind, spacing, offset, 1.0 if to_one else alphas[0])
    config = {
        "num_train_timesteps": len(table),
        "trained_betas": table,
        "prediction_type": kind,
        "timestep_spacing": spacing,
        "steps_offset": offset,
        "set_alpha_to_one": to_one,
    }
    count = min(count, len(table) // 4)
    theirs = their_scheduler(solver, config, count, schedule)
    assume(len(theirs.timesteps) == count)  # np.arange overshoots for a few counts of trailing spacing
    found = largest_difference(solver, schedule, theirs, count, guidance_scale=guidance_scale, gamma=tenths / 10)
    assert found < 1e-5


@pytest.mark.parametrize("power", [1.3, 1.5, 2.0])
@pytest.mark.parametrize(("solver", "limit"), [("dpm++2m", 1e-5), ("euler", 1e-3)])  # as in test_equals_diffusers
def test_crowded_timesteps_equal_diffusers_given_the_same_ones(solver: str, limit: float, power: float) -> None:
    config = COSINE | {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    schedule = replace(schedule_from_config(config), timestep_power=power)
    expected = [step.timestep for step in SOLVERS[solver][0](schedule, 15)]
    theirs = their_scheduler(solver, config, 15)
    theirs.set_timesteps(timesteps=expected)
    assert largest_difference(solver, schedule, theirs, 15) < limit


def test_a_wrong_coefficient_is_seen() -> None:
    """The control: TCD with γ = 0.3 beside theirs with 0.31."""
    config = CONFIGS["linear"] | {"prediction_type": "epsilon", "timestep_spacing": "trailing"}
    schedule = schedule_from_config(config)
    theirs = their_scheduler("tcd", config, 4, schedule)
    rng = np.random.default_rng(0)
    trajectory = Trajectory(rng.normal(size=SHAPE), rng.normal(size=(4, 2, *SHAPE)), 1.0, 0)
    ours = trajectory.ours(schedule, "tcd", tcd_steps(schedule, 4, 0.3))
    others = trajectory.theirs(theirs, "tcd", 0.31)
    assert np.array_equal(ours[0], others[0])
    assert np.abs(ours[1] - others[1]).max() > 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_equal_diffusers(solver: str, spacing: Any, offset: int) -> None:
    config = CONFIGS["linear"] | {"timestep_spacing": spacing, "steps_offset": offset}
    schedule, theirs = schedule_from_config(config), their_scheduler(solver, config, 1)
    last = 50 if solver in OF_DISTILLED else 120
    compared = 0
    for count in range(1, last + 1):
        theirs.set_timesteps(count)
        if solver == "euler" and spacing == "linspace":  # fractions; ours are rounded
            ours = np.array([step.timestep for step in SOLVERS[solver][0](schedule, count)])
            assert np.abs(ours - theirs.timesteps.numpy()).max() <= 0.5001
            theirs.timesteps = torch.from_numpy(ours)
        expected = theirs.timesteps.long().tolist()
        if len(expected) == count + 1 and expected[-1] == -1:
            continue  # np.arange overshoots for a few counts of trailing spacing: a step at timestep −1
        assert [step.timestep for step in SOLVERS[solver][0](schedule, count)] == expected, count
        compared += 1
    assert compared >= last - 3
