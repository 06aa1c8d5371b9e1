"""The extractor `mdfl`: what a base's denoiser sees of an image, joined from three branches.

After MDFL (Li et al., AAAI 2024, arXiv 2311.09520), which joins spatial, spectral and frequency features of a diffusion
model for the pixels of hyperspectral images and has no public code. This is our reading for whole RGB scenes: the
branches are not learnt, and instead of the paper's re-weighting each branch has the same weight.

It takes no label from the images that it is given, but it is as free of labels as its base. A base of `dpd pretrain`
learned captions that name classes, beside a VAE whose perceptual loss came from classifiers: the one in this package
saw EuroSAT's labels. A comparison with features without labels needs data that the base has not seen, such as AID, or
another base (`mdfl:BASE`).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from dpd_eval.extractors import Extractor, short_hash
from dpd_runtime.annotations import Float32, Images, Progress
from dpd_runtime.solvers import add_noise
from dpd_train.base_files import SHIPPED_BASE
from dpd_train.bases import Base, encode, load_base
from dpd_train.captions import embed
from dpd_train.compute import one_thread
from dpd_train.scene_set import SceneSet

TIMESTEPS = (50, 150, 300)  # of 1000: little noise, as features of a scene need its details
SEED = 220  # of the noise; used by no other extractor
CELLS = 2  # a side, in which maps are averaged
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
RINGS = 8  # of spatial frequencies from 0 to 1/2 cycle per pixel
FITTED = 2000  # training images, at most, that means and deviations are taken from
BATCH = 64
FLOOR = 1e-6  # least deviation that a feature is divided by
Branches = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Spatial, spectral and frequency features, [n, D_b] each."""


@dataclass(frozen=True)
class BranchScales:
    """Means and deviations of each branch's features over the training images, [D_b] each."""

    means: Branches
    deviations: Branches

    def join(self, branches: Branches) -> torch.Tensor:
        """Standardise and join [n, ΣD_b]. Each branch is divided by √D_b, so that all have the same expected length."""
        parts = zip(branches, self.means, self.deviations, strict=True)
        return torch.cat([(x - mean) / deviation / x.shape[1] ** 0.5 for x, mean, deviation in parts], dim=1)


def branch_scales(branches: Branches) -> BranchScales:
    """Measure means and deviations over the rows."""
    spatial, spectral, frequency = ((x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(FLOOR)) for x in branches)
    return BranchScales((spatial[0], spectral[0], frequency[0]), (spatial[1], spectral[1], frequency[1]))


def mdfl_extractor(name: str, train: SceneSet, progress: Progress = lambda done, total: None) -> Extractor:
    """Features of the denoiser of the base `name`, standardised on at most FITTED of the training images.

    No label of `train` is used; what the base learned from labels is in the features.

    Raises:
        InputError: there is no such base, or it is a model of another kind.
    """
    base = load_base(name)
    rows = np.unique(np.linspace(0, len(train.images) - 1, FITTED).astype(np.int64))
    with one_thread():
        branches = _branches(base, train.images[rows], progress)
    public = "mdfl" if name == SHIPPED_BASE else f"mdfl:{Path(name).name}"
    spatial, spectral, frequency = (x.shape[1] for x in branches)
    times = ", ".join(map(str, TIMESTEPS))
    description = (
        f"{public}: middle of the denoiser of {Path(name).name} at t = {times}, features spatial [{spatial}], spectral "
        f"[{spectral}] and frequency [{frequency}], standardised on {len(rows)} training images, weights "
        f"{short_hash(base.unet)}"
    )
    given = "mdfl" if name == SHIPPED_BASE else f"mdfl:{name}"
    return Extractor(given, description, None, partial(_embed, base, branch_scales(branches)))


def _embed(base: Base, standard: BranchScales, images: Images) -> Float32:
    with one_thread():
        features: Float32 = standard.join(_branches(base, images)).numpy()
    return features


@torch.no_grad()
def _branches(base: Base, images: Images, progress: Progress = lambda done, total: None) -> Branches:
    """The three branches of images uint8 [n, H, W, 3], brought to the base's resolution."""
    parts = []
    for i in range(0, len(images), BATCH):
        batch = _resized(images[i : i + BATCH], base.resolution)
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
        maps = middle_maps(base, encode(base.vae, batch) * float(base.vae.config.scaling_factor))
        parts.append((_spatial(maps), channel_statistics(pixels), ring_amplitudes(pixels).log1p().flatten(1)))
        progress(min(i + BATCH, len(images)), len(images))
    spatial, spectral, frequency = (torch.cat(part) for part in zip(*parts, strict=True))
    return spatial, spectral, frequency


def _resized(images: Images, side: int) -> Images:
    """Square images as uint8 [n, side, side, 3], as the VAE's encoder takes them."""
    if images.shape[1] == side:
        return np.ascontiguousarray(images)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    resized: Images = pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return resized


@torch.no_grad()
def middle_maps(base: Base, latents: torch.Tensor) -> list[torch.Tensor]:
    """The output of the UNet's middle block [n, C, h, w] for noisy latents at each of TIMESTEPS, with an empty prompt.

    The noise of a timestep is the same for every image, so that a feature depends on its image alone.

    Args:
        latents: scaled [n, c, H, W].
    """
    schedule = base.schedule
    prompt = embed(base.text_encoder, base.tokenizer, [""]).expand(len(latents), -1, -1)
    generator = torch.Generator().manual_seed(SEED)
    maps: list[torch.Tensor] = []
    hook = base.unet.mid_block.register_forward_hook(lambda module, given, output: maps.append(output.float()))
    try:
        for timestep in TIMESTEPS:
            noise = torch.randn(latents.shape[1:], generator=generator)
            place = timestep * schedule.num_train_timesteps // 1000
            base.unet(add_noise(latents, noise, *schedule.alpha_sigma(place)), torch.tensor(place), prompt)
    finally:
        hook.remove()
    return maps


def _spatial(maps: list[torch.Tensor]) -> torch.Tensor:
    """Maps averaged in CELLS × CELLS cells: [n, timesteps · C · CELLS²]."""
    return torch.cat([F.adaptive_avg_pool2d(values, CELLS).flatten(1) for values in maps], dim=1)


def channel_statistics(pixels: torch.Tensor) -> torch.Tensor:
    """Mean, deviation and QUANTILES of each band, and covariances of pairs of bands: [n, 24] of pixels [n, 3, H, W].

    They do not depend on where in the image a pixel is.
    """
    bands = pixels.flatten(2)
    quantiles = torch.from_numpy(np.quantile(bands.numpy(), QUANTILES, axis=2)).float()  # torch's has a limit of size
    centred = bands - bands.mean(dim=2, keepdim=True)
    covariances = centred @ centred.transpose(1, 2) / bands.shape[2]
    pairs = torch.triu_indices(3, 3, offset=1)
    return torch.cat(
        [
            bands.mean(dim=2),
            bands.std(dim=2, correction=0),
            quantiles.permute(1, 2, 0).flatten(1),
            covariances[:, pairs[0], pairs[1]],
        ],
        dim=1,
    )


def ring_amplitudes(pixels: torch.Tensor) -> torch.Tensor:
    """Mean amplitude of the Fourier transform in RINGS of spatial frequency: [n, 3, RINGS] of pixels [n, 3, S, S].

    Ring i holds frequencies of length i / (2 RINGS) up to (i + 1) / (2 RINGS) cycles per pixel; those in the corners,
    above 1/2, belong to the last ring. Frequency zero, the mean, is left out. Amplitudes are those of the orthonormal
    transform.
    """
    side = pixels.shape[-1]
    frequencies = torch.fft.fftfreq(side)
    radius = (frequencies[:, None].square() + frequencies[None].square()).sqrt()
    ring = (radius * 2 * RINGS).floor().long().clamp_max(RINGS - 1)
    ring[0, 0] = RINGS  # left out below
    amplitudes = torch.fft.fft2(pixels, norm="ortho").abs().flatten(2)
    sums = torch.zeros(*amplitudes.shape[:2], RINGS + 1).index_add_(2, ring.flatten(), amplitudes)
    counts = torch.bincount(ring.flatten(), minlength=RINGS + 1)
    return (sums / counts.clamp_min(1))[..., :RINGS]
