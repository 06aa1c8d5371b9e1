"""From private images to codes: watchers of public images, one release, starts from public images, matching."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpd_runtime.annotations import Float32, Progress
from dpd_runtime.errors import InputError
from dpd_train.bases.base import Base
from dpd_train.bases.latents import encode
from dpd_train.classifiers.network import Classifier
from dpd_train.classifiers.training import Labelled, labelled
from dpd_train.compute.device import placed
from dpd_train.images import SceneSet
from dpd_train.prototypes.herding import herded
from dpd_train.prototypes.matching import Matching, Watcher, match_codes
from dpd_train.prototypes.private.budget import Budget, suited_width
from dpd_train.prototypes.private.eyes import Eye, Eyes, public_eyes
from dpd_train.prototypes.private.public import public_watchers
from dpd_train.prototypes.private.release import ANOTHER, Release, read_release, release

CANDIDATES = 1000  # public images that codes may start from, at least, if there are so many; evenly spaced
MEASURED = 2000  # likewise public images that scales and limits come from
Stages = Callable[[str], Progress]


@dataclass(frozen=True)
class PrivateCodes:
    """Matched codes [classes, K, C, h, w], and the release that they were matched to."""

    codes: Float32
    release: Release


@dataclass(frozen=True, kw_only=True)
class PrivateInputs:
    """What codes are made from.

    Args:
        private: gives the private images [n, 3, H, W] in [-1, 1] with labels; called once, and not after the release.
        counts: private images of each class, which are public.
        public: images at the base's size that nobody has to protect, with labels of their own.
        base: that has not seen the private images.
        folder: for everything that a later session needs. It never holds a private image.
    """

    private: Callable[[], Labelled]
    counts: tuple[int, ...]
    public: SceneSet
    base: Base
    folder: Path


def private_codes(
    inputs: PrivateInputs, budget: Budget, matching: Matching, ipc: int, stage: Stages, *, device: torch.device
) -> PrivateCodes:
    """Make `ipc` codes of each class, or go on where an earlier session was killed.

    The statistics are released once. They are stored in one step as soon as the noise is added, and a later session
    reads them and no private image: two releases of the same images with other noise could be averaged, and would cost
    √2 μ. A session that is killed before they are stored has shown nothing to anybody.

    Args:
        matching: its seed also decides watchers, projections and starts; noise has none.

    Raises:
        InputError: the stored release is damaged, or missing although codes have been matched to it.
    """
    path, state, scenes = inputs.folder / "release.safetensors", inputs.folder / "matching.safetensors", inputs.public
    if state.exists() and not path.exists():
        raise InputError(f"{path}: is missing, and codes have been matched to it; {ANOTHER}")
    networks = public_watchers(inputs.folder, scenes, matching.seed, stage("public watchers"), device=device)
    if not path.exists():
        pixels, width = labelled(_spread(scenes, MEASURED)), suited_width(budget, min(inputs.counts))
        eyes = public_eyes(networks, *pixels, len(scenes.classes), width, matching.seed)
        progress = stage("release")
        release(eyes, *inputs.private(), len(inputs.counts), budget, progress=progress).save(path)
    found = read_release(path, device)
    start = _starts(inputs, networks, found, ipc, stage("starting images"), device)
    pairs = zip(networks, found.statistics, strict=True)
    watchers = [Watcher(network, own.uncut(), judges=False) for network, own in pairs]
    base, scale = inputs.base, float(inputs.base.vae.config.scaling_factor)
    base.vae.requires_grad_(False)
    with placed(base.vae, device):
        codes = match_codes(
            start,
            lambda codes: base.vae.decode(codes / scale).sample,
            watchers,
            matching,
            stage("matching"),
            state=state,
            device=device,
        )
    return PrivateCodes(codes.numpy(), found)


def _spread(scenes: SceneSet, least: int) -> SceneSet:
    """At least so many images, evenly spaced, or all if there are fewer."""
    return scenes.only(np.arange(0, len(scenes.labels), max(1, len(scenes.labels) // least)))


def _starts(
    inputs: PrivateInputs,
    networks: list[Classifier],
    found: Release,
    ipc: int,
    progress: Progress,
    device: torch.device,
) -> torch.Tensor:
    """Latents [classes, ipc, C, h, w] of those public images whose mean comes nearest to what was released."""
    some = _spread(inputs.public, max(CANDIDATES, ipc))
    pairs = zip(networks, found.statistics, strict=True)
    eyes = Eyes(tuple(Eye(network, own.standard) for network, own in pairs), math.inf, device)
    vectors = eyes.views(labelled(some)[0]).mean(0)
    parts = zip(eyes.of, found.statistics, strict=True)
    means = torch.cat([own.class_means.cpu().double() / eye.limit for eye, own in parts], dim=1)
    codes = []
    for number, mean in enumerate(means):
        rows = herded(vectors.numpy(), mean.numpy(), ipc)
        codes.append(encode(inputs.base.vae, some.images[rows], device=device))
        progress(number + 1, len(means))
    return torch.stack(codes) * float(inputs.base.vae.config.scaling_factor)
