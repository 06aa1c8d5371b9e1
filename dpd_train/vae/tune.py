"""Training of the VAE's decoder on a user's images, by the settings of the nano base."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dpd_runtime.annotations import Progress
from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet
from dpd_train.compute.device import NEVER, Deadline
from dpd_train.config import TrainConfig
from dpd_train.vae.autoencoder import AutoencoderTraining, train_autoencoder

DECODER = AutoencoderTraining(
    steps=3000,
    batch=12,
    peak_rate=4e-4,
    l1_weight=0.25,
    coarse_weight=6.0,
    chroma_weight=4.0,
    gradient_weight=0.0,
    spectral_weight=4.0,
    perceptual_weight=1.0,
    statistics_weight=1.5,
    contrast_floor=0.04,
    kl_weight=0.0,
    scale_probability=0.0,
    latent_noise=0.05,
    seed=1,
)
"""The settings that the nano base's decoder was trained with."""


def decoder_training(config: TrainConfig) -> AutoencoderTraining:
    """The settings of `--tune-vae`: those of the nano base with a lower learning rate."""
    return replace(DECODER, steps=config.vae_steps, peak_rate=2e-4, seed=config.seed + 1)


def tune_decoder(
    base: Base,
    images: tuple[torch.Tensor, torch.Tensor],
    networks: Sequence[ResNet],
    config: TrainConfig,
    state: Path,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    deadline: Deadline = NEVER,
) -> Base:
    """The base with a decoder trained on the user's images. The encoder, and so the latents, stay as they are.

    Args:
        images: uint8 [n, H, W, 3] of the training and the validation part.
        networks: of the perceptual loss.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    vae = train_autoencoder(
        base.vae,
        *images,
        decoder_training(config),
        state,
        networks,
        decoder_only=True,
        progress=progress,
        device=device,
        deadline=deadline,
    )
    return replace(base, vae=vae)
