"""The VAE for images of any bands: the base's own, with a first and a last convolution for them, trained on the images.

Its latents are new ones, which the base's denoiser does not know: from such a VAE only stored codes can be decoded.
"""

import copy
from dataclasses import replace

import torch
from torch import nn

from dpd_train.bases.base import Base
from dpd_train.config import TrainConfig
from dpd_train.vae.autoencoder import AutoencoderTraining


def bands_training(config: TrainConfig) -> AutoencoderTraining:
    """The settings of a run and of `dpd pretrain --bands`: nearly L1 alone, as a site wants physical values back.

    Spectral and perceptual losses, as of the VAE of RGB, gained nothing (docs/guides/bands.md) and need networks first.
    """
    return AutoencoderTraining(
        steps=config.vae_steps,
        batch=12,
        peak_rate=8e-4,
        gradient_weight=0.1,
        perceptual_weight=0.0,
        scale_probability=0.0,
        seed=config.seed + 1,
    )


@torch.no_grad()
def with_bands(base: Base, count: int) -> Base:
    """The base with a VAE for images of `count` bands: its own, if it has so many (`dpd pretrain --bands`).

    Else one that is not trained yet: each band is seen and made like grey.
    """
    if int(base.vae.config.in_channels) == count:
        return base
    vae = copy.deepcopy(base.vae)
    first, last = vae.encoder.conv_in, vae.decoder.conv_out
    grey_in, grey_out = first.weight.sum(1, keepdim=True) / count, last.weight.mean(0, keepdim=True)
    vae.encoder.conv_in = _shaped_like(first, count, first.out_channels, grey_in.expand(-1, count, -1, -1), first.bias)
    bias = last.bias.mean().expand(count)
    vae.decoder.conv_out = _shaped_like(last, last.in_channels, count, grey_out.expand(count, -1, -1, -1), bias)
    vae.register_to_config(in_channels=count, out_channels=count)
    return replace(base, vae=vae)


def _shaped_like(conv: nn.Conv2d, inputs: int, outputs: int, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, conv.kernel_size, conv.stride, conv.padding)  # type: ignore[arg-type]
    made.weight.copy_(weight)
    made.bias.copy_(bias)  # type: ignore[union-attr]
    return made.train(conv.training)
