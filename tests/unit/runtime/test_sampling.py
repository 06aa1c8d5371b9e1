"""`sample` with analytic denoisers, whose ẑ0 is known, encoded as ε, v or z0."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.annotations import Float32
from dpd_runtime.generation import resolve_sampler
from dpd_runtime.sampler import BlockGuidance, Sampler
from dpd_runtime.sampling import from_uint8, margins, noise_draws, sample, to_uint8, turned
from dpd_runtime.solvers import PREDICTION_TYPES, SOLVERS, schedule_from_config

SCHEDULE = schedule_from_config(
    {
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "timestep_spacing": "trailing",
    }
)
BATCH, LATENT = 3, (2, 4, 4)
NOISE = np.random.default_rng(0).standard_normal((BATCH, *LATENT)).astype(np.float32)
PROMPTS = np.array([1.0, 2.0, 3.0], np.float32).reshape(BATCH, 1, 1) * np.ones((BATCH, 5, 2), np.float32)
EMPTY = np.full((5, 2), -1.0, np.float32)
PROTOTYPES = np.random.default_rng(1).standard_normal((BATCH, *LATENT)).astype(np.float32)


class Denoiser:
    """The best guess for clean latents around each prompt's own number, and what it was called with."""

    def __init__(self, prediction_type: str = "sample") -> None:
        self.prediction_type = prediction_type
        self.timesteps: list[int] = []
        self.shapes: list[tuple[int, ...]] = []
        self.contexts: list[Float32] = []

    def __call__(self, latents: Float32, timestep: int, context: Float32) -> Float32:
        self.timesteps.append(timestep)
        self.shapes.append(latents.shape)
        self.contexts.append(context)
        alpha, sigma = SCHEDULE.alpha_sigma(timestep)
        mean = context.mean(axis=(1, 2)).reshape(-1, 1, 1, 1)
        clean = mean + alpha * 0.25 * (latents - alpha * mean) / (alpha**2 * 0.25 + sigma**2)
        noise = (latents - alpha * clean) / sigma
        outputs: dict[str, Float32] = {"sample": clean, "epsilon": noise, "v_prediction": alpha * noise - sigma * clean}
        return outputs[self.prediction_type].astype(np.float32)


def run(denoiser: Denoiser, guidance: BlockGuidance, solver: str = "dpm++2m", count: int = 8) -> Float32:
    make_steps, advance = SOLVERS[solver]
    prediction_type: Any = denoiser.prediction_type
    steps = make_steps(SCHEDULE, count)
    fresh = np.random.default_rng(2).standard_normal((noise_draws(steps), *NOISE.shape)).astype(np.float32)
    return sample(denoiser, NOISE, PROMPTS, EMPTY, PROTOTYPES, steps, advance, prediction_type, guidance, fresh)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "guidance",
    [BlockGuidance(), BlockGuidance(guidance_scale=3.0), BlockGuidance(guidance_scale=2.0, prototype_scale=0.3)],
    ids=["plain", "cfg", "cfg+prototype"],
)
def test_prediction_types_that_say_the_same_give_the_same(solver: str, guidance: BlockGuidance) -> None:
    results = [run(Denoiser(prediction_type), guidance, solver) for prediction_type in PREDICTION_TYPES]
    assert results[0].dtype == np.float32
    assert results[0].shape == NOISE.shape
    scale = np.abs(results[2]).max()
    for result in results[:2]:
        assert np.abs(result - results[2]).max() < 1e-4 * max(1.0, scale)


def test_guidance_moves_the_result_away_from_the_empty_prompt() -> None:
    """The mean of each latent is its prompt's number c; guided it is near −1 + w (c + 1)."""
    plain = run(Denoiser(), BlockGuidance(), count=50).mean(axis=(1, 2, 3))
    guided = run(Denoiser(), BlockGuidance(guidance_scale=2.0), count=50).mean(axis=(1, 2, 3))
    assert plain == pytest.approx([1, 2, 3], abs=0.4)
    assert (guided - plain > 0.5).all()
    assert (np.diff(guided) > np.diff(plain)).all()


def test_one_guided_step_by_hand() -> None:
    """One step lands on ẑ0 itself: the network says c for a prompt c, −1 for the empty one."""

    def network(latents: Float32, timestep: int, context: Float32) -> Float32:
        return np.ones_like(latents) * context[:, :1, :1, None]

    def one_step(guidance: BlockGuidance, prototypes: Float32 | None = PROTOTYPES) -> Float32:
        make_steps, advance = SOLVERS["dpm++2m"]
        steps = make_steps(SCHEDULE, 1)
        return sample(network, NOISE, PROMPTS, EMPTY, prototypes, steps, advance, "sample", guidance)

    ones = np.ones(NOISE.shape)
    numbers = np.array([1.0, 2.0, 3.0]).reshape(BATCH, 1, 1, 1)
    assert np.allclose(one_step(BlockGuidance()), numbers * ones)
    guided = -1 + 4.0 * (numbers + 1) * ones
    assert np.allclose(one_step(BlockGuidance(guidance_scale=4.0)), guided)
    pulled = one_step(BlockGuidance(guidance_scale=4.0, prototype_scale=0.25))
    assert np.allclose(pulled, 0.75 * guided + 0.25 * PROTOTYPES, atol=1e-5)
    without = one_step(BlockGuidance(guidance_scale=4.0, prototype_scale=0.25), None)
    assert np.allclose(without, guided)


def test_the_doubled_batch_holds_prompts_first_then_the_empty_one() -> None:
    guided, plain = Denoiser(), Denoiser()
    run(guided, BlockGuidance(guidance_scale=2.0), count=5)
    run(plain, BlockGuidance(), count=5)
    assert guided.timesteps == plain.timesteps == [999, 799, 599, 399, 199]
    assert guided.shapes == [(2 * BATCH, *LATENT)] * 5
    assert plain.shapes == [(BATCH, *LATENT)] * 5
    for context in guided.contexts:
        assert np.array_equal(context, np.concatenate([PROMPTS, np.stack([EMPTY] * BATCH)]))
    for context in plain.contexts:
        assert np.array_equal(context, PROMPTS)


@pytest.mark.parametrize(
    ("interval", "count", "doubled"),
    [
        ((0.0, 1.0), 5, 5),
        ((0.2, 0.8), 5, 3),
        ((0.25, 0.75), 4, 2),
        ((0.5, 0.5), 4, 0),
        ((0.1, 0.5), 4, 1),
        ((0.0, 0.14), 50, 7),
    ],
)
def test_guidance_acts_in_its_interval_and_costs_only_there(
    interval: tuple[float, float], count: int, doubled: int
) -> None:
    guidance = BlockGuidance(guidance_scale=2.0, guidance_from=interval[0], guidance_until=interval[1])
    denoiser = Denoiser()
    run(denoiser, guidance, count=count)
    sizes = [shape[0] for shape in denoiser.shapes]
    assert sizes.count(2 * BATCH) == doubled
    assert sum(sizes) == Sampler(steps=count, guidance=(guidance,)).evaluations_per_latent(0) * BATCH
    wide, narrow = sizes.index(2 * BATCH) if doubled else 0, sizes[::-1].index(2 * BATCH) if doubled else 0
    assert sizes[wide : count - narrow] == [2 * BATCH] * doubled or not doubled


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    make_steps, advance = SOLVERS["dpm++2m"]
    steps, guidance = make_steps(SCHEDULE, 6), BlockGuidance(guidance_scale=3.0, prototype_scale=0.2)
    together = run(Denoiser(), guidance, count=6)
    for i in range(BATCH):
        row = slice(i, i + 1)
        alone = sample(Denoiser(), NOISE[row], PROMPTS[row], EMPTY, PROTOTYPES[row], steps, advance, "sample", guidance)
        assert np.allclose(alone[0], together[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("until", "count", "pulled"), [(0.0, 8, 0), (0.25, 8, 2), (0.5, 8, 4), (0.5, 5, 3), (0.3, 1, 1), (0.99, 8, 8)]
)
def test_prototypes_pull_only_in_their_window(until: float, count: int, pulled: int) -> None:
    """A pull with g = 1 puts the prototype in the place of ẑ0; this `advance` writes down what it is given."""
    make_steps, _ = SOLVERS["ddim"]
    seen: list[bool] = []

    def advance(latents: Float32, original: Float32, step: object, previous: Float32 | None) -> Float32:
        seen.append(np.allclose(original, PROTOTYPES, rtol=0, atol=1e-6))
        assert (previous is None) == (len(seen) == 1)
        return latents

    guidance = BlockGuidance(prototype_scale=1.0, prototype_until=until)
    sample(Denoiser(), NOISE, PROMPTS, EMPTY, PROTOTYPES, make_steps(SCHEDULE, count), advance, "sample", guidance)
    assert seen == [True] * pulled + [False] * (count - pulled)


def test_the_second_order_memory_is_the_guided_prediction() -> None:
    """Pulled all the way in every step, each ẑ0 and each remembered one is the prototype: so is the result."""
    denoiser = Denoiser()
    result = run(denoiser, BlockGuidance(guidance_scale=3.0, prototype_scale=1.0, prototype_until=0.99))
    assert np.allclose(result, PROTOTYPES, rtol=0, atol=1e-5)
    assert not denoiser.timesteps


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_pull_that_is_complete_to_the_end_gives_the_prototype(solver: str) -> None:
    denoiser, guidance = Denoiser(), BlockGuidance(guidance_scale=3.0, prototype_scale=1.0, prototype_until=1.0)
    assert np.array_equal(run(denoiser, guidance, solver), PROTOTYPES)
    assert not denoiser.timesteps
    assert Sampler(steps=8, guidance=(guidance,)).evaluations_per_latent(0) == 0
    pooled = PROTOTYPES.reshape(BATCH, 2, 2, 2, 2, 2).mean((3, 5))
    make_steps, advance = SOLVERS["ddim"]
    arguments = (NOISE, PROMPTS, EMPTY, pooled, make_steps(SCHEDULE, 8), advance, "sample", guidance)
    drawn = sample(denoiser, *arguments)  # block means leave something to draw
    assert len(denoiser.timesteps) == 8
    assert np.allclose(drawn.reshape(BATCH, 2, 2, 2, 2, 2).mean((3, 5)), pooled, atol=1e-4)
    assert not np.allclose(drawn, pooled.repeat(2, 2).repeat(2, 3), atol=1e-2)


@pytest.mark.parametrize(("until", "asked"), [(0.25, 6), (0.5, 4), (0.8, 1)])
def test_a_complete_pull_with_an_early_stop_is_a_noised_prototype_denoised_again(until: float, asked: int) -> None:
    """SDEdit: start at the step's noise level from α p + σ ε with the start noise, then sample as usual."""
    make_steps, advance = SOLVERS["ddim"]
    denoiser, guidance = Denoiser(), BlockGuidance(guidance_scale=3.0, prototype_scale=1.0, prototype_until=until)
    found = run(denoiser, guidance, "ddim")
    sampler = Sampler(steps=8, guidance=(guidance,))
    assert len(denoiser.timesteps) == asked
    assert sampler.evaluations_per_latent(0) == 2 * asked
    rest = make_steps(SCHEDULE, 8)[-asked:]
    # NOISE has the first step's alpha and sigma: after ẑ0 = p is taken off, the noise direction is left
    first = make_steps(SCHEDULE, 8)[0]
    direction = (NOISE - first.alpha * PROTOTYPES) / first.sigma
    start = rest[0].alpha * PROTOTYPES + rest[0].sigma * direction
    plain = BlockGuidance(guidance_scale=3.0)
    expected = sample(Denoiser(), start, PROMPTS, EMPTY, None, rest, advance, "sample", plain)
    assert np.allclose(found, expected, atol=1e-5)


def test_the_first_guidance_that_samples() -> None:
    complete, plain = BlockGuidance(prototype_scale=1.0, prototype_until=1.0), BlockGuidance(from_block=3)
    assert Sampler(guidance=(complete, plain)).first_sampled() == plain
    assert Sampler(guidance=(plain, complete)).first_sampled() == plain
    assert Sampler(guidance=(complete,)).first_sampled() == complete
    renoised = BlockGuidance(from_block=1, prototype_scale=1.0, prototype_until=0.8)
    assert Sampler(guidance=(complete, renoised, plain)).first_sampled() == plain
    assert Sampler(guidance=(complete, renoised, plain)).sampled().guidance == (BlockGuidance(),)
    pulled = BlockGuidance(prototype_scale=0.99, prototype_until=1.0)
    assert Sampler(guidance=(pulled,)).sampled() == Sampler(guidance=(pulled,))


def test_a_sampler_whose_images_are_all_sampled() -> None:
    complete, plain = BlockGuidance(prototype_scale=1.0, prototype_until=1.0), BlockGuidance(from_block=3)
    later = BlockGuidance(from_block=7, guidance_scale=2.0)
    assert Sampler(guidance=(complete, plain, later)).sampled().guidance == (BlockGuidance(), later)
    assert Sampler(guidance=(plain, later)).sampled() == Sampler(guidance=(plain, later))
    assert Sampler(guidance=(complete,)).sampled().guidance == (BlockGuidance(prototype_until=1.0),)


def test_settings_of_the_sampler_make_all_images_sampled() -> None:
    complete, plain = BlockGuidance(prototype_scale=1.0, prototype_until=1.0), BlockGuidance(from_block=3)
    sampler = Sampler(steps=9, guidance=(complete, plain))
    assert resolve_sampler(sampler) == sampler
    for asked in ({"steps": 9}, {"solver": "ddim"}, {"candidates": 2}, {"guidance_scale": 2.0}):
        assert not any(g.decodes for g in resolve_sampler(sampler, **asked).guidance)  # type: ignore[arg-type]


@pytest.mark.parametrize("element", range(8))
def test_an_image_is_turned_as_in_training(element: int) -> None:
    torch = pytest.importorskip("torch")
    symmetry = pytest.importorskip("dpd_train.symmetry")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    expected = symmetry.d4(torch.from_numpy(pixels).permute(2, 0, 1), element).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(turned(pixels, element), expected)
    oblong = pixels[:4]
    assert turned(oblong, element).shape == oblong.shape
    assert sorted(turned(oblong, element).ravel()) == sorted(oblong.ravel())


@pytest.mark.parametrize(("label", "expected"), [(0, [-4.0, 3.0]), (1, [-1.5, -3.0]), (2, [1.5, -4.0])])
def test_margins_by_hand(label: int, expected: list[float]) -> None:
    logits = np.array([[1.0, 3.5, 5.0], [2.0, -1.0, -2.0]], np.float32)
    assert margins(logits, label).tolist() == expected


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=6), st.data())
def test_margin_is_positive_exactly_for_the_argmax(row: Sequence[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(row) - 1))
    found = float(margins(np.array([row], np.float32), label)[0])
    best = max(value for i, value in enumerate(row) if i != label)
    assert (found > 0) == (row[label] > best)


def test_to_uint8() -> None:
    values = np.array([-9.0, -1.0, -0.5, 0.0, 1 / 255, 0.999, 1.0, 9.0], np.float32)
    found = to_uint8(values.reshape(1, 1, 2, 4))
    assert found.shape == (1, 2, 4, 1)
    assert found.dtype == np.uint8
    assert found.reshape(-1).tolist() == [0, 0, 64, 128, 128, 255, 255, 255]  # 127.5 rounds to the even 128
    assert found.flags["C_CONTIGUOUS"]


def test_to_uint8_inverts_the_scaling_of_every_byte_and_moves_channels_last() -> None:
    pixels = np.arange(256 * 3, dtype=np.uint32).reshape(2, 16, 8, 3).astype(np.uint8)
    scaled = (pixels.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
    assert np.array_equal(to_uint8(scaled), pixels)


def test_pixels_and_floats_are_those_of_the_formulas_in_little_memory() -> None:
    """Image by image: beside the result, little more than one image is there as floats."""
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(24, 5, 40, 60)).astype(np.float32)
    pixels = np.rint((np.clip(floats, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    again = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
    for convert, source, expected in ((to_uint8, floats, pixels), (from_uint8, pixels, again)):
        tracemalloc.start()
        try:
            found = convert(source)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
        assert found.flags.c_contiguous
        assert peak < found.nbytes + 3 * floats[0].nbytes
