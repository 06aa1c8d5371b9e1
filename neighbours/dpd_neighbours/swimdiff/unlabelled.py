"""Images without their labels: pixels, the scene that each one shows, and an order that no name decides."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpd_runtime.annotations import Images, Int64
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.images import SUFFIXES, alike, pillow_rgb, read_square, size_in_header
from dpd_runtime.text import printable
from dpd_train.pool import Sources, check_sources, read_pool
from dpd_train.scene_set import SceneSet, equal_shares, fingerprint, multi_scale
from dpd_train.scenes import common_size
from dpd_train.sources import subfolders

if TYPE_CHECKING:
    import torch


log = logging.getLogger(__name__)
FEWEST = 2


@dataclass(frozen=True)
class Unlabelled:
    """Images in the order of their content hashes, so that folder and file names change nothing.

    Args:
        images: uint8 [n, S, S, 3].
        scenes: [n] int64; equal for crops of one image, for copies, and for images that a chain of near duplicates
            joins.
        weights: as in `Pool`. record: what features.json may say about them.
    """

    images: Images
    scenes: Int64
    weights: "torch.Tensor | None"
    record: dict[str, object]


def check_images(sources: Sources) -> None:
    """Check the images of `sources` before any is opened.

    Raises:
        InputError, DataError: as `read_unlabelled`.
    """
    flat = _flat_folder(sources)
    if flat is None:
        check_sources(sources)
    elif (sources.val_per_class, sources.split, sources.shares) != (None, "content", None):
        raise InputError(
            f"{sources.data[0]}: holds images without class folders, so --val-per-class, --split and --shares have no "
            "effect; leave them out"
        )
    elif len(_files(flat)) < FEWEST:
        raise DataError(f"{flat}: holds one image; at least {FEWEST} needed")


def read_unlabelled(sources: Sources) -> Unlabelled:
    """Read the training images. Class folders only say which images are held out for validation.

    One of `data` may also be a folder with images directly inside; all of them are used.

    Raises:
        InputError, DataError: the numbers do not fit the sources, or as `read_scenes` does.
    """
    import torch

    check_images(sources)
    flat = _flat_folder(sources)
    if flat is None:
        pool = read_pool(sources)
        scenes, of_image, weights = pool.train, pool.of_image, pool.weights
        record = {name: value for name, value in pool.record.items() if name != "classes"}
    else:
        scenes, of_image, levels = _read_flat(flat, sources)
        weights = None if sources.crops is None else torch.from_numpy(equal_shares(levels))
        record = {name: value for name, value in fingerprint(scenes).items() if name != "classes"}
    order = np.argsort(np.array(scenes.hashes), kind="stable")
    of_scene = _scenes(scenes, of_image)[order]
    sorted_weights = None if weights is None else weights[torch.from_numpy(order)]
    return Unlabelled(scenes.images[order], of_scene, sorted_weights, record | {"scenes": len(np.unique(of_scene))})


def _scenes(scenes: SceneSet, of_image: Int64) -> Int64:
    """The scene of each row: the number, in the order of hashes, of the first image of its image's near group."""
    from dpd_train.symmetry import near_groups  # loads PyTorch

    numbers, whole = np.unique(of_image, return_index=True)  # the first row of an image is the whole of it
    ranks = np.argsort(np.array(scenes.hashes)[whole], kind="stable")
    ordered = whole[ranks]
    scene = np.empty(len(numbers), np.int64)
    scene[ranks] = near_groups(scenes.images[ordered], [scenes.hashes[row] for row in ordered])
    of_row: Int64 = scene[np.searchsorted(numbers, of_image)]
    return of_row


def _flat_folder(sources: Sources) -> Path | None:
    """The folder of `sources` if it is one alone, with images directly inside and no folders; else None."""
    path = Path(sources.data[0])
    if len(sources.data) > 1 or not path.is_dir():
        return None
    try:
        return None if subfolders(path) or not _files(path) else path
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror or error})") from error


def _files(folder: Path) -> list[Path]:
    return sorted(
        entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    )


def _read_flat(folder: Path, sources: Sources) -> tuple[SceneSet, Int64, Int64]:
    """The images of a folder without classes, the image of each row, and its scale."""
    files, side = _files(folder), sources.resolution
    if sources.crops is not None:
        sizes = Counter(size for size in map(size_in_header, files) if size is not None)
        side = max(side, min(common_size(sizes))) if sizes else side
    images, hashes, together = [], [], alike(files)
    if together.note:
        log.warning(together.note)
    for path in files:
        square = read_square(path, side, partial(pillow_rgb, files=together))
        if isinstance(square, str):
            log.warning("%s left out: %s", printable(path.name), square)
            continue
        images.append(square[1])
        hashes.append(hashlib.sha256(square[0]).hexdigest())
    if len(images) < FEWEST:
        raise DataError(f"{folder}: {len(images)} of {len(files)} image files can be read; at least {FEWEST} needed")
    scenes = SceneSet(("",), np.stack(images), np.zeros(len(images), np.int64), tuple(hashes), ())
    if sources.crops is None or side == sources.resolution:
        return scenes, np.arange(len(images)), np.zeros(len(images), np.int64)
    cut, levels, of_image = multi_scale(scenes, sources.resolution, sources.seed, sources.crops)
    return cut, of_image, levels
