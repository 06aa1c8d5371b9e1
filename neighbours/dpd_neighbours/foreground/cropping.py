"""Cut training images to their foreground before they are resized for training."""

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dpd_neighbours.foreground.decisions import Masks, decide, salient
from dpd_neighbours.foreground.models import Models
from dpd_neighbours.foreground.sheet import decisions_sheet
from dpd_runtime.annotations import Images, Int64
from dpd_runtime.errors import InputError
from dpd_train.samples import Look, Stage, Taken
from dpd_train.scene_set import SceneSet
from dpd_train.scenes import Scenes

if TYPE_CHECKING:
    import torch

OPTION, LEAVE_OUT = "--samples foreground", "leave foreground out, or give a smaller --resolution"


def described(models: Models | None) -> str:
    """What finds objects, for records: models by name and hash, or the spectral residual."""
    return "spectral residual" if models is None else models.description()


def find_foreground(
    models: Models | None, images: Images, scenes: SceneSet, stage: Stage, device: "torch.device | str"
) -> Masks:
    """Foreground [n, MAP, MAP] of `images` [n, S, S, 3], the images of `scenes` at their own size.

    Args:
        models: None takes the spectral residual.
    """
    if models is None:
        return salient(images)
    from dpd_neighbours.foreground.models import segment

    return segment(models, images, scenes.labels, scenes.classes, device, stage("finding objects"))


def side_to_cut(scenes: Scenes, side: int, who: str = OPTION, way_out: str = LEAVE_OUT) -> int:
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


def whole_images(scenes: Scenes, train: SceneSet, who: str = OPTION, way_out: str = LEAVE_OUT) -> Images:
    """The images of `train`, of the training part of `scenes`, at their own size: [n, S, S, 3].

    Raises:
        InputError: as `side_to_cut`.
    """
    own = side_to_cut(scenes, int(train.images.shape[1]), who, way_out)
    originals = scenes.part("train", own, keep=False)
    place = {path: row for row, path in enumerate(originals.paths)}
    rows = [place[path] for path in train.paths]
    return originals.images if rows == list(range(len(originals.paths))) else originals.images[rows]


def cropped(look: Look, models: Models | None) -> Taken:
    """The training images, cut as `decide` does without a teacher.

    A patch gets its own hash, so that what is cached for it is not mixed up with its image.

    Raises:
        InputError: as `whole_images`; models that cannot be used.
    """
    train = look.train
    whole = whole_images(look.scenes, train)
    masks = find_foreground(models, whole, train, look.stage, look.device)
    decisions = decide(whole, train.images, train.labels, masks)
    hashes = list(train.hashes)
    for row in decisions.cut:
        hashes[row] = _patch_hash(hashes[row], decisions.boxes[row])
    return Taken(
        train=replace(train, images=decisions.images, hashes=tuple(hashes)),
        record={"crop": {"foreground": described(models), "images": len(whole), "cut": len(decisions.cut)}},
        picture=decisions_sheet(train.classes, train.labels, whole, decisions, np.arange(len(whole))),
    )


def _patch_hash(image: str, box: Int64) -> str:
    return hashlib.sha256(f"{image} {box.tolist()}".encode()).hexdigest()
