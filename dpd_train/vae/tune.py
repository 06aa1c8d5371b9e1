"""The VAE's decoder on the user's images, before everything else of a run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet
from dpd_train.compute.device import NEVER, Deadline
from dpd_train.config import TrainConfig
from dpd_train.pretrain.config import PretrainConfig
from dpd_train.vae.autoencoder import AutoencoderTraining, train_autoencoder


def decoder_training(config: TrainConfig) -> AutoencoderTraining:
    """As the nano base's decoder stage, more carefully."""
    return replace(PretrainConfig().decoder, steps=config.vae_steps, peak_rate=2e-4, seed=config.seed + 1)


def tune_decoder(
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
    """The base with a decoder trained on the user's images; latents keep their meaning.

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
