"""The images that a base is trained on: folders and drawn scenes as one set, with a weight for each image."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpd_runtime.annotations import Int64
from dpd_runtime.errors import InputError
from dpd_train.attributes import class_words
from dpd_train.drawn_scenes import CLASSES, numbered_scene
from dpd_train.reading import PLAIN, By, HeldOut, Reading
from dpd_train.scene_set import ONE_OF_EACH, Crops, Part, SceneSet, equal_shares, fingerprint, look_over, multi_scale
from dpd_train.scenes import Scenes, open_scenes

if TYPE_CHECKING:
    import torch


log = logging.getLogger(__name__)
DRAWN = "drawn:"  # drawn:N is a source of N drawn scenes of each class
PARTS: tuple[Part, ...] = ("train", "val", "test")  # folder names that do not name the data in them


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the images come from, and how often training uses each source.

    data: folders or lists as in `read_scenes`, or drawn:N.
    val_per_class: one number for all sources, or one for each; see `HeldOut`, as for `split`.
    shares: how often training uses each source, up to a common factor. None: in proportion to the square root of its
        number of images, so that a small source is used more than its number says, and not learned by heart.
    crops: of images larger than the resolution; None resizes them as a whole.
    reading: of the images; not of drawn ones. Each source has its own limits of the stretch.
    """

    data: tuple[str, ...]
    resolution: int
    val_per_class: int | tuple[int, ...] | None = None
    split: By = "content"
    shares: tuple[float, ...] | None = None
    crops: Crops | None = None
    seed: int = 0
    reading: Reading = PLAIN


@dataclass(frozen=True)
class Pool:
    """The images of all sources, one source after the other; labels index the classes of all of them.

    train, held: training and validation images.
    weights: [n] float64 of the training images, sum 1; None: all equal.
    of_image: [n] int64, number of the image that each training image is, or is a crop of.
    held_of: rows of `held` of each source, by its name.
    record: what pretrain.json may say about the data.
    """

    train: SceneSet
    held: SceneSet
    weights: "torch.Tensor | None"
    of_image: Int64
    held_of: dict[str, slice]
    record: dict[str, object]


@dataclass(frozen=True)
class _Source:
    """One source.

    images: number of training images before cropping. levels, of_image: scale and image of each row of `train`.
    """

    train: SceneSet
    held: SceneSet
    images: int
    levels: Int64
    of_image: Int64


def read_pool(sources: Sources) -> Pool:
    """Read all sources. A single one without crops is exactly what `read_scenes` returns, without weights.

    Raises:
        InputError: the numbers do not fit the sources.
        DataError: as `read_scenes` does.
    """
    import torch

    check_sources(sources)
    names = _names(sources.data)
    read = [_read(place, count, sources) for place, count in zip(sources.data, _held_out(sources), strict=True)]
    if len({tuple(band.name for band in source.train.bands) for source in read}) > 1:
        raise InputError(f"--bands: {', '.join(names)} have different ones; give data with the same bands")
    train, held = _joined([source.train for source in read], names), _joined([source.held for source in read], names)
    ends = np.cumsum([0, *(len(source.held.labels) for source in read)]).tolist()
    held_of = {name: slice(*ends[i : i + 2]) for i, name in enumerate(names)}
    starts = np.cumsum([0, *(source.images for source in read[:-1])])
    of_image = np.concatenate([source.of_image + start for source, start in zip(read, starts, strict=True)])
    if len(read) == 1 and sources.crops is None:
        return Pool(train, held, None, of_image, held_of, fingerprint(train))
    shares = np.array(sources.shares or [source.images**0.5 for source in read], np.float64)
    shares /= shares.sum()
    weights = np.concatenate([share * equal_shares(source.levels) for share, source in zip(shares, read, strict=True)])
    records = [
        {
            "name": place if place.startswith(DRAWN) else name,
            "images": source.images,
            "rows": len(source.levels),
            "share": round(float(share), 4),
        }
        for place, name, source, share in zip(sources.data, names, read, shares, strict=True)
    ]
    record = fingerprint(train) | {"sources": records}
    return Pool(train, held, torch.from_numpy(weights), of_image, held_of, record)


def _read(place: str, held_out: int | None, sources: Sources) -> _Source:
    resolution, crops, seed = sources.resolution, sources.crops, sources.seed
    if place.startswith(DRAWN):
        train, held = _drawn(place, held_out, resolution, seed)
        return _whole(train, held)
    scenes = _opened(place, held_out, sources)
    side = max(resolution, scenes.side) if crops else resolution
    train, held = scenes.part("train", side), scenes.part("val", side)
    for line in look_over({f"{place}, training part": train, f"{place}, validation part": held}).messages():
        log.warning(line)
    if crops is None or side == resolution:
        return _whole(train, held)
    cut, levels, of_image = multi_scale(train, resolution, seed, crops)
    return _Source(cut, multi_scale(held, resolution, seed, ONE_OF_EACH)[0], len(train.labels), levels, of_image)


def _opened(place: str, held_out: int | None, sources: Sources) -> Scenes:
    return open_scenes(Path(place), HeldOut(val_per_class=held_out, split=sources.split), sources.reading)


def _whole(train: SceneSet, held: SceneSet) -> _Source:
    """A source whose images are not cropped."""
    count = len(train.labels)
    return _Source(train, held, count, np.zeros(count, np.int64), np.arange(count))


def _drawn(place: str, held_out: int | None, resolution: int, seed: int) -> tuple[SceneSet, SceneSet]:
    """Draw training and validation images. The last ones of each class are for validation, as with files."""
    count, held_out = _drawn_counts(place, held_out)
    parts = []
    for numbers in (range(count - held_out), range(count - held_out, count)):
        tiles = [numbered_scene(label, i, seed, resolution) for label in range(len(CLASSES)) for i in numbers]
        labels = np.repeat(np.arange(len(CLASSES)), len(numbers))
        hashes = tuple(hashlib.sha256(tile.tobytes()).hexdigest() for tile in tiles)
        parts.append(SceneSet(CLASSES, np.stack(tiles), labels, hashes, ()))
    return parts[0], parts[1]


def _drawn_counts(place: str, held_out: int | None) -> tuple[int, int]:
    """Drawn scenes of each class, and how many of them are for validation."""
    count = int(place.removeprefix(DRAWN))
    held_out = max(1, count // 10) if held_out is None else held_out
    if count - held_out < 2 or held_out < 1:
        raise InputError(
            f"{place}: {held_out} of each class for validation leave {count - held_out} for training; "
            "training needs at least 2 and validation 1"
        )
    return count, held_out


def _joined(parts: Sequence[SceneSet], names: Sequence[str]) -> SceneSet:
    """Join the parts. A class whose words an earlier source has gets the name of its own source as a suffix."""
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
    """Name each source by its folder, or by the folder above if that is called train; all names differ."""
    names: list[str] = []
    for place in data:
        path = Path(place).resolve()
        name = path.parent.name if path.name in PARTS else path.stem
        name = "drawn" if place.startswith(DRAWN) else name
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _held_out(sources: Sources) -> tuple[int | None, ...]:
    """Validation images per class of each source."""
    numbers = sources.val_per_class
    return numbers if isinstance(numbers, tuple) else (numbers,) * len(sources.data)


def check_sources(sources: Sources) -> None:
    """Check numbers, folders or lists, and the images of each class, before any is opened.

    Raises:
        InputError, DataError: as `read_pool`.
    """
    if not sources.reading.plain and not sources.reading.carries:
        raise InputError(
            "--bands and --stretch are for a VAE of other bands than red, green and blue: give more bands, or all"
        )
    count = len(sources.data)
    for option, values in (("val-per-class", sources.val_per_class), ("shares", sources.shares)):
        if isinstance(values, tuple) and len(values) != count:
            raise InputError(f"--{option}: {len(values)} numbers for {count} of DATA; give one for each")
    if sources.shares is not None and not (min(sources.shares) >= 0 and 0 < sum(sources.shares) < float("inf")):
        raise InputError(f"--shares {sources.shares}: give numbers of 0 or more, not all of them 0")
    for place in sources.data:
        if place.startswith(DRAWN) and not place.removeprefix(DRAWN).isdecimal():
            raise InputError(f"{place}: give a whole number of scenes per class, such as {DRAWN}100")
        if place.startswith(DRAWN) and not sources.reading.plain:
            raise InputError(f"{place}: drawn scenes are red, green and blue; leave them out, or --bands and --stretch")
    for place, held_out in zip(sources.data, _held_out(sources), strict=True):
        if place.startswith(DRAWN):
            _drawn_counts(place, held_out)
        else:
            scenes = _opened(place, held_out, sources)
            for part in PARTS[:2]:
                scenes.counts(part)
