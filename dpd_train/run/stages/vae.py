"""The stage that trains the VAE on the user's images: its decoder (`--tune-vae`), or all of it for other bands."""

import torch

from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet
from dpd_train.run.context import Parts, Run
from dpd_train.vae.perceptual import load_perceptual_networks, perceptual_training, train_perceptual_networks
from dpd_train.vae.tune import tune_vae


def with_tuned_decoder(run: Run, base: Base, pixels: Parts) -> Base:
    """The base with a decoder trained on the run's images; for other bands than RGB the encoder too.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    images = torch.from_numpy(run.data.train.images), torch.from_numpy(run.data.held.images)
    progress, state = run.progress("VAE" if run.data.train.bands else "VAE decoder"), run.state("decoder")
    return tune_vae(
        base,
        images,
        _perceptual_networks(run, pixels),
        run.config,
        state,
        progress,
        device=run.device,
        deadline=run.deadline,
    )


def _perceptual_networks(run: Run, pixels: Parts) -> list[ResNet]:
    count, folder, device, deadline = len(run.classes), run.checkpoints, run.device, run.deadline
    training, progress = perceptual_training(run.config.perceptual_steps), run.progress("perceptual networks")
    train_perceptual_networks(folder, *pixels, count, training, progress, device=device, deadline=deadline)
    return load_perceptual_networks(folder, count, run.channels)
