"""The VAE on the user's images, before everything else of a run: its decoder, or the encoder as well."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from dpd_train.autoencoder import AutoencoderTraining, train_autoencoder
from dpd_train.base import Base
from dpd_train.classifiers import ResNet
from dpd_train.device import NEVER, Deadline
from dpd_train.latents import encode
from dpd_train.pretrain_config import PretrainConfig
from dpd_train.train_config import TrainConfig


def decoder_training(config: TrainConfig) -> AutoencoderTraining:
    """As the nano base's decoder stage, more carefully."""
    return replace(PretrainConfig().decoder, steps=config.vae_steps, peak_rate=2e-4, seed=config.seed + 3)


def joint_training(config: TrainConfig) -> AutoencoderTraining:
    """As the nano base's joint stage."""
    return replace(PretrainConfig().autoencoder, steps=config.vae_steps, seed=config.seed + 3)


def unit_variance(vae: AutoencoderKL, images: torch.Tensor, device: torch.device | str = "cpu") -> AutoencoderKL:
    """`vae` with the scaling factor 1 / standard deviation of these images' latents (Rombach et al. 2022, app. G).

    images: uint8 [n, H, W, 3].
    """
    vae.register_to_config(scaling_factor=float(1 / encode(vae, images.numpy(), device=device).std()))
    return vae


def tune_vae(
    base: Base,
    images: tuple[torch.Tensor, torch.Tensor],
    networks: Sequence[ResNet],
    config: TrainConfig,
    state: Path,
    progress: Callable[[int, int], None],
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> Base:
    """The base with a VAE that knows the user's images. With the decoder alone latents keep their meaning; with
    `config.tune_encoder` they move, and the denoiser has to follow them.

    Args:
        images: uint8 [n, H, W, 3] of the training and the validation part.
        networks: of the perceptual loss.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    vae = train_autoencoder(
        base.vae,
        *images,
        joint_training(config) if config.tune_encoder else decoder_training(config),
        state,
        networks,
        decoder_only=not config.tune_encoder,
        progress=progress,
        device=device,
        deadline=deadline,
    )
    return replace(base, vae=unit_variance(vae, images[0], device) if config.tune_encoder else vae)
