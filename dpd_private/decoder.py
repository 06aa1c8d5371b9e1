"""The decoder of a set with a guarantee: tuned on the images that were chosen for it, which are public ones.

What follows the release costs no privacy. A decoder that has seen other scenes alone gives their colours and fine
contrasts badly.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dpd_runtime.annotations import Images, Progress
from dpd_train.bases import Base
from dpd_train.networks import ResNet
from dpd_train.vae import DECODER, train_autoencoder

HELD = 100  # images that the log is about
STEPS, RATE, APPEARANCE = 1000, 4e-4, 2.0


def tuned_base(
    base: Base,
    images: Images,
    networks: Sequence[ResNet],
    seed: int,
    state: Path,
    progress: Progress,
    *,
    device: torch.device,
) -> Base:
    """The base with a VAE tuned on images [n, H, W, 3], and frozen.

    Args:
        networks: of the perceptual loss, trained on public images.
        state: file for the state, read if it exists.
    """
    pixels = torch.from_numpy(images)
    training = replace(DECODER, steps=STEPS, peak_rate=RATE, appearance_weight=APPEARANCE, seed=seed + 1)
    vae = copy.deepcopy(base.vae).requires_grad_()
    some = pixels[:: max(1, len(pixels) // HELD)]
    train_autoencoder(vae, pixels, some, training, state, networks, progress=progress, device=device)
    vae.zero_grad()  # an export to half precision would take the gradients along
    return replace(base, vae=vae.requires_grad_(False))
