"""Sampling of given rows by given steps, whoever evaluates the networks: PyTorch at export, the bundle at the site."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider, run_to
from dpd_runtime.sampling.sample import Denoise, sample, to_uint8
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.schedule import PredictionType
from dpd_runtime.sampling.solvers import Advance, Step


@dataclass(frozen=True)
class Case:
    """What is sampled.

    Args:
        noise: [1 + draws, n, C, h, w]: start noise, then what a stochastic solver adds.
        prompts: [n, L, D]. empty: [L, D]. prototypes: [n, C, h, w] (smaller sides for kind `pooled`), or None.
        batch: rows of one call; the last group is filled up with its first row, as in generating.
    """

    noise: Float32
    prompts: Float32
    empty: Float32
    prototypes: Float32 | None
    steps: tuple[Step, ...]
    advance: Advance
    prediction_type: PredictionType
    guidance: BlockGuidance
    batch: int


def groups(rows: int, batch: int) -> Iterator[tuple[list[int], int]]:
    """Row numbers in groups of exactly `batch`, and how many of them are meant."""
    for start in range(0, rows, batch):
        group = list(range(start, min(start + batch, rows)))
        yield group + group[:1] * (batch - len(group)), len(group)


def sample_case(denoise: Denoise, case: Case) -> tuple[Float32, Float32]:
    """Latents [n, C, h, w] at the middle step and at the end."""
    middle = case.steps[len(case.steps) // 2].timestep
    halfway, latents = np.empty_like(case.noise[0]), np.empty_like(case.noise[0])
    for rows, meant in groups(case.noise.shape[1], case.batch):
        kept = rows[:meant]

        def watched(noisy: Float32, timestep: int, prompts: Float32, kept: Sequence[int] = kept) -> Float32:
            if timestep == middle:
                halfway[kept] = noisy[: len(kept)]
            return denoise(noisy, timestep, prompts)

        out = sample(
            watched,
            case.noise[0, rows],
            case.prompts[rows],
            case.empty,
            None if case.prototypes is None else case.prototypes[rows],
            case.steps,
            case.advance,
            case.prediction_type,
            case.guidance,
            case.noise[1:, rows] if len(case.noise) > 1 else None,
        )
        latents[kept] = out[:meant]
    return halfway, latents


Decode = Callable[[Float32], Pixels]
"""Scaled latents [n, C, h, w] → uint8 [n, H, W, 3]."""


def bundle_networks(bundle: Bundle, provider: Provider, threads: int | None = None) -> tuple[Denoise, Decode]:
    """UNet and VAE decoder of a bundle on one provider; NaN becomes mid grey."""
    unet = bundle.engine("unet/model.onnx", provider, threads)
    decoder = bundle.engine("vae_decoder/model.onnx", provider, threads)
    scale, batch = np.float32(bundle.manifest.scaling_factor), bundle.manifest.sampler.compute_batch

    def denoise(latents: Float32, timestep: int, prompts: Float32) -> Float32:
        moment = np.array(timestep, np.int64)
        return run_to(
            unet, "unet/model.onnx", latents.shape, sample=latents, timestep=moment, encoder_hidden_states=prompts
        )

    def decode(latents: Float32) -> Pixels:
        images = []
        for rows, meant in groups(len(latents), batch):
            shape = (len(rows), 3, *bundle.manifest.image_shape[:2])
            decoded = run_to(decoder, "vae_decoder/model.onnx", shape, latent_sample=latents[rows] / scale)[:meant]
            images.append(to_uint8(np.nan_to_num(decoded)))
        return np.concatenate(images)

    return denoise, decode
