"""Labelled scenes in memory, what was found in them, near duplicates, crops."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_runtime.annotations import Images, Int64, Pixels
from dpd_runtime.bands import Band
from dpd_runtime.files import is_own, spare_cache, write_atomically
from dpd_runtime.images import read_bytes, read_square
from dpd_runtime.text import counted, csv_line
from dpd_train.rasters import Rendering, identity, reader

if TYPE_CHECKING:
    import torch


# -- The images of one part in memory, what a run may say about them, and the findings of reading them.


Part = Literal["train", "val", "test", "all"]
NOTHING: Mapping[str, Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True)
class Rejected:
    """An image file that could not be used: path relative to the data folder, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class SceneSet:
    """Images of one part, ordered by class and then by file name, or by hash where the split goes by content.

    classes   names, sorted as strings; labels index them
    images    uint8 [n, H, W, 3], RGB, square; [n, H, W, N] where N `bands` are carried
    labels    int64 [n]
    hashes    sha256 (hex) of each file's bytes; with a `rendering`, `rendering.identity` of the bytes
    rejected  files that were left out
    paths     of each image, relative to the data folder; private, for run/private/ only
    rendering how bands and values became RGB; None for images that Pillow reads as they are
    outside   those of `paths` that are links to files outside the data folder
    gaps      of each image, whether pixels of it have no data
    notes     what the user should know of how the files are read
    scenes    of each image, the hash of the first one that shows its scene; empty where each shows one of its own
    card      sha256 of the data card that says how they are read and divided; None without one
    """

    classes: tuple[str, ...]
    images: Images
    labels: Int64
    hashes: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    paths: tuple[str, ...] = ()
    rendering: Rendering | None = None
    outside: tuple[str, ...] = ()
    gaps: tuple[bool, ...] = ()
    notes: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    card: str | None = None

    @property
    def bands(self) -> tuple[Band, ...]:
        """What the channels are; empty for RGB."""
        return self.rendering.carried if self.rendering is not None else ()

    def hashes_as(self, rendering: Rendering | None) -> list[str]:
        """The hashes of images that Pillow read, as `rendering` would have them: by these, copies of a file are found
        among images that were read otherwise.
        """
        if rendering is None or self.rendering is not None:
            return list(self.hashes)
        return [rendering.identity_of(bytes.fromhex(digest)) for digest in self.hashes]

    def only(self, rows: Sequence[int] | Int64) -> "SceneSet":
        """The images of these rows."""
        per_image = (self.hashes, self.paths, self.scenes)
        hashes, paths, scenes = (tuple(values[row] for row in rows if values) for values in per_image)
        gaps = tuple(self.gaps[row] for row in rows if self.gaps)
        images, labels = self.images[rows], self.labels[rows]
        return replace(self, images=images, labels=labels, hashes=hashes, paths=paths, gaps=gaps, scenes=scenes)


def content_sha256(hashes: Iterable[str]) -> str:
    """One sha256 (hex) of all images, over their sorted hashes, one per line."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def fingerprint(scenes: SceneSet) -> dict[str, object]:
    """What run.json may say about the data: {"images": n, "classes": {name: count}, "sha256": hex}, no file names.

    sha256 is over the sorted content hashes, one per line, and does not depend on names, folders or order. Data read
    with bands or a stretch also have "rendering", and data with a data card its sha256 as "data_card".
    """
    counts = np.bincount(scenes.labels, minlength=len(scenes.classes))
    record: dict[str, object] = {
        "images": len(scenes.labels),
        "classes": {name: int(count) for name, count in zip(scenes.classes, counts, strict=True)},
        "sha256": content_sha256(scenes.hashes),
    }
    record |= {} if scenes.rendering is None else {"rendering": scenes.rendering.record()}
    return record if scenes.card is None else record | {"data_card": scenes.card}


def to_float(images: "torch.Tensor") -> "torch.Tensor":
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [-1, 1]; N bands stay N."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class Finding:
    """One file of one part; private, as it names a file."""

    part: str
    path: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """What is known about a data set after reading.

    counts   part → class → usable images
    rejected files that were left out
    copies   used images with the bytes of an earlier one, in the same class, another class or another part
    shared   (part, part) → number of images of the second part with the bytes of an image of the first
    twice    number of images under two classes of one part
    outside  used images that are links to files outside the data folder
    near     training images that were left out as near duplicates of others
    gaps     part → number of used images with pixels that have no data
    notes    what the user should know of how the files are read
    """

    counts: dict[str, dict[str, int]]
    rejected: tuple[Finding, ...]
    copies: tuple[Finding, ...]
    shared: dict[tuple[str, str], int]
    twice: int
    outside: tuple[str, ...]
    near: tuple[Finding, ...] = ()
    gaps: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def messages(self) -> list[str]:
        """One line for each thing that the user should know before training."""
        lines = [
            f"{second} shares {counted(count, 'image')} with {first}, byte for byte: figures on {second} are too high"
            for (first, second), count in self.shared.items()
        ]
        if self.twice:
            lines.append(
                f"{counted(self.twice, 'image')} under two classes at once, byte for byte: the labels contradict "
                "each other"
            )
        if self.outside:
            lines.append(
                f"links to files outside the data folder: {counted(len(self.outside), 'image')}, first "
                f"{self.outside[0]}; remove those that are not meant"
            )
        if self.near:
            lines.append(
                f"{counted(len(self.near), 'image')} of train left out as near duplicates of others, first "
                f"{self.near[0].path}; --keep-near-duplicates keeps them"
            )
        for part in self.counts:
            mine = [finding for finding in self.rejected if finding.part == part]
            if mine:
                lines.append(f"{counted(len(mine), 'file')} of {part} left out, first {mine[0].path}: {mine[0].reason}")
        lines += [
            f"{counted(count, 'image')} of {part} with pixels that have no data; these are 0 in every band"
            for part, count in self.gaps.items()
        ]
        return [*lines, *self.notes]


def look_over(parts: Mapping[str, SceneSet], unread: Mapping[str, Mapping[str, str]] = NOTHING) -> Findings:
    """Collect the findings of reading.

    parts   by their names: {"train": …, "val": …}
    unread  parts of which only hashes are known, path → hash: {"test": scenes.hashes("test")}
    """
    hashes_only = {part: tuple(hashes.values()) for part, hashes in unread.items()}
    known: dict[str, tuple[str, str, str]] = {}
    copies: list[Finding] = []
    twice = 0
    for part, scenes in parts.items():
        names = scenes.paths or ("",) * len(scenes.hashes)
        for path, label, digest in zip(names, scenes.labels, scenes.hashes, strict=True):
            name = scenes.classes[label]
            if digest not in known:
                known[digest] = (part, name, path)
                continue
            first_part, first_class, first_path = known[digest]
            twice += first_class != name and first_part == part
            copies.append(Finding(part, path, _copy_of(first_path, first_part, part, first_class != name)))
    for part, hashes in unread.items():
        for path, digest in hashes.items():
            if digest in known:
                copies.append(Finding(part, path, _copy_of(known[digest][2], known[digest][0], part, False)))
    return Findings(
        {part: _counts(scenes) for part, scenes in parts.items()},
        tuple(Finding(part, entry.path, entry.reason) for part, scenes in parts.items() for entry in scenes.rejected),
        tuple(copies),
        _shared({part: scenes.hashes for part, scenes in parts.items()} | hashes_only),
        twice,
        tuple(path for scenes in parts.values() for path in scenes.outside),
        gaps={part: sum(scenes.gaps) for part, scenes in parts.items() if any(scenes.gaps)},
        notes=tuple(dict.fromkeys(note for scenes in parts.values() for note in scenes.notes)),
    )


def write_quarantine(path: Path, findings: Findings) -> None:
    """Write files left out and copies as CSV: part, path, reason. Without any there is no file."""
    lines = [*findings.rejected, *findings.near, *findings.copies]
    if not lines:
        return
    rows = [("part", "path", "reason"), *((line.part, line.path, line.reason) for line in lines)]
    write_atomically(path, "".join(map(csv_line, rows)).encode())


def _copy_of(path: str, first_part: str, part: str, other_class: bool) -> str:
    where = "" if first_part == part else f" in {first_part}"
    return f"used, with the same bytes as {path}{where}" + (", which is another class" if other_class else "")


def _counts(scenes: SceneSet) -> dict[str, int]:
    counts = np.bincount(scenes.labels, minlength=len(scenes.classes))
    return {name: int(count) for name, count in zip(scenes.classes, counts, strict=True)}


def _shared(hashes: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, str], int]:
    counts = {}
    for first, second in combinations(hashes, 2):
        known = set(hashes[first])
        if count := sum(digest in known for digest in hashes[second]):
            counts[first, second] = count
    return counts


# -- Square crops of images that are larger than a base, at several scales, each resized to the base's resolution.


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Number of random crops of each image, in addition to the whole image.

    middle: of each size between the whole image and the base's resolution; each size is half of the one before.
    native: of the base's resolution, whose pixels are the image's own.
    """

    middle: int = 4
    native: int = 8


ONE_OF_EACH = Crops(middle=1, native=1)  # for validation

Box = tuple[int, int, int]
"""Left, top and side in pixels."""


def crop_boxes(side: int, resolution: int, digest: str, seed: int, crops: Crops) -> list[list[Box]]:
    """Return the boxes of each scale, from the whole image to native pixels. They depend only on (seed, digest).

    digest: the image's content hash, hex.
    """
    rng = np.random.default_rng([seed, int(digest[:16], 16)])
    levels: list[list[Box]] = [[(0, 0, side)]]
    scales: list[tuple[int, int]] = []
    half = side // 2
    while half > resolution:
        scales.append((half, crops.middle))
        half //= 2
    if side > resolution:
        scales.append((resolution, crops.native))
    for smaller, count in scales:
        corners = rng.integers(0, side - smaller + 1, (count, 2)).tolist()
        levels.append([(left, top, smaller) for left, top in corners])
    return levels


def crop(image: Pixels, box: Box, resolution: int) -> Pixels:
    """Cut the box out of an image and resize it as `read_scenes` does (Lanczos): [resolution, resolution, 3]."""
    left, top, side = box
    part = image[top : top + side, left : left + side]
    if side == resolution:
        return part
    return np.asarray(Image.fromarray(part).resize((resolution, resolution), Image.Resampling.LANCZOS), np.uint8)


def crop_hash(digest: str, box: Box, resolution: int) -> str:
    """Return the hash that identifies a crop's pixels. digest: its image's content hash."""
    return hashlib.sha256(f"{digest} crop {box} at {resolution}".encode()).hexdigest()


def multi_scale(scenes: SceneSet, resolution: int, seed: int, crops: Crops) -> tuple[SceneSet, Int64, Int64]:
    """Crop all images.

    Args:
        scenes: at their own size.

    Returns:
        all crops; the scale of each one: [n] int64, 0 for a whole image; and the row of its image: [n] int64. A whole
        image keeps its content hash, every other crop has its own.
    """
    side = scenes.images.shape[1]
    images, rows, levels, hashes = [], [], [], []
    for row, (image, digest) in enumerate(zip(scenes.images, scenes.hashes, strict=True)):
        for level, boxes in enumerate(crop_boxes(side, resolution, digest, seed, crops)):
            for box in boxes:
                images.append(crop(image, box, resolution))
                hashes.append(crop_hash(digest, box, resolution) if level else digest)
                rows.append(row)
                levels.append(level)
    stacked: Images = np.stack(images)
    small = replace(scenes, images=scenes.images[:, :1, :1])  # `only` would copy each whole image for each crop
    cropped = replace(small.only(rows), images=stacked, hashes=tuple(hashes))
    return cropped, np.array(levels, np.int64), np.array(rows, np.int64)


def equal_shares(levels: Sequence[int] | Int64) -> npt.NDArray[np.float64]:
    """Return weights [n], sum 1, that give each scale the same share."""
    _, inverse, counts = np.unique(levels, return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = 1 / (len(counts) * counts[inverse])
    return weights


# -- What the files of a data set show, whatever they are called: hashes of their bytes, and which show one scene.


log = logging.getLogger(__name__)
SIDE = 64  # pixels at which images are compared, whatever size they are used at
FORMAT = 2  # increase this whenever other images become near duplicates


def hashes_of(files: Iterable[Path], rendering: Rendering | None) -> dict[Path, str]:
    """Hash of the bytes of each file that can be read.

    Args:
        rendering: of the data set; its hashes are `Rendering.identity`.
    """
    digests = {}
    for path in files:
        content = read_bytes(path)
        if isinstance(content, bytes):
            digests[path] = identity(content, rendering)
    return digests


def scenes_of(digests: Mapping[Path, str], rendering: Rendering | None) -> dict[Path, str]:
    """Each file's least hash among its near duplicates, itself included.

    Args:
        digests: of `hashes_of`.
    """
    first = {digest: path for path, digest in digests.items()}
    group_of = {digest: min(group) for group in _near(first, rendering) for digest in group}
    return {path: group_of.get(digest, digest) for path, digest in digests.items()}


def _near(files: Mapping[str, Path], rendering: Rendering | None) -> list[list[str]]:
    """Groups of at least two hashes whose images show one scene.

    They are kept in the user's cache, because comparing 13,000 images takes half a minute.
    """
    digests = sorted(files)
    key = hashlib.sha256("\n".join([str(FORMAT), *digests]).encode()).hexdigest()
    folder = spare_cache("near-duplicates")
    if folder is None:
        return _compare(digests, files, rendering)
    path = folder / f"{key[:32]}.json"
    if is_own(path) and (known := _read(path, key)) is not None:
        return known
    groups = _compare(digests, files, rendering)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, json.dumps({"key": key, "groups": groups}, allow_nan=False).encode())
    except OSError as error:
        log.info("%s cannot be written, so near duplicates are looked for again next time: %s", path, error)
    return groups


def _read(path: Path, key: str) -> list[list[str]] | None:
    try:
        kept = json.loads(path.read_bytes())
        return [[str(digest) for digest in group] for group in kept["groups"]] if kept["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _compare(digests: Sequence[str], files: Mapping[str, Path], rendering: Rendering | None) -> list[list[str]]:
    from dpd_train.symmetry import near_groups  # loads PyTorch

    to_pixels = reader(rendering)
    results = {digest: read_square(files[digest], SIDE, to_pixels) for digest in digests}
    images = {digest: read[1] for digest, read in results.items() if not isinstance(read, str)}
    if not images:
        return []
    names = np.array(list(images))
    numbers = near_groups(np.stack(list(images.values())), names.tolist())
    repeated = np.flatnonzero(np.bincount(numbers) > 1)
    return [names[numbers == number].tolist() for number in repeated]
