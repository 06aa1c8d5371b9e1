"""The decoder for images that look like the private ones: tuned on public images in the released colours.

What follows the release costs no privacy. A decoder that has seen other scenes alone gives the private classes' colours
and fine contrasts badly, and matching in networks does not mend that (docs/results/privacy.md).
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dpd_runtime.annotations import Progress
from dpd_runtime.sampling.sample import to_uint8
from dpd_train.bases.base import Base
from dpd_train.classifiers.network import ResNet
from dpd_train.compute.checkpoint import step_generator
from dpd_train.prototypes.private.candidates import Candidates
from dpd_train.vae.autoencoder import train_autoencoder
from dpd_train.vae.tune import DECODER

IMAGES, HELD = 3000, 100  # over all classes: that the decoder learns from, and that its log is about
STEPS, RATE, APPEARANCE = 1000, 4e-4, 2.0


def tuned_base(
    base: Base,
    candidates: Candidates,
    classes: int,
    networks: Sequence[ResNet],
    seed: int,
    state: Path,
    progress: Progress,
    *,
    device: torch.device,
) -> Base:
    """The base with a VAE tuned on candidates of all classes, and frozen.

    Args:
        networks: of the perceptual loss, trained on public images.
        state: file for the state, read if it exists.
    """
    each = -(-(IMAGES + HELD) // classes)
    drawn = [candidates.draw(label, each, step_generator(seed, label))[0] for label in range(classes)]
    pixels = torch.from_numpy(to_uint8(torch.cat(drawn).numpy()))
    held = torch.zeros(len(pixels), dtype=torch.bool)
    held[:: len(pixels) // HELD] = True
    training = replace(DECODER, steps=STEPS, peak_rate=RATE, appearance_weight=APPEARANCE, seed=seed + 1)
    vae = copy.deepcopy(base.vae).requires_grad_()
    train_autoencoder(vae, pixels[~held], pixels[held], training, state, networks, progress=progress, device=device)
    vae.zero_grad()  # an export to half precision would take the gradients along
    return replace(base, vae=vae.requires_grad_(False))
