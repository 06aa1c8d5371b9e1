"""Sample one batch of latents from given noise, and pure functions around it."""

from collections.abc import Callable, Sequence

import numpy as np

from dpd_runtime.annotations import Float32, Images, Pixels
from dpd_runtime.sampling.guidance import classifier_free, moved, towards_prototype
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.schedule import PredictionType, predicted_original
from dpd_runtime.sampling.solvers import Advance, Step

Denoise = Callable[[Float32, int, Float32], Float32]
"""(latents [B, C, h, w], timestep, encoder_hidden_states [B, L, D]) → output [B, C, h, w]."""


def sample(
    denoise: Denoise,
    noise: Float32,
    prompts: Float32,
    empty_prompt: Float32,
    prototypes: Float32 | None,
    steps: Sequence[Step],
    advance: Advance,
    prediction_type: PredictionType,
    guidance: BlockGuidance,
    step_noise: Float32 | None = None,
) -> Float32:
    """Denoise `noise` to clean latents [B, C, h, w].

    Args:
        prompts: [B, L, D]; empty_prompt: [L, D], for guided steps, which call the network with a doubled batch.
        prototypes: [B, C, h, w] or None. In steps where they replace ẑ0, the network is not called. Smaller ones (block
            means) never replace it.
        step_noise: [noise_draws(steps), B, C, h, w]: the noise that the steps of a stochastic solver add, in order.

    Raises:
        ValueError: `step_noise` has another length than `noise_draws(steps)`.
    """
    fresh = [] if step_noise is None else list(step_noise)
    if len(fresh) != noise_draws(steps):
        raise ValueError(f"step_noise holds {len(fresh)} draws: these steps need {noise_draws(steps)}")
    whole = prototypes is not None and prototypes.shape == noise.shape
    if whole and guidance.decodes:
        assert prototypes is not None
        return prototypes
    doubled_context = np.concatenate([prompts, np.broadcast_to(empty_prompt, prompts.shape)])
    latents, previous, older = noise, None, None

    def answered(number: int, step: Step) -> Float32:
        if guidance.guides(number, len(steps)):
            output = denoise(np.concatenate([latents, latents]), step.timestep, doubled_context)
            conditional, unconditional = np.split(output, 2)
            return classifier_free(conditional, unconditional, guidance.guidance_scale)
        return denoise(latents, step.timestep, prompts)

    for number, step in enumerate(steps):
        if whole and guidance.replaces(number, len(steps)):
            assert prototypes is not None
            original = prototypes
        else:
            output = answered(number, step)
            original = predicted_original(latents, output, prediction_type, step.alpha, step.sigma)
            if prototypes is not None and guidance.pulls(number, len(steps)):
                if guidance.prototype_step:
                    latents = moved(latents, original, prototypes, guidance.prototype_step * step.sigma)
                    original = predicted_original(latents, output, prediction_type, step.alpha, step.sigma)
                else:
                    original = towards_prototype(original, prototypes, guidance.prototype_scale)
        memory = (previous, older) if step.corrector_older else (previous,)
        latents = advance(latents, original, step, *memory)
        if step.noise:
            latents = latents + step.noise * fresh.pop(0)
        previous, older = original, previous
    return latents


def noise_draws(steps: Sequence[Step]) -> int:
    """How often these steps add fresh noise; 0 for a deterministic solver."""
    return sum(step.noise > 0 for step in steps)


def margins(logits: Float32, labels: int | Sequence[int]) -> Float32:
    """Logit of class `labels`, one for all rows or one for each, minus the best other logit, [B] (arXiv 2601.15829)."""
    rows, others = np.arange(len(logits)), logits.copy()
    others[rows, labels] = -np.inf
    best: Float32 = logits[rows, labels] - others.max(axis=1)
    return best


def turned(pixels: Pixels, element: int) -> Pixels:
    """Apply one of the eight symmetries of the square to an image [H, W, 3].

    Elements 4 … 7 first flip it left to right; then it is turned counterclockwise by `element` mod 4 quarter turns. An
    oblong image keeps its shape: a quarter turn is left out.
    """
    if element >= 4:
        pixels = pixels[:, ::-1]
    turns = element % 4 if pixels.shape[0] == pixels.shape[1] else element % 4 // 2 * 2
    return np.ascontiguousarray(np.rot90(pixels, turns))


def from_uint8(images: Images) -> Float32:
    """uint8 NHWC → float32 NCHW in [-1, 1], as classifiers see images."""
    count, height, width, channels = images.shape
    floats = np.empty((count, channels, height, width), np.float32)
    for row, pixels in zip(floats, images, strict=True):
        row[:] = pixels.transpose(2, 0, 1)
    floats /= np.float32(127.5)
    floats -= np.float32(1)
    return floats


def to_uint8(images: Float32) -> Images:
    """float32 NCHW in [-1, 1] → uint8 NHWC. Images are converted one by one, so that few floats are there twice."""
    count, channels, height, width = images.shape
    pixels = np.empty((count, height, width, channels), np.uint8)
    for view, image in zip(pixels, images, strict=True):
        scaled = np.clip(image, -1, 1).astype(np.float32, copy=False)
        scaled += 1
        scaled *= 127.5
        view[:] = np.rint(scaled, out=scaled).transpose(1, 2, 0)
    return pixels
