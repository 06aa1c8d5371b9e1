"""The stage of `--tune-vae`: the VAE's decoder is trained on the user's images, if that is asked for or needed."""

import logging

import torch

from dpd_train.bases.base import Base, decoder_fits
from dpd_train.classifiers.network import ResNet
from dpd_train.run.context import Parts, Run
from dpd_train.run.stages.judges import points_lost
from dpd_train.vae.perceptual import load_perceptual_networks, perceptual_training, train_perceptual_networks
from dpd_train.vae.tune import tune_decoder

log = logging.getLogger(__name__)
MOST_LOST = 5.0  # percentage points that the teacher may lose on reconstructions by a decoder that is not tuned


def needs_tuning(run: Run, base: Base, teacher: ResNet, pixels: Parts) -> bool:
    """Whether reconstructions cost the teacher too much, and the decoder can be tuned here."""
    lost = points_lost(base, teacher, pixels[1])
    if lost <= MOST_LOST:
        return False
    fits = decoder_fits(base, run.device)
    log.info(
        "the teacher loses %.1f points on reconstructions: the VAE's decoder %s",
        lost,
        "is trained on the images" if fits else "is too large to be trained on a CPU",
    )
    return fits


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
