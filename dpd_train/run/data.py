"""The data of a run: its scenes at a size that the base can make, without near duplicates."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpd_runtime.errors import DataError
from dpd_train.bases.base import Base, at_resolution, is_large
from dpd_train.config import TrainConfig
from dpd_train.foreground.cropping import Cropped, Stage, cropped, side_to_cut
from dpd_train.held_out import LEAST
from dpd_train.images import (
    Finding,
    Findings,
    SceneSet,
    fingerprint,
    hash_part,
    image_sizes,
    look_over,
    read_scenes,
)
from dpd_train.images.structure import near_duplicates
from dpd_train.remarks import SceneSides, sides_of
from dpd_train.run.folder import PARTS, check_classes, fate_of_scenes, working_side

log = logging.getLogger(__name__)


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
        train: without near duplicates.
        fingerprint: `images.fingerprint` of all training images, near duplicates included, as an audit must look for
            each of them.
        cropped: `train` with patches, their number and a picture; None if all images are whole.
        sides: of the files with training images, held-out ones included.
    """

    train: SceneSet
    held: SceneSet
    findings: Findings
    fingerprint: dict[str, object]
    sides: SceneSides
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
    reading, sides = config.reading, sides_of(image_sizes(data))
    if config.crop is not None:
        side_to_cut(data, side)  # before minutes of decoding
    else:
        for line in fate_of_scenes(sides, config.base, config.resolution, side):
            log.info(line)
    train, held = (read_scenes(data, part=part, resolution=side, held_out=config, reading=reading) for part in PARTS)
    check_classes(data, train.classes)
    of_all = fingerprint(train)
    near: tuple[Finding, ...] = ()
    if config.keep_near_duplicates:
        train = _with_scenes(train)
    else:
        train, near = _without_near_duplicates(data, train)
    findings = look_over({"train": train, "val": held}, {"test": hash_part(data, "test", train.rendering)})
    findings = replace(findings, near=near)
    for message in findings.messages():
        log.warning(message)
    if config.crop is None:
        return RunData(train, held, findings, of_all, sides)
    cut = cropped(data, train, config, segmenter=config.segmenter, reading=reading, stage=stage, device=device)
    return RunData(cut.scenes, held, findings, of_all, sides, cut)


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


def _with_scenes(scenes: SceneSet) -> SceneSet:
    """The images with their scenes, where all are trained on."""
    first = near_duplicates(scenes.images, scenes.hashes)
    return replace(scenes, scenes=tuple(scenes.hashes[first.get(row, row)] for row in range(len(scenes.hashes))))


def rows_by_class(scenes: SceneSet) -> list[np.ndarray[Any, Any]]:
    """Rows of each class's images, one of each scene, as a mean of ten copies would be that image."""
    _, first = np.unique(np.array(scenes.scenes or scenes.hashes), return_index=True)
    different = np.zeros(len(scenes.labels), bool)
    different[first] = True
    return [np.flatnonzero((scenes.labels == label) & different) for label in range(len(scenes.classes))]
