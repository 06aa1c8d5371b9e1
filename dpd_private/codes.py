"""From private images to codes: watchers of public images, one release, images chosen by it, a decoder for them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpd_private.budget import Budget, suited_width
from dpd_private.choice import Candidates, chosen_images
from dpd_private.classifier import ReleasedClassifier
from dpd_private.decoder import tuned_base
from dpd_private.limited_watchers import LimitedWatchers, limited_watchers
from dpd_private.public import public_watchers
from dpd_private.release import ANOTHER, Release, read_release, release
from dpd_runtime.annotations import Float32, Images, Progress
from dpd_runtime.errors import InputError
from dpd_train.bases import Base, encode
from dpd_train.classifiers import Labelled, labelled
from dpd_train.compute import load_state, save_state
from dpd_train.networks import ResNet
from dpd_train.scene_set import SceneSet

MEASURED = 2000  # public images that scales and limits come from, if there are so many
RELEASE, CHOSEN, DECODER_STATE = "release.safetensors", "chosen.safetensors", "decoder.safetensors"
Stages = Callable[[str], Progress]


@dataclass(frozen=True)
class PrivateCodes:
    """Codes [classes, K, C, h, w], the base that decodes them, the release that chose their images, and a classifier
    from that release."""

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
    inputs: PrivateInputs, budget: Budget, ipc: int, seed: int, stage: Stages, *, device: torch.device
) -> PrivateCodes:
    """Make `ipc` codes of each class, or go on where an earlier session was killed.

    The statistics are released once. They are stored in one step as soon as the noise is added, and a later session
    reads them and no private image: two releases of the same images with other noise could be averaged, and would cost
    √2 μ. A session that is killed before they are stored has shown nothing to anybody.

    Args:
        seed: of watchers, projections, candidates and decoder; noise has none.

    Raises:
        InputError: the stored release is damaged, or missing although later stages have used it.
    """
    _check_not_lost(inputs.folder)
    networks = public_watchers(inputs.folder, inputs.public, seed, stage("public watchers"), device=device)
    released = _released(inputs, networks, budget, seed, stage, device)
    images = _chosen(inputs, networks, released, ipc, seed, stage, device)
    learned, progress = inputs.folder / DECODER_STATE, stage("decoder")
    base = tuned_base(inputs.base, np.concatenate(images), networks, seed, learned, progress, device=device)
    latents = encode(base.vae, np.concatenate(images), device=device)
    codes = latents.view(*images.shape[:2], *latents.shape[1:]) * float(base.vae.config.scaling_factor)
    on_cpu = [copy.deepcopy(network).cpu() for network in networks]  # it becomes a graph
    return PrivateCodes(codes.numpy(), base, released, ReleasedClassifier(on_cpu, released).eval())


def _chosen(
    inputs: PrivateInputs,
    networks: Sequence[ResNet],
    released: Release,
    ipc: int,
    seed: int,
    stage: Stages,
    device: torch.device,
) -> Images:
    """The set's images [classes, ipc, H, W, 3], chosen now or in an earlier session."""
    path = inputs.folder / CHOSEN
    if not path.exists():
        candidates, progress = Candidates(released, labelled(inputs.public)[0]), stage("choosing images")
        images = chosen_images(networks, released, candidates, ipc, seed, progress, device=device)
        save_state(path, {"images": torch.from_numpy(images)}, {})
    stored: Images = load_state(path)[0]["images"].numpy()
    return stored


def _check_not_lost(folder: Path) -> None:
    if any((folder / later).exists() for later in (CHOSEN, DECODER_STATE)) and not (folder / RELEASE).exists():
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
    """So many images, or all if there are fewer; evenly spaced, but not by a whole number: crops come in an order."""
    count = len(scenes.labels)
    return scenes.only(np.linspace(0, count - 1, min(count, least)).astype(np.int64))
