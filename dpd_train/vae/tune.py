"""Settings of the training of a VAE's decoder: those of the nano base."""

from dataclasses import replace

from dpd_train.config import TrainConfig
from dpd_train.vae.autoencoder import AutoencoderTraining

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
