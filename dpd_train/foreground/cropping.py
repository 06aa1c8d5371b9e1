"""Cut training images to their foreground before they are resized for training."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dpd_runtime.annotations import Images, Int64, Pixels, Progress
from dpd_runtime.errors import InputError
from dpd_train.foreground.foreground import Masks, decide, salient
from dpd_train.foreground.sheet import decisions_sheet
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import Scenes

if TYPE_CHECKING:
    import torch

CROP, LEAVE_OUT = "--crop foreground", "leave --crop out, or give a smaller --resolution"

Stage = Callable[[str], Progress]
"""Title of a stage → its progress, (done, total) → None."""


@dataclass(frozen=True)
class Cropped:
    """Scenes after cropping.

    Args:
        scenes: with patches in place of the images that were cut. picture: some decisions, [H, W, 3].
        record: for run.json: how foreground was found, and how many images were cut.
    """

    scenes: SceneSet
    picture: Pixels
    record: dict[str, object]


def check_segmenter(segmenter: str | None) -> None:
    """Check the segmenter before images are read; None is no segmenter.

    Raises:
        InputError: as `dpd_train.foreground.segmenter.find_segmenter`.
    """
    if segmenter is not None:
        from dpd_train.foreground.segmenter import find_segmenter

        find_segmenter(segmenter)


def describe_segmenter(segmenter: str | None) -> str:
    """The segmenter for records: its models by name and hash, or the spectral residual."""
    if segmenter is None:
        return "spectral residual"
    from dpd_train.foreground.segmenter import find_segmenter

    return find_segmenter(segmenter).description()


def find_foreground(
    segmenter: str | None, images: Images, scenes: SceneSet, stage: Stage, device: "torch.device | str"
) -> Masks:
    """Foreground [n, MAP, MAP] of `images` [n, S, S, 3], the images of `scenes` at their own size.

    Args:
        segmenter: `DINO,SAM2` as in `dpd_train.foreground.segmenter.find_segmenter`; None takes the spectral residual.
    """
    if segmenter is None:
        return salient(images)
    from dpd_train.foreground.segmenter import find_segmenter, segment

    models = find_segmenter(segmenter)
    return segment(models, images, scenes.labels, scenes.classes, device, stage("finding objects"))


def side_to_cut(scenes: Scenes, side: int, who: str = CROP, way_out: str = LEAVE_OUT) -> int:
    """The side of the images of `scenes`, from their headers.

    Args:
        side: of patches. who: option that cuts them, way_out: what to do instead; both for the message.

    Raises:
        InputError: the images are not larger than that.
    """
    own = scenes.side
    if own <= side:
        raise InputError(
            f"{who} cuts patches out of images, and those of {scenes.root} have {own} px, not more than the {side} px "
            f"that are wanted: {way_out}"
        )
    return own


def whole_images(scenes: Scenes, train: SceneSet, who: str = CROP, way_out: str = LEAVE_OUT) -> Images:
    """The images of `train`, of the training part of `scenes`, at their own size: [n, S, S, 3].

    Raises:
        InputError: as `side_to_cut`.
    """
    own = side_to_cut(scenes, int(train.images.shape[1]), who, way_out)
    originals = scenes.part("train", own, keep=False)
    place = {path: row for row, path in enumerate(originals.paths)}
    rows = [place[path] for path in train.paths]
    return originals.images if rows == list(range(len(originals.paths))) else originals.images[rows]


def cropped(
    scenes: Scenes,
    train: SceneSet,
    *,
    segmenter: str | None = None,
    stage: Stage = lambda title: lambda done, total: None,
    device: "torch.device | str" = "cpu",
) -> Cropped:
    """`train`, of the training part of `scenes`, cut as `decide` does without a teacher.

    A patch gets its own hash, so that what is cached for it is not mixed up with its image.

    Raises:
        InputError: as `whole_images`; a segmenter that cannot be used.
    """
    whole = whole_images(scenes, train)
    decisions = decide(whole, train.images, train.labels, find_foreground(segmenter, whole, train, stage, device))
    hashes = list(train.hashes)
    for row in decisions.cut:
        hashes[row] = _patch_hash(hashes[row], decisions.boxes[row])
    picture = decisions_sheet(train.classes, train.labels, whole, decisions, np.arange(len(whole)))
    record = {"foreground": describe_segmenter(segmenter), "images": len(whole), "cut": len(decisions.cut)}
    return Cropped(replace(train, images=decisions.images, hashes=tuple(hashes)), picture, record)


def _patch_hash(image: str, box: Int64) -> str:
    return hashlib.sha256(f"{image} {box.tolist()}".encode()).hexdigest()
