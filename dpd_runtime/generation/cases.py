"""Sampling with given noise and steps. The networks are functions: PyTorch's at export, the bundle's at the site."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import Provider
from dpd_runtime.generation.networks import DECODER, UNET, decode, denoise, groups
from dpd_runtime.sampling.sample import Denoise, sample, to_uint8
from dpd_runtime.sampling.sampler import BlockGuidance
from dpd_runtime.sampling.schedule import PredictionType
from dpd_runtime.sampling.solvers import Advance, Step


@dataclass(frozen=True)
class Case:
    """The input of `sample_case`.

    Args:
        noise: [1 + draws, n, C, h, w]: start noise, then what a stochastic solver adds.
        prompts: [n, L, D]. empty: [L, D]. prototypes: [n, C, h, w] (smaller sides for kind `pooled`), or None.
        batch: rows of one call, as in `dpd_runtime.generation.networks.groups`.
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


def sample_case(network: Denoise, case: Case) -> tuple[Float32, Float32]:
    """Sample a case. Returns the latents [n, C, h, w] before the middle step and at the end."""
    middle = case.steps[len(case.steps) // 2].timestep
    halfway, latents = np.empty_like(case.noise[0]), np.empty_like(case.noise[0])
    for rows, own in groups(case.noise.shape[1], case.batch):
        kept = rows[:own]

        def watched(noisy: Float32, timestep: int, prompts: Float32, kept: Sequence[int] = kept) -> Float32:
            if timestep == middle:
                halfway[kept] = noisy[: len(kept)]
            return network(noisy, timestep, prompts)

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
        latents[kept] = out[:own]
    return halfway, latents


Decode = Callable[[Float32], Images]
"""Scaled latents [n, C, h, w] → uint8 [n, H, W, N], or the part of each image that is wanted."""


def bundle_networks(
    bundle: Bundle, provider: Provider, threads: int | None = None, part: Callable[[Images], Images] = lambda all_: all_
) -> tuple[Denoise, Decode]:
    """UNet and VAE decoder of a bundle on one provider. NaN becomes mid grey. part: as in `bundle_decoder`."""
    return partial(denoise, bundle.engine(UNET, provider, threads)), bundle_decoder(bundle, provider, threads, part)


def bundle_decoder(
    bundle: Bundle, provider: Provider, threads: int | None = None, part: Callable[[Images], Images] = lambda all_: all_
) -> Decode:
    """The VAE decoder alone.

    Args:
        part: what is kept of the images [n, H, W, N] of a call.
    """
    decoder, batch = bundle.engine(DECODER, provider, threads), bundle.manifest.sampler.compute_batch

    def decode_all(latents: Float32) -> Images:
        images = []
        for rows, own in groups(len(latents), batch):
            output = decode(decoder, latents[rows], bundle.manifest)[:own]
            images.append(np.concatenate([part(to_uint8(np.nan_to_num(row[None]))) for row in output]))
            del output  # before the next one comes
        return np.concatenate(images)

    return decode_all
