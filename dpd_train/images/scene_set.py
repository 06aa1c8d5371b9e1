"""The images of one part in memory, and what a run may say about them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from dpd_train.images.rendering import Rendering

Part = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class Rejected:
    """A file with an image's name that could not be used: path relative to the data folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class SceneSet:
    """Images of one part, ordered by class and then by file name.

    classes   names, sorted as strings; labels index them
    images    uint8 [n, H, W, 3], RGB, square
    labels    int64 [n]
    hashes    n of them: sha256 (hex) of each file's bytes; where `rendering` is set, `rendering.identity` of them
    rejected  files that were left out
    paths     of each image, relative to the data folder; private, for run/private/ only
    rendering how bands and values became RGB; None for images that bring their own colours
    outside   those of `paths` which are links to files outside the data folder
    """

    classes: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    hashes: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    paths: tuple[str, ...] = ()
    rendering: Rendering | None = None
    outside: tuple[str, ...] = ()

    def only(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> "SceneSet":
        """The images of these rows."""
        hashes, paths = (tuple(values[row] for row in rows if values) for values in (self.hashes, self.paths))
        return replace(self, images=self.images[rows], labels=self.labels[rows], hashes=hashes, paths=paths)


def fingerprint(scenes: SceneSet) -> dict[str, object]:
    """What run.json may say about the data: {"images": n, "classes": {name: count}, "sha256": hex}, no file names.

    sha256 is over the sorted content hashes, one a line, and so does not depend on names, folders or order. Data read
    with bands or a stretch has "rendering" in addition.
    """
    counts = np.bincount(scenes.labels, minlength=len(scenes.classes))
    found: dict[str, object] = {
        "images": len(scenes.labels),
        "classes": {name: int(count) for name, count in zip(scenes.classes, counts, strict=True)},
        "sha256": hashlib.sha256("\n".join(sorted(scenes.hashes)).encode()).hexdigest(),
    }
    return found if scenes.rendering is None else found | {"rendering": scenes.rendering.record()}


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
