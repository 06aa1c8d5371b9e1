"""Read labelled scenes from folder trees and lists into square images of one size, and report every file left out."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dpd_runtime.bands import Band
from dpd_runtime.errors import DataError, MissingExtraError
from dpd_runtime.images import ALONE, Alike, alike, evenly_spaced, read_bytes, read_square, size_in_header
from dpd_runtime.text import counted, printable
from dpd_train.rasters import Rendering, array_size, identity, reader, settle
from dpd_train.reading import BY_CONTENT, LEAST, PLAIN, HeldOut, Reading, choose_groups, joined, parse_reading
from dpd_train.remarks import SceneSides, sides_of
from dpd_train.scene_set import Finding, Part, Rejected, SceneSet, hashes_of, scenes_of, stamps
from dpd_train.sources import (
    LIST_SUFFIXES,
    Files,
    Source,
    divides,
    files_of_part,
    open_list,
    open_tree,
    reference_files,
)

# -- Read labelled scenes from a folder tree or a list into memory.


def read_scenes(
    root: Path,
    *,
    part: Part,
    resolution: int | None = None,
    held_out: HeldOut = BY_CONTENT,
    reading: Reading | Rendering = PLAIN,
) -> SceneSet:
    """Read one part of a data set; every image is centre-cropped to a square and resized (Lanczos).

    Damaged and unusable files are listed in `rejected`. Hidden files and those without an image suffix are ignored.

    Args:
        root: a folder with class folders, or with train/ (and val/, test/) that have them; or a .csv or .parquet list
            with the columns path, label and perhaps split.
        part: "val" is val/ (or the rows of split val) if it exists, else what `held_out` takes from the training
            images, which is then not in "train". "test" is test/. "all" is every image.
        resolution: side of the images in pixels; None takes the shorter side of the most common size of the training
            images, so that all parts are alike.
        held_out: an error if there is a val/, unless it is the default.
        reading: bands and stretch. The limits of the stretch are those of the training images, held-out ones included,
            for every part. A `rendering` of other scenes reads these in the same way.

    Raises:
        DataError: nothing at root, no images, fewer than two classes, an empty class, a missing part, train/ and this
            part with different classes, fewer than 2 usable training images (1 in other parts) in a class; groups that
            no file name gives, or that hold a whole class.
        MissingExtraError: the reading needs rasterio, or the list pyarrow, and it is not installed.
    """
    if resolution is not None and resolution < 1:
        raise DataError(f"resolution is {resolution}: give a positive number of pixels")
    source = open_source(root, held_out.groups, held_out.allow_outside)
    reference = reference_files(source)
    files = files_of_part(source, reference, part)
    _counts(source, files, part, held_out)  # before images are opened
    rendering = settled(reading, reference, source)
    if divides(source, part, held_out):
        files = _divided(source, files, part, held_out, rendering)
    if resolution is None:
        resolution = min(common_size(_sizes(reference, source)))
    together = known(rendering, reference)
    return _decode(source, files, part, resolution, rendering, together, held_out.allow_outside)


def check_files(root: Path, part: Part, held_out: HeldOut = BY_CONTENT) -> dict[str, int]:
    """Check what `read_scenes` needs to know of a part before it opens an image: folders or list, classes, counts.

    Returns:
        class → number of image files. Groups and near duplicates, which stay on one side, may change it.

    Raises:
        DataError, MissingExtraError: as `read_scenes` does.
    """
    source = open_source(root, held_out.groups, held_out.allow_outside)
    return _counts(source, files_of_part(source, reference_files(source), part), part, held_out)


@dataclass(frozen=True)
class Counted:
    """The images of one part by class, and how many scenes they show: turned, mirrored and near duplicates are one."""

    images: Mapping[str, int]
    scenes: Mapping[str, int]

    def __str__(self) -> str:
        images, scenes = sum(self.images.values()), sum(self.scenes.values())
        return f"{counted(images, 'image')}" + (f", {counted(scenes, 'distinct scene')}" if scenes < images else "")

    def check(self, root: Path) -> None:
        """Check that training images show enough scenes.

        Raises:
            DataError: a class has only one.
        """
        for name, count in self.scenes.items():
            if count < LEAST:
                raise DataError(
                    f"{root}: the {self.images[name]} training images of class {name!r} are near duplicates of one "
                    f"another, and at least {LEAST} different ones are needed; add images"
                )


def count_scenes(
    root: Path, part: Part, held_out: HeldOut = BY_CONTENT, reading: Reading | Rendering = PLAIN
) -> Counted:
    """Count the images of a part and the scenes that they show, as numbers of scenes decide what can be made of them.

    All images are decoded to find near duplicates, which the cache keeps.

    Args:
        root, part, held_out, reading: as `read_scenes` takes them.

    Raises:
        DataError, MissingExtraError: as `read_scenes` does.
    """
    source = open_source(root, held_out.groups, held_out.allow_outside)
    reference = reference_files(source)
    files = files_of_part(source, reference, part)
    _counts(source, files, part, held_out)
    rendering = settled(reading, reference, source)
    scenes = scenes_of(stamps(path for paths in files.values() for path in paths), rendering)
    if divides(source, part, held_out):
        files = _divided(source, files, part, held_out, rendering)
    shown = {name: len({scenes.get(path, str(path)) for path in paths}) for name, paths in files.items()}
    return Counted({name: len(paths) for name, paths in files.items()}, shown)


def image_sizes(root: Path) -> Counter[tuple[int, int]]:
    """Number of training images of each (width, height) in pixels, from their headers.

    Raises:
        DataError: as `read_scenes` does; no image can be opened.
    """
    source = open_source(root)
    return _sizes(reference_files(source), source)


def natural_side(root: Path) -> int:
    """Shorter side in pixels of the most common size of the training images, from their headers.

    Raises:
        DataError: as `image_sizes` does.
    """
    return min(common_size(image_sizes(root)))


def common_size(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The most common size; of several that are equally common the one with the smallest shorter side."""
    most = max(sizes.values())
    return min((size for size, count in sizes.items() if count == most), key=lambda size: (min(size), size))


def split_folders(root: Path) -> tuple[str, ...]:
    """Those of train, val, test that are parts of `root`, a tree or a list, and not classes with these names."""
    root = Path(root)
    return open_source(root).parts if root.is_dir() or _is_list(root) else ()


def open_source(root: Path, groups: str | None = None, allow_outside: bool = True) -> Source:
    """Open a folder tree or a list.

    Args:
        groups, allow_outside: as in `HeldOut`. Sizes and hashes may be looked up outside; pixels are read by
            `read_scenes`, which refuses it.

    Raises:
        DataError: it is neither.
    """
    root = Path(root)
    try:
        if not root.exists():
            raise DataError(f"{root}: no such folder; give a folder that holds one folder of images per class")
        if root.is_dir():
            return open_tree(root)
        if _is_list(root):
            return open_list(root, groups, allow_outside)
    except OSError as error:
        raise DataError(f"{root}: cannot be opened ({error.strerror or error})") from error
    raise DataError(
        f"{root}: is a file; give a folder that holds one folder of images per class, or a .csv or .parquet list"
    )


def hash_part(root: Path, part: Literal["train", "test"], rendering: Rendering | None = None) -> dict[str, str]:
    """Path → hash as in `SceneSet.hashes`, without decoding the images. Unreadable files are left out.

    Args:
        part: "train" with all images that could be held out; "test", which may be missing and is empty then.
        rendering: of the training images, so that equal images have equal hashes; None for the files' own bytes.

    Raises:
        DataError: as `read_scenes` does.
    """
    source = open_source(root)
    if part == "test" and "test" not in source.parts:
        return {}
    hashes = {}
    for paths in files_of_part(source, reference_files(source), part).values():
        for path in paths:
            content = read_bytes(path)
            if isinstance(content, bytes):
                hashes[name_in(source, path)] = identity(content, rendering)
    return hashes


def _is_list(root: Path) -> bool:
    return root.is_file() and root.suffix.lower() in LIST_SUFFIXES


def _counts(source: Source, files: Files, part: Part, held_out: HeldOut) -> dict[str, int]:
    """Class → number of files of a part, as far as names and numbers tell; checked.

    Args:
        files: as `files_of_part` gives them.
    """
    counts = {name: len(paths) for name, paths in files.items()}
    if divides(source, part, held_out):
        _named_groups(source, files, held_out)
        held = {name: held_out.of_class(count) for name, count in counts.items()}
        counts = held if part == "val" else {name: count - held[name] for name, count in counts.items()}
    for name, count in counts.items():
        _check_count(source, part, name, count, [])
    return counts


def _named_groups(source: Source, files: Files, held_out: HeldOut) -> dict[Path, str]:
    """The group of each file by the list's column or by its name; empty without groups."""
    if held_out.groups is None:
        return {}
    every = [path for paths in files.values() for path in paths]
    return {path: source.groups[path] if source.groups else held_out.group_of(path) for path in every}


def _divided(
    source: Source, files: Files, part: Part, held_out: HeldOut, rendering: Rendering | None
) -> dict[str, list[Path]]:
    """The training or the validation part of training images.

    Where content decides which images are held out, it decides their order too, so that a run does not depend on names.
    """
    if held_out.split == "names":
        cuts = {name: len(paths) - held_out.of_class(len(paths)) for name, paths in files.items()}
        return {name: paths[: cuts[name]] if part == "train" else paths[cuts[name] :] for name, paths in files.items()}
    if held_out.val_per_class == 0:
        return {name: [*paths] if part == "train" else [] for name, paths in files.items()}
    every = stamps(path for paths in files.values() for path in paths)
    digests = hashes_of(every, rendering)
    classes = {name: {path: digests[path] for path in paths if path in digests} for name, paths in files.items()}
    scenes: Mapping[Path, Hashable] = {}
    together: Mapping[Path, Hashable] = {}
    if held_out.split == "content":
        scenes = scenes_of(every, rendering)
        together = joined(scenes, _named_groups(source, files, held_out))
    counted = scenes if held_out.val_per_class is not None else {}  # a share is the same of files and of scenes
    held = choose_groups(classes, together, held_out, source.root, counted)
    unread = "~"  # behind every hash; these files are reported in the order of their names
    return {
        name: sorted(
            (path for path in paths if (path in held) == (part == "val")), key=lambda path: digests.get(path, unread)
        )
        for name, paths in files.items()
    }


def settled(reading: Reading | Rendering, files: Files, source: Source) -> Rendering | None:
    """The rendering of a reading, with limits from `files`; None where Pillow reads the images as they are."""
    if isinstance(reading, Rendering):
        return reading
    return None if reading.plain else settle(reading, files, source.root)


def known(rendering: Rendering | None, files: Files) -> Alike:
    """What Pillow's reader should know of a data set with these training images; nothing where there is a rendering."""
    return alike([path for paths in files.values() for path in paths]) if rendering is None else ALONE


def notes_of(together: Alike) -> tuple[str, ...]:
    """What the user should know of how Pillow reads the files, one line each."""
    return (f"{together.note}; --bands all keeps them",) if together.note else ()


def _decode(
    source: Source,
    files: Files,
    part: Part,
    resolution: int,
    rendering: Rendering | None,
    together: Alike,
    allow_outside: bool,
) -> SceneSet:
    gaps: list[bool] = []
    to_pixels = reader(rendering, together, gaps)
    channels = (len(rendering.carried) if rendering is not None else 0) or 3
    images = np.empty((sum(map(len, files.values())), resolution, resolution, channels), np.uint8)
    labels: list[int] = []
    hashes: list[str] = []
    used: list[Path] = []
    rejected: list[Rejected] = []
    inside = source.folder.resolve()
    for label, (name, paths) in enumerate(files.items()):
        already = len(rejected)
        for path in paths:
            result = read_square(path, resolution, to_pixels)
            if isinstance(result, str):
                rejected.append(Rejected(name_in(source, path), result))
                continue
            content, images[len(used)] = result
            labels.append(label)
            hashes.append(identity(content, rendering))
            used.append(path)
        _check_count(source, part, name, len(paths) - len(rejected) + already, rejected[already:])
    return SceneSet(
        tuple(files),
        images[: len(used)],
        np.array(labels, np.int64),
        tuple(hashes),
        tuple(rejected),
        tuple(name_in(source, path) for path in used),
        rendering,
        ()
        if allow_outside
        else tuple(name_in(source, path) for path in used if not path.resolve().is_relative_to(inside)),
        tuple(gaps),
        notes_of(together),
    )


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels of an image or an array from its header; None if it has none."""
    return size_in_header(path) or array_size(path)


def name_in(source: Source, path: Path) -> str:
    """The file's name for messages: relative to the data, absolute outside."""
    inside = path.is_relative_to(source.folder)
    return printable(path.relative_to(source.folder) if inside else path)


def _check_count(source: Source, part: Part, name: str, used: int, rejected: Sequence[Rejected]) -> None:
    least = LEAST if part == "train" else 1
    if used >= least:
        return
    place = f"{source.root}: class {name!r} has {counted(used, 'usable image')} in part {part!r}"
    because = f" ({len(rejected)} rejected, first {rejected[0].path}: {rejected[0].reason})" if rejected else ""
    way_out = "add images" + {"train": " or hold out fewer for validation", "val": " or hold out more"}.get(part, "")
    if rejected:
        way_out = f"mend or remove what is rejected, or {way_out}"
    raise DataError(f"{place}{because}, at least {least} needed; {way_out}")


def _sizes(files: Files, source: Source) -> Counter[tuple[int, int]]:
    every = [path for paths in files.values() for path in paths]
    sizes = Counter(size for path in every if (size := size_of(path)) is not None)
    if not sizes:
        raise DataError(f"{source.root}: none of its {len(every)} image files can be opened; are they images?")
    return sizes


# -- One look at a data set before the long run: a sample of every class is decoded, and parts are compared.


PER_CLASS = 20  # images of each class and part that are decoded
SIDE = 32  # pixels to which they are reduced
MANY = re.compile(r"\d+ bands of \d+ bits: say which ")
HINT = re.compile(r"(?P<bands>--bands \d+(?:,\d+)*)?(?: ?(?P<stretch>--stretch [\d.:]+(?:,[\d.:]+)*))?")
FORMATS = "save them in a format that dpd reads, or give --bands and --stretch"
CARRIED = "--bands all carries all bands instead, in a codes-only bundle"


@dataclass(frozen=True)
class Sample:
    """Decoded images of every class and part.

    images: how many were tried. set_aside: those that cannot be used, with the reason. sides: of the usable ones; None
    without any, or where no header tells a size.
    """

    images: int
    set_aside: tuple[Finding, ...]
    sides: SceneSides | None = None

    @property
    def usable(self) -> int:
        return self.images - len(self.set_aside)


@dataclass(frozen=True)
class Look:
    """What a look at a data set shows.

    Args:
        counts: part → class → files. A source without parts has "all".
        suggestion: options of the reading with which more of the sample is usable, and what it is then.
        bands: that the images keep with this reading; empty where they become RGB.
        notes: what the user should know of how the files are read.
    """

    counts: Mapping[str, Mapping[str, int]]
    sample: Sample
    suggestion: tuple[str, Sample] | None
    bands: tuple[Band, ...]
    notes: tuple[str, ...] = ()

    @property
    def all_bands(self) -> str:
        """What else can be done with images of more bands than colours; empty where none is set aside for them."""
        return CARRIED if any(MANY.match(one.reason) for one in self.sample.set_aside) else ""

    def remarks(self) -> list[str]:
        """What the user should know before hours of work, one line each."""
        lines = []
        if self.sample.set_aside:
            first, tried = self.sample.set_aside[0], self.sample.images
            lines.append(
                f"{len(self.sample.set_aside)} of {counted(tried, 'image')} of a sample will be set aside, first "
                f"{first.path}: {first.reason}; see dpd check"
            )
        if self.suggestion is not None:
            options, sample = self.suggestion
            lines.append(f"with {options} {sample.usable} of {sample.images} are usable")
        return [*lines, *self.notes, *([self.all_bands] if self.all_bands else [])]

    def check(self, root: Path) -> None:
        """Check that a long run would use most of the data.

        Raises:
            DataError: less than half of the sample is usable.
        """
        if self.sample.usable < self.sample.images / 2:
            raise DataError(f"{root}: {'; '.join(self.remarks())}")


def look_at(root: Path, reading: Reading = PLAIN) -> Look:
    """Decode a sample of every class of `root`, and suggest how to read it.

    Raises:
        DataError: no folder or list of at least two classes; or no image of the sample is usable, however read.
        MissingExtraError: the reading needs rasterio, which is not installed.
    """
    source, parts = _opened(root)
    rendering = settled(reading, reference_files(source), source)
    together = known(rendering, reference_files(source))
    sample = _decoded(source, parts, rendering, together)
    suggestion = _suggested(source, parts, sample) if reading.plain and sample.set_aside else None
    if not sample.usable and suggestion is None:
        first = sample.set_aside[0]
        missing = first.reason in ("no such file", "broken link")
        way_out = "correct the paths: relative to the list's folder, with /" if missing else FORMATS
        raise DataError(
            f"{root}: none of {counted(sample.images, 'image')} can be used, first {first.path}: {first.reason}; "
            f"{way_out}"
        )
    return Look(
        counts={part: {name: len(paths) for name, paths in files.items()} for part, files in parts.items()},
        sample=sample,
        suggestion=suggestion,
        bands=rendering.carried if rendering is not None else (),
        notes=notes_of(together),
    )


def shared_scenes(root: Path, reading: Reading = PLAIN) -> dict[tuple[str, str], int]:
    """(part, part) → files of the second part that show a scene of the first, copies included.

    Raises:
        DataError, MissingExtraError: as `look_at`.
    """
    source, parts = _opened(root)
    files = {part: [path for paths in of.values() for path in paths] for part, of in parts.items()}
    if len(files) < 2:
        return {}
    every = stamps([path for paths in files.values() for path in paths])
    scenes = scenes_of(every, settled(reading, reference_files(source), source))
    names, shared = list(files), {}
    for i, first in enumerate(names):
        known = {scenes[path] for path in files[first] if path in scenes}
        for second in names[i + 1 :]:
            if count := sum(scenes.get(path) in known for path in files[second]):
                shared[first, second] = count
    return shared


def _opened(root: Path) -> tuple[Source, dict[str, Files]]:
    source = open_source(Path(root))
    return source, {part: source.files(part) for part in source.parts} or {"all": source.files(None)}


def _decoded(
    source: Source, parts: Mapping[str, Files], rendering: Rendering | None, together: Alike = ALONE
) -> Sample:
    to_pixels = reader(rendering, together)
    tried, set_aside, sizes = 0, [], Counter[tuple[int, int]]()
    for part, files in parts.items():
        for paths in files.values():
            for path in evenly_spaced(paths, PER_CLASS):
                tried += 1
                square = read_square(path, SIDE, to_pixels)
                if isinstance(square, str):
                    set_aside.append(Finding(part, name_in(source, path), square))
                elif (size := size_of(path)) is not None:
                    sizes[size] += 1
    return Sample(tried, tuple(set_aside), sides_of(sizes) if sizes else None)


def _suggested(source: Source, parts: Mapping[str, Files], plain: Sample) -> tuple[str, Sample] | None:
    """The options that most of the reasons name, if more images are usable with them."""
    hints = Counter(
        match[0].strip() for one in plain.set_aside for match in HINT.finditer(one.reason) if match[0].strip()
    )
    for options, _ in hints.most_common(1):
        match = HINT.fullmatch(options)
        assert match is not None
        bands, stretch = (text and text.split()[1] for text in (match["bands"], match["stretch"]))
        try:
            rendering = settled(parse_reading(bands, stretch), reference_files(source), source)
            sample = _decoded(source, parts, rendering)
        except (DataError, MissingExtraError):  # no limits, or rasterio is not installed: the reason says what to do
            return None
        if sample.usable > plain.usable:
            return options, sample
    return None
