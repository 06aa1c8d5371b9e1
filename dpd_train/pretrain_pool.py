"""What a base learns from: one pool of one or several folders and of drawn scenes, with a weight for each image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from dpd_runtime.errors import InputError
from dpd_train.attributes import class_words
from dpd_train.images import SceneSet, fingerprint, natural_side, read_scenes
from dpd_train.multi_scale import ONE_OF_EACH, Crops, equal_shares, multi_scale
from dpd_train.scenes import CLASSES, numbered_scene

DRAWN = "drawn:"  # and a number: so many drawn scenes of each class, in place of a folder
PARTS = ("train", "val", "test")  # names of folders that say nothing of the data in them
Part = Literal["train", "val"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where images come from, and how they are shared out.

    data: folders or lists as `read_scenes` takes them, or drawn:N.
    val_per_class: one number for all of `data` or one for each; see `read_scenes`.
    shares: of each source in all draws, up to a factor; None: in proportion to the root of its number of images, so
    that a small set counts for more than its number and is not learnt by heart.
    crops: of images larger than the resolution; None: they are resized as wholes.
    """

    data: tuple[str, ...]
    resolution: int
    val_per_class: int | tuple[int, ...] | None = None
    shares: tuple[float, ...] | None = None
    crops: Crops | None = None
    seed: int = 0


@dataclass(frozen=True)
class Pool:
    """All sources, one after the other: labels count their classes through.

    weights: [n] float64 of the training images, sum 1; None: all alike.
    held_of: the rows of `held` that are each source's, by its name.
    record: what pretrain.json may say of the data.
    """

    train: SceneSet
    held: SceneSet
    weights: torch.Tensor | None
    held_of: dict[str, slice]
    record: dict[str, object]


def read_pool(sources: Sources) -> Pool:
    """Read or draw everything. One source without crops is what `read_scenes` makes of it, without weights.

    Raises:
        InputError: numbers that do not go with the sources. DataError: as `read_scenes`.
    """
    _check(sources)
    names = _names(sources.data)
    held_out = sources.val_per_class
    read = [
        _read(place, held_out[i] if isinstance(held_out, tuple) else held_out, sources)
        for i, place in enumerate(sources.data)
    ]
    train, held = _joined([one.train for one in read], names), _joined([one.held for one in read], names)
    ends = np.cumsum([0, *(len(one.held.labels) for one in read)]).tolist()
    held_of = {name: slice(*ends[i : i + 2]) for i, name in enumerate(names)}
    if len(read) == 1 and sources.crops is None:
        return Pool(train, held, None, held_of, fingerprint(train))
    shares = np.array(sources.shares or [one.images**0.5 for one in read], np.float64)
    shares /= shares.sum()
    weights = np.concatenate([share * equal_shares(one.levels) for share, one in zip(shares, read, strict=True)])
    told = [
        {
            "name": place if place.startswith(DRAWN) else name,
            "images": one.images,
            "rows": len(one.levels),
            "share": round(float(share), 4),
        }
        for place, name, one, share in zip(sources.data, names, read, shares, strict=True)
    ]
    return Pool(train, held, torch.from_numpy(weights), held_of, fingerprint(train) | {"sources": told})


@dataclass(frozen=True)
class _Read:
    """One source. images: how many before they were cropped; levels: the scale of each training row."""

    train: SceneSet
    held: SceneSet
    images: int
    levels: npt.NDArray[np.int64]


def _read(place: str, held_out: int | None, sources: Sources) -> _Read:
    resolution, crops, seed = sources.resolution, sources.crops, sources.seed
    if place.startswith(DRAWN):
        train, held = _drawn(place, held_out, resolution, seed)
        return _Read(train, held, len(train.labels), np.zeros(len(train.labels), np.int64))
    side = max(resolution, natural_side(Path(place))) if crops else resolution
    train, held = (
        read_scenes(Path(place), part=part, resolution=side, val_per_class=held_out) for part in ("train", "val")
    )
    images, levels = len(train.labels), np.zeros(len(train.labels), np.int64)
    if crops is not None and side > resolution:
        train, levels = multi_scale(train, resolution, seed, crops)
        held, _ = multi_scale(held, resolution, seed, ONE_OF_EACH)
    return _Read(train, held, images, levels)


def _drawn(place: str, held_out: int | None, resolution: int, seed: int) -> tuple[SceneSet, SceneSet]:
    """The last of each class are held out, as with files."""
    count = int(place.removeprefix(DRAWN))
    held_out = max(1, count // 10) if held_out is None else held_out
    if count - held_out < 2 or held_out < 1:
        raise InputError(
            f"{place}: with {held_out} of each class for validation {count - held_out} are left; draw more"
        )
    parts = []
    for numbers in (range(count - held_out), range(count - held_out, count)):
        tiles = [numbered_scene(label, i, seed, resolution) for label in range(len(CLASSES)) for i in numbers]
        labels = np.repeat(np.arange(len(CLASSES)), len(numbers))
        hashes = tuple(hashlib.sha256(tile.tobytes()).hexdigest() for tile in tiles)
        parts.append(SceneSet(CLASSES, np.stack(tiles), labels, hashes, ()))
    return parts[0], parts[1]


def _joined(parts: Sequence[SceneSet], names: Sequence[str]) -> SceneSet:
    """One set. A class whose words an earlier source has already gets its source's name behind its own."""
    if len(parts) == 1:
        return parts[0]
    classes: list[str] = []
    taken: set[str] = set()
    for part, source in zip(parts, names, strict=True):
        for name in part.classes:
            while class_words(name) in taken:
                name = f"{name} {source}"
            classes.append(name)
            taken.add(class_words(name))
    starts = np.cumsum([0, *(len(part.classes) for part in parts[:-1])])
    return replace(
        parts[0],
        classes=tuple(classes),
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels + start for part, start in zip(parts, starts, strict=True)]),
        hashes=tuple(digest for part in parts for digest in part.hashes),
        rejected=tuple(entry for part in parts for entry in part.rejected),
        paths=(),
        outside=tuple(path for part in parts for path in part.outside),
    )


def _names(data: Sequence[str]) -> list[str]:
    """Of each source, after its folder, or the one above where that is called train; all different."""
    names: list[str] = []
    for place in data:
        path = Path(place).resolve()
        name = path.parent.name if path.name in PARTS else path.stem
        name = "drawn" if place.startswith(DRAWN) else name
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _check(sources: Sources) -> None:
    count = len(sources.data)
    for option, values in (("val-per-class", sources.val_per_class), ("shares", sources.shares)):
        if isinstance(values, tuple) and len(values) != count:
            raise InputError(f"--{option}: {len(values)} numbers for {count} of DATA; give one for each")
    if sources.shares is not None and not (min(sources.shares) >= 0 and 0 < sum(sources.shares) < float("inf")):
        raise InputError(f"--shares {sources.shares}: give numbers of 0 or more, not all of them 0")
    for place in sources.data:
        if place.startswith(DRAWN) and not place.removeprefix(DRAWN).isdecimal():
            raise InputError(f"{place}: give a whole number of scenes for each class, as {DRAWN}100")
