"""The stage that trains the VAE on the user's images: its decoder (`--tune-vae`), or all of it for other bands."""

import torch

from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet
from dpd_train.run.context import Parts, Run
from dpd_train.vae.bands import train_bands_vae, with_bands
from dpd_train.vae.perceptual import load_perceptual_networks, perceptual_training, train_perceptual_networks
from dpd_train.vae.tune import tune_decoder


def with_tuned_decoder(run: Run, base: Base, pixels: Parts) -> Base:
    """The base with a decoder trained on the run's images.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    networks, progress, state = _perceptual_networks(run, pixels), run.progress("VAE decoder"), run.state("decoder")
    device, deadline = run.device, run.deadline
    return tune_decoder(base, _bytes(run), networks, run.config, state, progress, device=device, deadline=deadline)


def with_vae_of_bands(run: Run, base: Base) -> Base:
    """The base with a VAE for the bands of the run's images, trained on them.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    begun, progress, state = with_bands(base, run.channels), run.progress("VAE"), run.state("decoder")
    return train_bands_vae(begun, _bytes(run), run.config, state, progress, device=run.device, deadline=run.deadline)


def _bytes(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(run.data.train.images), torch.from_numpy(run.data.held.images)


def _perceptual_networks(run: Run, pixels: Parts) -> list[ResNet]:
    count, folder, device, deadline = len(run.classes), run.checkpoints, run.device, run.deadline
    training, progress = perceptual_training(run.config.perceptual_steps), run.progress("perceptual networks")
    train_perceptual_networks(folder, *pixels, count, training, progress, device=device, deadline=deadline)
    return load_perceptual_networks(folder, count)
