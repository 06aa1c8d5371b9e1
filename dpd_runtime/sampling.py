"""Sample latents: noise of an image, guidance, steps."""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dpd_runtime.annotations import Float32, Images, Pixels
from dpd_runtime.sampler import BlockGuidance
from dpd_runtime.solvers import Advance, Array, PredictionType, Step, predicted_original

# -- Sample one batch of latents from given noise, and pure functions around it.


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


# -- Guidance by prompts and prototypes: on the predicted ẑ0, or as in the DPD paper (arXiv 2601.15829) on z_t.


TINY = 1e-12  # a prototype that is reached has no direction


def classifier_free(conditional: Array, unconditional: Array, guidance_scale: float) -> Array:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + w · (conditional − unconditional). w = 1: none."""
    return unconditional + guidance_scale * (conditional - unconditional)  # type: ignore[operator, no-any-return]


def towards_prototype(original: Array, prototypes: Array, scale: float) -> Array:
    """Pull ẑ0 towards the prototypes: ẑ0' = ẑ0 + g · (p − ẑ0).

    It is after mode guidance (arXiv 2505.18963), which adds λ σ_t (p − ẑ0) to z_t's mean: a constant weight on ẑ0 is
    much weaker at high noise, and grows where that falls.

    Prototypes with smaller sides are block means (kind `pooled`). They change only the means of blocks:
    ẑ0' = ẑ0 + g · U(p − P(ẑ0)), with P average pooling and U nearest-neighbour upsampling.

    Args:
        original: [B, C, h, w]. prototypes: [B, C, h, w], or [B, C, h/f, w/f] for a whole number f.
        scale: g in 0 … 1.
    """
    if prototypes.shape == original.shape:  # type: ignore[attr-defined]
        return original + scale * (prototypes - original)  # type: ignore[operator, no-any-return]
    batch, channels, height, width = original.shape  # type: ignore[attr-defined]
    rows, columns = prototypes.shape[2:]  # type: ignore[attr-defined]
    shape = (batch, channels, rows, height // rows, columns, width // columns)
    blocks = original.reshape(shape)  # type: ignore[attr-defined]
    means = blocks.mean((3, 5)).reshape(batch, channels, rows, 1, columns, 1)
    wanted = prototypes.reshape(batch, channels, rows, 1, columns, 1)  # type: ignore[attr-defined]
    return (blocks + scale * (wanted - means)).reshape(batch, channels, height, width)  # type: ignore[no-any-return]


def moved(latents: Array, original: Array, prototypes: Array, length: float) -> Array:
    """Move z_t by `length` in the direction from ẑ0 to the prototype: z_t + l · (p − ẑ0) / ‖p − ẑ0‖ (arXiv 2601.15829).

    Args:
        latents: z_t [B, C, h, w]. original, prototypes: as in `towards_prototype`.
        length: l, Euclidean, over a whole latent; s · √(1 − ᾱ_t) in the paper.
    """
    apart = towards_prototype(original, prototypes, 1.0) - original  # type: ignore[operator]
    norms = (apart * apart).sum((1, 2, 3)).reshape(-1, 1, 1, 1) ** 0.5
    return latents + length * apart / (norms + TINY)  # type: ignore[no-any-return]


# -- The noise of each image. It does not depend on batch, order, machine or worker (docs/reference/bundle-format.md).


def noise_key(seed: int, class_name: str, index: int, candidate: int) -> bytes:
    """sha256(b"dpd1" ‖ seed u64le ‖ len(class) u32le ‖ class utf-8 ‖ index u32le ‖ candidate u32le), first 16 bytes."""
    name = class_name.encode()
    head = b"dpd1" + struct.pack("<QI", seed, len(name))
    return hashlib.sha256(head + name + struct.pack("<II", index, candidate)).digest()[:16]


def image_element(seed: int, class_name: str, index: int) -> int:
    """The symmetry of the square, 0 … 7, by which the seed turns and mirrors a decoded image (see `turned`).

    It is the last byte of `noise_key` for candidate 0, modulo 8.
    """
    return noise_key(seed, class_name, index, 0)[-1] % 8


def widen_mean(noise: Float32, gain: float) -> Float32:
    """Multiply the mean of each channel of start noise [C, h, w] by `gain`. 1 changes nothing.

    The mean of the noise becomes the mean colour and brightness of the image. Small models vary those too little
    (Lin et al. 2023 give the cause); a larger gain increases their spread.
    """
    if gain == 1:
        return noise
    mean = noise.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    wide: Float32 = (noise + (gain - 1) * mean).astype(np.float32)
    return wide


class NoiseStream:
    """Standard normal numbers of one image and candidate: first the start noise, then that of stochastic solvers."""

    def __init__(self, seed: int, class_name: str, index: int, candidate: int) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed {seed} is outside 0 … 2**64 - 1")
        key = np.frombuffer(noise_key(seed, class_name, index, candidate), dtype="<u8").astype(np.uint64)
        self._generator = np.random.Philox(key=key)

    def normal(self, shape: tuple[int, ...]) -> Float32:
        """Box–Muller on pairs of uniforms u = ((x >> 11) + 0.5) · 2⁻⁵³; float64 → float32, C order."""
        count = int(np.prod(shape))
        raw = np.asarray(self._generator.random_raw(count + count % 2), dtype=np.uint64)
        uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log(uniform[0::2]))
        angle = 2.0 * np.pi * uniform[1::2]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(-1)[:count].astype(np.float32).reshape(shape)


def image_noise(
    seed: int, class_name: str, index: int, candidate: int, shape: tuple[int, int, int], draws: int, mean_gain: float
) -> Float32:
    """[1 + draws, C, h, w]: start noise after `widen_mean`, then the noise that a stochastic solver adds."""
    noise = np.empty((1 + draws, *shape), np.float32)
    for row, part in zip(noise, noise_parts(seed, class_name, index, candidate, shape, draws, mean_gain), strict=True):
        row[:] = part
    return noise


def noise_parts(
    seed: int, class_name: str, index: int, candidate: int, shape: tuple[int, int, int], draws: int, mean_gain: float
) -> Iterator[Float32]:
    """The rows of `image_noise`, one after the other."""
    stream = NoiseStream(seed, class_name, index, candidate)
    yield widen_mean(stream.normal(shape), mean_gain)
    for _ in range(draws):
        yield stream.normal(shape)
