"""`step/model.onnx` against the numpy sampler, with random coefficients and whole trajectories."""

from dataclasses import astuple, replace
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_export.graphs.files import write_graph
from dpd_export.graphs.step import step_graph
from dpd_runtime.sampling.guidance import classifier_free, towards_prototype
from dpd_runtime.sampling.sample import sample
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.schedule import PREDICTION_TYPES, Schedule, predicted_original, schedule_from_config
from dpd_runtime.sampling.solvers import SOLVERS, Step
from dpd_runtime.sampling.step_table import COEFFICIENTS, OUTPUTS, TENSORS, coefficients, step_table

LATENT = (4, 8, 6)
NANO = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
SD = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
Arrays = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


@cache
def session(folder: str, factor: int) -> onnxruntime.InferenceSession:
    from pathlib import Path

    path = Path(folder) / f"{factor}.onnx"
    write_graph(step_graph(LATENT, factor), path)
    assert path.stat().st_size < 10_000
    return onnxruntime.InferenceSession(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("step"))


def drawn(seed: int, batch: int, factor: int) -> Arrays:
    rng = np.random.default_rng(seed)
    small = (LATENT[0], LATENT[1] // factor, LATENT[2] // factor)
    shapes = {name: (batch, *(small if name == "prototypes" else LATENT)) for name in TENSORS}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["ddim", "dpm++2m"]),
    prediction=st.sampled_from(PREDICTION_TYPES),
    angles=st.tuples(st.floats(0.05, 1.5), st.floats(0.0, 1.5)),
    correction=st.floats(0.0, 2.0),
    scale=st.floats(1.0, 10.0),
    pull=st.floats(0.0, 1.0),
    factor=st.sampled_from([1, 2]),
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_equals_the_numpy_step(
    folder: str,
    name: str,
    prediction: Any,
    angles: tuple[float, float],
    correction: float,
    scale: float,
    pull: float,
    factor: int,
    batch: int,
    seed: int,
) -> None:
    advance, given_arrays = SOLVERS[name][1], drawn(seed, batch, factor)
    (alpha, sigma), (alpha_next, sigma_next) = ((float(np.cos(a)), float(np.sin(a))) for a in angles)
    step = Step(500, alpha, sigma, alpha_next, sigma_next, correction if name == "dpm++2m" else 0.0)
    z, conditional, unconditional, prototypes, previous, _, _ = given_arrays.values()
    output = classifier_free(conditional, unconditional, scale)
    original = towards_prototype(predicted_original(z, output, prediction, alpha, sigma), prototypes, pull)
    expected = advance(z, original, step, previous)
    row = np.array(astuple(coefficients(step, advance, prediction, scale, pull)), np.float32)
    found = session(folder, factor).run(list(OUTPUTS), given_arrays | {COEFFICIENTS: row})
    for value, wanted in zip(found, (expected, original), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("factor", [1, 2])
def test_whole_trajectories_are_those_of_the_sampler(folder: str, name: str, prediction: Any, factor: int) -> None:
    """Every step runs through the graph; a stand-in for the UNet depends on the prompt."""
    schedule = schedule_from_config((NANO if prediction == "v_prediction" else SD) | {"prediction_type": prediction})
    guidance = BlockGuidance(guidance_scale=2.0, guidance_until=0.7, prototype_scale=0.3, prototype_until=0.5)
    found, expected = both(schedule, name, guidance, folder, factor)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def test_a_wrong_row_is_seen(folder: str) -> None:
    """The control: half the pull gives other latents."""
    schedule = schedule_from_config(NANO | {"prediction_type": "v_prediction"})
    guidance = BlockGuidance(guidance_scale=2.0, prototype_scale=0.3)
    found, expected = both(
        schedule, "ddim", guidance, folder, 1, graph_guidance=replace(guidance, prototype_scale=0.15)
    )
    assert np.abs(found - expected).max() > 1e-2


def both(
    schedule: Schedule,
    solver: str,
    guidance: BlockGuidance,
    folder: str,
    factor: int,
    graph_guidance: BlockGuidance | None = None,
) -> tuple[Any, Any]:
    """Latents from the graph and from the sampler."""
    make_steps, advance = SOLVERS[solver]
    steps = make_steps(schedule, 6)
    arrays = drawn(3, 2, factor)
    fresh = list(np.random.default_rng(4).standard_normal((6, 2, *LATENT)).astype(np.float32))
    draws = sum(step.noise > 0 for step in steps)

    def denoise(latents: Any, timestep: int, prompts: Any) -> Any:
        return np.tanh(latents * 0.7 + prompts[:, :, :1, None] * (timestep / 1000)).astype(np.float32)

    prompts, empty = np.full((2, 4, 3), 0.5, np.float32), np.full((4, 3), -0.5, np.float32)
    expected = sample(
        denoise, arrays["latents"], prompts, empty, arrays["prototypes"], steps, advance, schedule.prediction_type,
        guidance, np.array(fresh[:draws]) if draws else None,
    )  # fmt: skip
    table = step_table(steps, advance, schedule.prediction_type, graph_guidance or guidance, prototypes=True)
    latents, previous, older = arrays["latents"], np.zeros_like(arrays["latents"]), np.zeros_like(arrays["latents"])
    for number, (step, row) in enumerate(zip(steps, table, strict=True)):
        conditional = denoise(latents, step.timestep, prompts)
        guided = guidance.guides(number, len(steps))
        unconditional = (
            denoise(latents, step.timestep, np.broadcast_to(empty, prompts.shape)) if guided else conditional
        )
        feeds = [latents, conditional, unconditional, arrays["prototypes"], previous, older]
        feeds.append(fresh.pop(0) if step.noise else np.zeros_like(latents))
        inputs = dict(zip(TENSORS, feeds, strict=True)) | {COEFFICIENTS: row}
        latents, original = session(folder, factor).run(list(OUTPUTS), inputs)
        previous, older = original, previous
    return latents, expected
