"""Starting codes of the matching: sampled images that the latent classifier selects, or noise with the statistics of a
class. None is a real image."""

import numpy as np
import torch

from dpd_runtime.annotations import Progress
from dpd_runtime.sampling.noise import image_noise
from dpd_runtime.sampling.sample import margins, sample
from dpd_runtime.sampling.sampler import DEFAULT_SAMPLER, sampler_schedule
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_train.bases.base import Base, torch_denoise
from dpd_train.classifiers.network import ResNet, predict

CALL = 20  # latents in one call of the UNet


def gaussian_codes(latents: torch.Tensor, labels: torch.Tensor, classes: int, count: int, seed: int) -> torch.Tensor:
    """Scaled latents [classes, count, C, h, w]: Gaussian fields with the mean and the cross-spectrum of a class.

    For a VAE whose latents the denoiser does not know. Noise without a spectrum would decode to fine grain, and
    independent channels to what no image is: a decoder's channels are correlated.

    Args:
        latents: scaled, of the training images [n, C, h, w]. labels: [n].
    """
    generator, codes = torch.Generator().manual_seed(seed), []
    for label in range(classes):
        own = latents[labels == label]
        mean = own.mean((0, 2, 3), keepdim=True)
        roots = _root(_channels_last(torch.fft.fft2((own - mean).double(), norm="ortho")))
        noise = _channels_last(torch.fft.fft2(torch.randn((count, *own.shape[1:]), generator=generator).double()))
        coloured = torch.einsum("hwij,nhwj->nhwi", roots, noise)
        codes.append(mean + torch.fft.ifft2(coloured, dim=(1, 2)).real.permute(0, 3, 1, 2).to(mean.dtype))
    return torch.stack(codes)


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    return values.permute(0, 2, 3, 1)


def _root(spectra: torch.Tensor) -> torch.Tensor:
    """Square roots [h, w, C, C] of the cross-spectrum of all images' spectra [n, h, w, C] together."""
    covariance = torch.einsum("nhwi,nhwj->hwij", spectra, spectra.conj()) / len(spectra)
    values, vectors = torch.linalg.eigh(covariance)
    root: torch.Tensor = (vectors * values.clamp_min(0).sqrt()[..., None, :].to(vectors.dtype)) @ vectors.mH
    return root


def starting_codes(
    base: Base,
    latent_classifier: ResNet,
    classes: tuple[str, ...],
    prompts: torch.Tensor,
    count: int,
    seed: int,
    progress: Progress = lambda step, steps: None,
) -> torch.Tensor:
    """Scaled latents [classes, count, C, h, w]: for each index the candidate with the highest margin.

    Args:
        prompts: [classes + 1, L, D], the empty prompt last.
    """
    sampler = DEFAULT_SAMPLER
    make_steps, advance = SOLVERS[sampler.solver]
    steps = make_steps(sampler_schedule(base.schedule, sampler), sampler.steps)
    side = int(base.unet.config.sample_size)
    shape = (int(base.unet.config.in_channels), side, side)
    denoise, kind, guidance = torch_denoise(base), base.schedule.prediction_type, sampler.guidance[-1]
    texts, chosen = prompts.numpy(), []
    for label, name in enumerate(classes):
        tasks = [(index, candidate) for candidate in range(sampler.candidates) for index in range(count)]
        noise = np.stack([image_noise(seed, name, *task, shape, 0, sampler.mean_noise_gain)[0] for task in tasks])
        parts = []
        for first in range(0, len(noise), CALL):
            part = noise[first : first + CALL]
            context = np.repeat(texts[label : label + 1], len(part), axis=0)
            parts.append(sample(denoise, part, context, texts[-1], None, steps, advance, kind, guidance))
        latents = np.concatenate(parts)
        scores = margins(predict(latent_classifier, torch.from_numpy(latents)).numpy(), label).reshape(
            sampler.candidates, count
        )
        chosen.append(latents[scores.argmax(axis=0) * count + np.arange(count)])
        progress(label + 1, len(classes))
    return torch.from_numpy(np.stack(chosen))
