"""The data of a run: its scenes at a size that the base can make, without near duplicates."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpd_runtime.bundle.classes import check_class_name
from dpd_runtime.bundle.names import equal_names
from dpd_runtime.errors import BundleError, DataError, InputError
from dpd_train.bases.base import Base, at_resolution
from dpd_train.config import TrainConfig
from dpd_train.diffusion.fine_tune import is_large
from dpd_train.foreground.cropping import Cropped, Stage, cropped, side_to_cut
from dpd_train.images import (
    Finding,
    Findings,
    Part,
    SceneSet,
    fingerprint,
    hash_test_part,
    look_over,
    parse_reading,
    read_scenes,
)
from dpd_train.images.structure import near_duplicates

log = logging.getLogger(__name__)
PARTS: tuple[Part, Part] = ("train", "val")
LEAST = 2  # training images of a class, as in `read_scenes`
LARGER = 1.5  # images this many times larger than the base's are shrunk only on request


def working_side(name: str, native: int, multiple: int, large: bool, wanted: int | None, images: int) -> int:
    """Side in pixels that a run works at.

    Args:
        name: of the base, for messages. native: side that it makes. multiple: of sides that its networks take.
        large: whether it can be fine-tuned at another size. wanted: `--resolution`.
        images: shorter side of the most common image size.

    Raises:
        InputError: a size that the base does not make, or images so large that shrinking must be requested.
    """
    if wanted is None:
        if images >= LARGER * native:
            raise InputError(
                f"the images are {images} px and base {name!r} makes {native} px: pass --resolution {native} to shrink "
                "them, or a base of that size (for 256 px a Stable Diffusion folder)"
            )
        if large and 2 * images <= native:
            log.warning("images of %d px are enlarged to %d px; --resolution %d is faster", images, native, images)
        return native
    if wanted != native and not large:
        raise InputError(f"--resolution {wanted}: base {name!r} makes {native} px; leave it out or say {native}")
    if wanted % multiple:
        raise InputError(f"--resolution {wanted}: base {name!r} takes multiples of {multiple} px")
    return wanted


def fitted(base: Base, config: TrainConfig, images: int) -> Base:
    """The base at the run's `working_side`, for images of the side `images`. Changes its configs in place."""
    multiple = base.downsampling * 2 ** (len(base.unet.config.block_out_channels) - 1)
    side = working_side(config.base, base.resolution, multiple, is_large(base), config.resolution, images)
    return base if side == base.resolution else at_resolution(base, side)


@dataclass(frozen=True)
class RunData:
    """Training and validation part, and what was found while reading them.

    Args:
        train: without near duplicates. given: `fingerprint` of all training images, near duplicates included, as an
            audit must look for each of them.
        cropped: `train` with patches, their number and a picture; None if all images are whole.
    """

    train: SceneSet
    held: SceneSet
    findings: Findings
    given: dict[str, object]
    cropped: Cropped | None = None


def read_parts(
    data: Path,
    config: TrainConfig,
    side: int,
    device: torch.device | str = "cpu",
    stage: Stage = lambda title: lambda done, total: None,
) -> RunData:
    """Read the parts at `side` pixels and log what the user should know. Of a test part only hashes are read.

    Validation images stay whole with `--crop` too: cutting needs their labels, which images to be classified lack.

    Args:
        device, stage: for a segmenter.

    Raises:
        DataError: unusable data, a class name that no bundle can hold, or a class of near duplicates of one image.
        InputError: `--crop` of images that are not larger.
    """
    reading = parse_reading(config.bands, config.stretch)
    if config.crop is not None:
        side_to_cut(data, side)  # before minutes of decoding
    train, held = (
        read_scenes(data, part=part, resolution=side, val_per_class=config.val_per_class, reading=reading)
        for part in PARTS
    )
    for name in train.classes:
        try:
            check_class_name(name)
        except BundleError as error:
            raise DataError(f"{data}: class folder {name!r} cannot be a class of a bundle; rename it") from error
    equal = equal_names(train.classes)
    if equal is not None:
        raise DataError(f"{data}: classes {equal[0]!r} and {equal[1]!r} are one folder on some systems; rename one")
    given = fingerprint(train)
    near: tuple[Finding, ...] = ()
    if not config.keep_near_duplicates:
        train, near = _without_near_duplicates(data, train)
    findings = look_over({"train": train, "val": held}, {"test": hash_test_part(data, train.rendering)})
    findings = replace(findings, near=near)
    for message in findings.messages():
        log.warning(message)
    if config.crop is None:
        return RunData(train, held, findings, given)
    found = cropped(
        data, train, config.val_per_class, segmenter=config.segmenter, reading=reading, stage=stage, device=device
    )
    return RunData(found.scenes, held, findings, given, found)


def _without_near_duplicates(data: Path, scenes: SceneSet) -> tuple[SceneSet, tuple[Finding, ...]]:
    left_out = near_duplicates(scenes.images, scenes.hashes)
    kept = scenes.only([row for row in range(len(scenes.labels)) if row not in left_out])
    for name, count in zip(scenes.classes, np.bincount(kept.labels, minlength=len(scenes.classes)), strict=True):
        if count < LEAST:
            raise DataError(
                f"{data}: class {name!r} has {count} different images: the others are near duplicates of training "
                f"images, at least {LEAST} needed; add images or pass --keep-near-duplicates"
            )
    names = scenes.paths
    return kept, tuple(Finding("train", names[row], f"left out, near {names[of]}") for row, of in left_out.items())


def rows_by_class(scenes: SceneSet) -> list[np.ndarray[Any, Any]]:
    """Rows of each class's images without copies, as a mean of ten copies would be that image."""
    _, first = np.unique(np.array(scenes.hashes), return_index=True)
    different = np.zeros(len(scenes.labels), bool)
    different[first] = True
    return [np.flatnonzero((scenes.labels == label) & different) for label in range(len(scenes.classes))]
