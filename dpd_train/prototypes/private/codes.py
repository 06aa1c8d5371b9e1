"""From private images to codes: watchers of public images, one release, a decoder and starts for it, matching."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpd_runtime.annotations import Float32, Progress
from dpd_runtime.errors import InputError
from dpd_runtime.sampling.sample import to_uint8
from dpd_train.bases.base import Base
from dpd_train.bases.latents import encode
from dpd_train.classifiers.network import ResNet
from dpd_train.classifiers.training import Labelled, labelled
from dpd_train.compute.device import placed
from dpd_train.images import SceneSet
from dpd_train.prototypes.matching import Matching, Watcher, match_codes, seeing
from dpd_train.prototypes.private.budget import Budget, suited_width
from dpd_train.prototypes.private.candidates import Candidates
from dpd_train.prototypes.private.classifier import ReleasedClassifier
from dpd_train.prototypes.private.decoder import tuned_base
from dpd_train.prototypes.private.limited_watchers import LimitedWatchers, limited_watchers, see_appearance
from dpd_train.prototypes.private.public import public_watchers
from dpd_train.prototypes.private.release import ANOTHER, Release, read_release, release
from dpd_train.prototypes.private.starts import chosen_starts

MEASURED = 2000  # public images that scales and limits come from, at least, if there are so many; evenly spaced
RELEASE, DECODER_STATE, MATCHING_STATE = "release.safetensors", "decoder.safetensors", "matching.safetensors"
Stages = Callable[[str], Progress]


@dataclass(frozen=True)
class PrivateCodes:
    """Matched codes [classes, K, C, h, w], the base that decodes them, the release that they were matched to, and a
    classifier from that release."""

    codes: Float32
    base: Base
    release: Release
    classifier: ReleasedClassifier


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
        matching: its seed also decides watchers, projections, decoder and starts; noise has none.

    Raises:
        InputError: the stored release is damaged, or missing although later stages have used it.
    """
    _check_not_lost(inputs.folder)
    networks = public_watchers(inputs.folder, inputs.public, matching.seed, stage("public watchers"), device=device)
    released = _released(inputs, networks, budget, matching.seed, stage, device)
    candidates, seed = Candidates(released, labelled(inputs.public)[0]), matching.seed
    learned, progress = inputs.folder / DECODER_STATE, stage("decoder")
    base = tuned_base(inputs.base, candidates, len(released.counts), networks, seed, learned, progress, device=device)
    first = chosen_starts(networks, released, candidates, ipc, seed, stage("starting images"), device=device)
    start, scale = _encoded(base, first, device), float(base.vae.config.scaling_factor)
    pairs = zip(networks, released.watched, strict=True)
    watchers = [Watcher(seeing(network, logits=False), own.uncut()) for network, own in pairs]
    watchers.append(Watcher(see_appearance, released.appearance.uncut(), extra=True))
    with placed(base.vae, device):
        codes = match_codes(
            start,
            lambda codes: base.vae.decode(codes / scale).sample,
            watchers,
            matching,
            stage("matching"),
            state=inputs.folder / MATCHING_STATE,
            device=device,
        )
    return PrivateCodes(codes.numpy(), base, released, ReleasedClassifier(networks, released).eval())


def _check_not_lost(folder: Path) -> None:
    if any((folder / later).exists() for later in (DECODER_STATE, MATCHING_STATE)) and not (folder / RELEASE).exists():
        raise InputError(f"{folder / RELEASE}: is missing, and later stages have used it; {ANOTHER}")


def _released(
    inputs: PrivateInputs, networks: Sequence[ResNet], budget: Budget, seed: int, stage: Stages, device: torch.device
) -> Release:
    """What was released, now or in an earlier session."""
    path = inputs.folder / RELEASE
    if not path.exists():
        watchers = suited_watchers(inputs.public, networks, budget, min(inputs.counts), seed)
        progress = stage("release")
        release(watchers, *inputs.private(), len(inputs.counts), budget, progress=progress).save(path)
    return read_release(path, device)


def suited_watchers(
    public: SceneSet, networks: Sequence[ResNet], budget: Budget, fewest: int, seed: int
) -> LimitedWatchers:
    """What measures private images: as many values as suit the budget and the smallest class."""
    pixels, width = labelled(_spread(public, MEASURED)), suited_width(budget, fewest)
    return limited_watchers(networks, *pixels, len(public.classes), width, seed)


def _spread(scenes: SceneSet, least: int) -> SceneSet:
    """At least so many images, evenly spaced, or all if there are fewer."""
    return scenes.only(np.arange(0, len(scenes.labels), max(1, len(scenes.labels) // least)))


def _encoded(base: Base, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Scaled latents [classes, ipc, C, h, w] of images [classes, ipc, 3, H, W] in [-1, 1]."""
    codes = encode(base.vae, to_uint8(images.flatten(0, 1).numpy()), device=device)
    return codes.view(*images.shape[:2], *codes.shape[1:]) * float(base.vae.config.scaling_factor)
