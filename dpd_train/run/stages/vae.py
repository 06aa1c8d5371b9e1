"""The stage that trains the VAE on the user's images: its decoder (`--tune-vae`), or all of it for other bands."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet
from dpd_train.run.context import Parts, Run
from dpd_train.vae.autoencoder import AutoencoderTraining, train_autoencoder
from dpd_train.vae.bands import bands_training, with_bands
from dpd_train.vae.perceptual import load_perceptual_networks, perceptual_training, train_perceptual_networks
from dpd_train.vae.tune import decoder_training


def with_tuned_decoder(run: Run, base: Base, pixels: Parts) -> Base:
    """The base with a decoder trained on the run's images.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    return _trained(run, base, decoder_training(run.config), "VAE decoder", _perceptual_networks(run, pixels))


def with_vae_of_bands(run: Run, base: Base) -> Base:
    """The base with a VAE for the bands of the run's images, trained on them.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    return _trained(run, with_bands(base, run.channels), bands_training(run.config), "VAE")


def _trained(
    run: Run, base: Base, training: AutoencoderTraining, stage: str, networks: Sequence[ResNet] | None = None
) -> Base:
    """The base with its VAE trained on the run's images; with networks of a perceptual loss, its decoder alone."""
    vae = train_autoencoder(
        base.vae,
        torch.from_numpy(run.data.train.images),
        torch.from_numpy(run.data.held.images),
        training,
        run.state("decoder"),
        networks or (),
        decoder_only=networks is not None,
        progress=run.progress(stage),
        device=run.device,
        deadline=run.deadline,
    )
    return replace(base, vae=vae)


def _perceptual_networks(run: Run, pixels: Parts) -> list[ResNet]:
    count, folder, device, deadline = len(run.classes), run.checkpoints, run.device, run.deadline
    training, progress = perceptual_training(run.config.perceptual_steps), run.progress("perceptual networks")
    train_perceptual_networks(folder, *pixels, count, training, progress, device=device, deadline=deadline)
    return load_perceptual_networks(folder, count)
