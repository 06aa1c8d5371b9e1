"""The data of a run: its scenes at a size that the base can make, without near duplicates."""

import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpd_runtime.bundle.classes import check_class_name
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
    common_size,
    fingerprint,
    hash_test_part,
    image_sizes,
    look_over,
    parse_reading,
    read_scenes,
)
from dpd_train.images.structure import near_duplicates

log = logging.getLogger(__name__)
PARTS: tuple[Part, Part] = ("train", "val")
LEAST = 2  # training images of a class, as in `read_scenes`


def working_side(name: str, native: int, multiple: int, wanted: int | None) -> int:
    """Side in pixels that a run works at: `wanted`, or else the base's own.

    Args:
        name: of the base, for messages. native: side that it makes. multiple: of sides that its networks take.
        wanted: `--resolution`.

    Raises:
        InputError: a side that the base's networks cannot take.
    """
    if wanted is None:
        return native
    if wanted % multiple:
        raise InputError(f"--resolution {wanted}: base {name!r} takes multiples of {multiple} px")
    return wanted


def resizing(sizes: Counter[tuple[int, int]], side: int, base: str) -> str | None:
    """Say that images are brought to the side of the base `base`; None if all of them have it.

    Args:
        sizes: number of images of each (width, height), at least one.
    """
    if set(sizes) == {(side, side)}:
        return None
    width, height = common_size(sizes)
    others = len(sizes) - 1
    more = f" and {others} other size{'s' * (others > 1)}" if others else ""
    square = "" if all(w == h for w, h in sizes) else "cut to their middle square and "
    return (
        f"images of {width} x {height}{more} are {square}resized to {side} x {side}, the size of base {base}; "
        "--resolution asks for another"
    )


def fitted(base: Base, config: TrainConfig) -> Base:
    """The base at the run's `working_side`. Changes its configs in place."""
    multiple = base.downsampling * 2 ** (len(base.unet.config.block_out_channels) - 1)
    side = working_side(config.base, base.resolution, multiple, config.resolution)
    if side == base.resolution:
        return base
    if not is_large(base):
        log.warning(
            "base %s was trained at %d px: its sampled images may be worse at %d px, a step takes %.2g times as long",
            config.base,
            base.resolution,
            side,
            (side / base.resolution) ** 2,
        )
    return at_resolution(base, side)


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
    elif config.resolution is None and (told := resizing(image_sizes(data), side, config.base)):
        log.info(told)
    train, held = (
        read_scenes(data, part=part, resolution=side, val_per_class=config.val_per_class, reading=reading)
        for part in PARTS
    )
    for name in train.classes:
        try:
            check_class_name(name)
        except BundleError as error:
            raise DataError(f"{data}: class folder {name!r} cannot be a class of a bundle; rename it") from error
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
