"""One step of denoiser training: the batch with its noise, and the losses of the network's output."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from dpd_runtime.sampling.schedule import Schedule, add_noise
from dpd_train.captions.captions import CaptionTable
from dpd_train.compute.checkpoint import draw_rows
from dpd_train.compute.device import to_device
from dpd_train.images.symmetry import ORDER


class Drawn(NamedTuple):
    """A whole batch on the CPU, the same in every process.

    rows, elements, timesteps: [B] int64; ids: [B, L] int64; noise: [B, C, h, w]; snr: [B] float64.
    """

    rows: torch.Tensor
    elements: torch.Tensor
    ids: torch.Tensor
    timesteps: torch.Tensor
    noise: torch.Tensor
    snr: torch.Tensor


def draw(
    batch: int,
    shape: torch.Size,
    labels: torch.Tensor,
    captions: CaptionTable,
    dropout: float,
    schedule: Schedule,
    generator: torch.Generator,
    weights: torch.Tensor | None = None,
) -> Drawn:
    """Draw images, their symmetries, captions, timesteps and noise.

    Args:
        shape: of all latents [n, C, h, w]. labels: [n] int64. dropout: share of empty captions.
        weights: of the images, see `draw_rows`.
    """
    rows = draw_rows(shape[0], batch, weights, generator)
    elements = torch.randint(ORDER, (batch,), generator=generator)
    ids = captions.draw(rows, labels, elements % 2 == 1, dropout, generator)
    timesteps = torch.randint(schedule.num_train_timesteps, (batch,), generator=generator)
    noise = torch.randn((batch, *shape[1:]), generator=generator)
    alphas = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps]
    return Drawn(rows, elements, ids, timesteps, noise, alphas / (1 - alphas))


def parts(share: range, most: int | None) -> list[slice]:
    """Cut the rows `share` of a batch into almost equal parts of at most `most` rows; None: one part."""
    count = 1 if most is None else -(-len(share) // most)
    ends = [share.start + i * len(share) // count for i in range(count + 1)]
    return [slice(*between) for between in pairwise(ends)]


def min_snr_weight(alpha: torch.Tensor, sigma: torch.Tensor, prediction_type: str, gamma: float) -> torch.Tensor:
    """Weight of the squared error of the network's own output (Hang et al. 2023, eq. 6 and appendix).

    The error of ẑ0 has weight min(SNR, γ); that of ε has it divided by SNR, that of v by SNR + 1.
    """
    snr = (alpha / sigma).square()
    capped = snr.clamp(max=gamma)
    return capped / (snr + 1) if prediction_type == "v_prediction" else capped / snr


@dataclass(frozen=True)
class Denoised:
    """The network's output for a noisy batch.

    output, target, original: [B, C, h, w]; `original` are the predicted clean latents. snr, weight: [B].
    """

    output: torch.Tensor
    target: torch.Tensor
    original: torch.Tensor
    snr: torch.Tensor
    weight: torch.Tensor

    def squared_error(self) -> torch.Tensor:
        """Weighted squared error of each sample [B]."""
        losses: torch.Tensor = self.weight * (self.output - self.target).square().mean(dim=(1, 2, 3))
        return losses

    def direction_error(self) -> torch.Tensor:
        """Weighted 1 − cosine over the channels, mean over the positions, of each sample [B]."""
        cosine = F.cosine_similarity(self.output, self.target, dim=1).mean(dim=(1, 2))
        losses: torch.Tensor = self.weight * (1 - cosine)
        return losses


def denoise(
    unet: nn.Module,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    context: torch.Tensor,
    schedule: Schedule,
    gamma: float | None,
) -> Denoised:
    """Add noise to latents and call the network.

    Args:
        latents, noise: [B, C, h, w]; timesteps: [B] int64 on the CPU; context: [B, L, D].
        gamma: γ of the weights min(SNR, γ); None for weights of 1 on the network's own output.
    """
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[timesteps]
    alpha = to_device(table.sqrt().float()[:, None, None, None], latents.device)
    sigma = to_device((1 - table).sqrt().float()[:, None, None, None], latents.device)
    noisy = add_noise(latents, noise, alpha, sigma)  # type: ignore[arg-type]
    is_velocity = schedule.prediction_type == "v_prediction"
    target = alpha * noise - sigma * latents if is_velocity else noise
    output = unet(noisy, to_device(timesteps, latents.device), context).sample.float()
    original = alpha * noisy - sigma * output if is_velocity else (noisy - sigma * output) / alpha
    snr = (alpha / sigma).square().flatten()
    kind, plain = schedule.prediction_type, torch.ones_like(snr)
    weight = plain if gamma is None else min_snr_weight(alpha, sigma, kind, gamma).flatten()
    return Denoised(output, target, original, snr, weight)


def decoder_features(vae: AutoencoderKL, latents: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps of the decoder after its middle block and after its first upsampling block."""
    middle = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(latents)))
    return [middle, vae.decoder.up_blocks[0](middle)]


def decoder_loss(vae: AutoencoderKL, predicted: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Latent perceptual loss (Berrada et al. 2025, eq. 5) of unscaled latents [B, C, h, w].

    It is the squared distance of the decoder's features, each channel in units of its deviation in the clean image plus
    0.01. Beyond five units an entry counts as 25, without a gradient.
    """
    losses = []
    with torch.no_grad():
        wanted = [features.float() for features in decoder_features(vae, latents)]
    for estimated, clean in zip(decoder_features(vae, predicted), wanted, strict=True):
        unit = clean.std(dim=(2, 3), keepdim=True) + 1e-2
        losses.append(((estimated.float() - clean) / unit).square().clamp(max=25).mean())
    return torch.stack(losses).mean()
