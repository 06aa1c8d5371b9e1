"""The stage of `--tune-vae`: the VAE's decoder is trained on the user's images."""

import torch

from dpd_train.bases.base import Base
from dpd_train.run.context import Parts, Run
from dpd_train.vae.perceptual import load_perceptual_networks, perceptual_training, train_perceptual_networks
from dpd_train.vae.tune import tune_decoder


def with_tuned_decoder(run: Run, base: Base, pixels: Parts) -> Base:
    """The base with a decoder trained on the run's images.

    Raises:
        TimeUp: the deadline passed; the state is saved.
    """
    count, folder, device, deadline = len(run.classes), run.checkpoints, run.device, run.deadline
    training, progress = perceptual_training(run.config.perceptual_steps), run.progress("perceptual networks")
    train_perceptual_networks(folder, *pixels, count, training, progress, device=device, deadline=deadline)
    networks = load_perceptual_networks(folder, count)
    images = torch.from_numpy(run.data.train.images), torch.from_numpy(run.data.held.images)
    progress = run.progress("VAE decoder")
    return tune_decoder(
        base, images, networks, run.config, run.state("decoder"), progress, device=device, deadline=deadline
    )
