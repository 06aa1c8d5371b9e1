"""Read labelled scenes from folder trees and lists into square images of one size, and report every file left out."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np

from dpd_runtime.bands import Band
from dpd_runtime.errors import DataError, InputError, MissingExtraError
from dpd_runtime.html import html_table
from dpd_runtime.images import ALONE, Alike, alike, evenly_spaced, read_square, size_in_header
from dpd_runtime.remarks import SceneSides, sides_of
from dpd_runtime.text import counted, option, printable
from dpd_train.data_card import FIELDS, DataCard, read_card
from dpd_train.rasters import Rendering, array_size, centre_of, identity, reader, settle
from dpd_train.reading import (
    BY_CONTENT,
    LEAST,
    PLAIN,
    HeldOut,
    ImageOptions,
    Reading,
    cell_of,
    cell_side,
    choose_groups,
    joined,
    parse_reading,
)
from dpd_train.scene_set import Finding, Part, Rejected, SceneSet, hashes_of, scenes_of
from dpd_train.sources import (
    LIST_SUFFIXES,
    Files,
    Source,
    divides,
    files_of_part,
    open_list,
    open_tree,
)

Options = TypeVar("Options", bound=ImageOptions)

# -- Labelled scenes of a folder tree or a list: opened once, and handed on to whatever works with them.


@dataclass(frozen=True, eq=False)
class Scenes:
    """Labelled scenes of one folder or list, and how they are read and divided. `open_scenes` opens them.

    Folders are listed once, near duplicates are looked for once, and images of one size are decoded once, for all that
    share this value. Damaged and unusable files are listed in `SceneSet.rejected`. Hidden files and those without an
    image suffix are ignored.

    A part "train" is what is left of the training images after "val", which is val/ (or the rows of split val) if it
    exists, else what `held_out` takes. "test" is test/, "all" is every image.

    Args:
        held_out: an error if there is a val part, unless it is the default.
        reading: bands and stretch. The limits of the stretch are those of the training images, held-out ones included,
            for every part. A `Rendering` of other scenes reads these in the same way.
        card: what is said beside the scenes; `held_out` and `reading` follow it already.
        together: whether files tell how others are read, as most of them decide whether their fourth band is a mask.
            Without it one file changes no pixel of another, on which a guarantee for one file rests.
    """

    source: Source
    held_out: HeldOut = BY_CONTENT
    reading: Reading | Rendering = PLAIN
    card: DataCard | None = None
    together: bool = True
    _listed: dict[str | None, Files] = field(default_factory=dict, repr=False)
    _parts: dict[Part, Files] = field(default_factory=dict, init=False, repr=False)
    _decoded: dict[tuple[Part, int], SceneSet] = field(default_factory=dict, init=False, repr=False)
    _digests: dict[Path, str | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """List the training images.

        Raises:
            DataError: an empty class, or fewer than two.
        """
        _ = self._reference

    @property
    def root(self) -> Path:
        """The folder or list."""
        return self.source.root

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted as strings."""
        return tuple(self._reference)

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of train, val and test that the data bring as folders or splits; other folders of such names are
        classes.
        """
        return self.source.parts

    def _repr_html_(self) -> str:
        """Images by class and part, for notebooks."""
        parts = {part: {name: len(paths) for name, paths in files.items()} for part, files in self.every_part.items()}
        rows = [(name, *(counts.get(name, 0) for counts in parts.values())) for name in self.classes]
        said = [", ".join(f"{option(name)} {value}" for name, value in self.options.items())] if self.options else []
        return html_table(str(self.root), ("class", *parts), rows, said)

    @property
    def options(self) -> dict[str, object] | None:
        """The options of the command line that say how the scenes are read and divided, where they are not default;
        None for scenes that a program opened in another way.
        """
        if isinstance(self.held_out, ImageOptions):
            return self.held_out.given_image_options
        return None if self.held_out.given or self.reading != PLAIN else {}

    @property
    def carries(self) -> bool:
        """Whether the images keep bands; else they become RGB."""
        return bool(self.reading.carries if isinstance(self.reading, Reading) else self.reading.carried)

    def read_as(self, reading: Reading | Rendering) -> "Scenes":
        """The same scenes, read in this way."""
        return self if reading in (self.reading, self.__dict__.get("rendering")) else replace(self, reading=reading)

    def read_like(self, others: "Scenes", name: str, like: str) -> "Scenes":
        """These scenes, read as others are, with the same limits of a stretch.

        Args:
            name, like: what messages call these scenes and the others.

        Raises:
            InputError: a card says that these are read in another way.
        """
        card = self.card
        if card is not None and not {"bands", "stretch"}.isdisjoint(card.values) and self.reading != others.reading:
            raise InputError(
                f"{name} {self.root}: {card.path} says how these images are read, and those of {like} {others.root} "
                "are read in another way; make them alike"
            )
        return self.read_as(others.rendering or PLAIN)

    def settle(self, config: Options, given: Mapping[str, object] = MappingProxyType({})) -> Options:
        """The config with the options that the scenes were opened with.

        Args:
            given: options that were named, which count where they are the default too.

        Raises:
            InputError: it asks for something else.
        """
        known = (*FIELDS, "allow_outside")
        own = {name: getattr(self.held_out, name) for name in known if hasattr(self.held_out, name)}
        for name, asked in {**given, **config.given_image_options}.items():
            if name in own and asked != own[name]:
                raise InputError(f"{option(name)} {asked}: {self.root} was opened with {own[name]}; leave it out")
        return replace(config, **own)

    def files(self, part: Part) -> Files:
        """The files of a part that the data bring; of "train" before any is held out.

        Raises:
            DataError: a part that is missing or has other classes.
        """
        if part not in self._parts:
            self._parts[part] = files_of_part(self.source, self._list, self._reference, part)
        return self._parts[part]

    def counts(self, part: Part) -> dict[str, int]:
        """Class → number of files of a part, as far as names and numbers tell. Groups and near duplicates, which stay
        on one side, may change it.

        Raises:
            DataError: a missing part, train/ and this part with different classes, fewer than 2 training images (1 in
                other parts) in a class; groups that no file name gives.
        """
        files = self.files(part)
        counts = {name: len(paths) for name, paths in files.items()}
        if divides(self.source, part, self.held_out):
            self._named_groups(files)
            held = {name: self.held_out.of_class(count) for name, count in counts.items()}
            counts = held if part == "val" else {name: count - held[name] for name, count in counts.items()}
        for name, count in counts.items():
            _check_count(self.source, part, name, count, [])
        return counts

    def part(self, part: Part, resolution: int | None = None, *, keep: bool = True) -> SceneSet:
        """Decode one part; every image is centre-cropped to a square and resized (Lanczos).

        Args:
            resolution: side of the images in pixels; None takes `side`, so that all parts are alike.
            keep: the images for those who ask again, as long as this value lives.

        Raises:
            DataError: as `counts`; unusable images, or groups that hold a whole class.
            MissingExtraError: the reading needs rasterio, and it is not installed.
        """
        if resolution is not None and resolution < 1:
            raise DataError(f"resolution is {resolution}: give a positive number of pixels")
        if resolution is None or (part, resolution) not in self._decoded:
            self.counts(part)  # before images are opened
            files = self._divided(part)
            resolution = self.side if resolution is None else resolution
            if (part, resolution) not in self._decoded:
                decoded = _decode(self, files, part, resolution)
                if not keep:
                    return decoded
                self._decoded[part, resolution] = decoded
        return self._decoded[part, resolution]

    def counted(self, part: Part) -> "Counted":
        """Count the images of a part and the scenes that they show, as numbers of scenes decide what can be made of
        them. All images are decoded to find near duplicates, which the cache keeps.

        Raises:
            DataError, MissingExtraError: as `part` does.
        """
        self.counts(part)
        brought, files = self.files(part), self._divided(part)
        scenes = self._scenes if brought is self._reference else self._scenes_of(_paths(brought))
        shown = {name: len({scenes.get(path, str(path)) for path in paths}) for name, paths in files.items()}
        return Counted({name: len(paths) for name, paths in files.items()}, shown)

    @cached_property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Number of training images of each (width, height) in pixels, from their headers.

        Raises:
            DataError: no image can be opened.
        """
        every = _paths(self._reference)
        sizes = Counter(size for path in every if (size := size_of(path)) is not None)
        if not sizes:
            raise DataError(f"{self.root}: none of its {len(every)} image files can be opened; are they images?")
        return sizes

    @property
    def side(self) -> int:
        """Shorter side in pixels of the most common size of the training images, from their headers.

        Raises:
            DataError: no image can be opened.
        """
        return min(common_size(self.sizes))

    @cached_property
    def rendering(self) -> Rendering | None:
        """The reading with limits from the training images; None where Pillow reads the images as they are.

        Raises:
            DataError: as `settle` does.
            MissingExtraError: the reading needs rasterio, which is not installed.
        """
        found = settled(self.reading, self._reference, self.root)
        return found if found is None or self.together else replace(found, masks=True)

    @cached_property
    def alike(self) -> Alike:
        """What Pillow's reader should know of all of the training images; nothing where there is a rendering."""
        alone = self.rendering is not None or not self.together
        return ALONE if alone else alike(_paths(self._reference))

    def hashes(self, part: Literal["train", "test"]) -> dict[str, str]:
        """Path → hash as in `SceneSet.hashes`, without decoding the images. Unreadable files are left out.

        Args:
            part: "train" with all images that could be held out; "test", which may be missing and is empty then.

        Raises:
            DataError: a part with other classes.
        """
        if part == "test" and "test" not in self.parts:
            return {}
        digests = self._hashes_of(_paths(self.files(part)))
        return {name_in(self.source, path): digest for path, digest in digests.items()}

    def shared(self) -> dict[tuple[str, str], int]:
        """(part, part) → files of the second part that show a scene of the first, copies included.

        Raises:
            DataError, MissingExtraError: as `look_at`.
        """
        files = {part: _paths(of) for part, of in self.every_part.items()}
        if len(files) < 2:
            return {}
        scenes = self._scenes_of([path for paths in files.values() for path in paths])
        names, shared = list(files), {}
        for i, first in enumerate(names):
            known = {scenes[path] for path in files[first] if path in scenes}
            for second in names[i + 1 :]:
                if count := sum(scenes.get(path) in known for path in files[second]):
                    shared[first, second] = count
        return shared

    @property
    def every_part(self) -> dict[str, Files]:
        """The files of each part that the data bring, whatever its classes; without parts of "all"."""
        return {part: self._list(part) for part in self.parts} or {"all": self._reference}

    @cached_property
    def _reference(self) -> Files:
        """Files of the part that decides the classes: train, if there is one."""
        return self._list(None if not self.parts else "train" if "train" in self.parts else self.parts[0])

    def _list(self, part: str | None) -> Files:
        if part not in self._listed:
            self._listed[part] = self.source.files(part)
        return self._listed[part]

    def _hashes_of(self, files: Sequence[Path]) -> dict[Path, str]:
        """Hash of each file that can be read. Each is read once."""
        new = [path for path in files if path not in self._digests]
        self._digests.update(dict.fromkeys(new) | hashes_of(new, self.rendering))
        return {path: digest for path in files if (digest := self._digests[path]) is not None}

    @cached_property
    def _scenes(self) -> dict[Path, str]:
        return self._scenes_of(_paths(self._reference))

    def _scenes_of(self, files: Sequence[Path]) -> dict[Path, str]:
        return scenes_of(self._hashes_of(files), self.rendering)

    def _named_groups(self, files: Files) -> dict[Path, str]:
        """The group of each file by the list's columns or its name; empty without groups, and where files' georeference
        gives them.
        """
        if self.held_out.groups is None:
            return {}
        if groups := self.source.groups:
            return {path: groups[path] for path in _paths(files)}
        if cell_side(self.held_out.groups) is not None:
            return {}
        return {path: self.held_out.group_of(path) for path in _paths(files)}

    @cached_property
    def _cells(self) -> dict[Path, str]:
        """The cell of each training image by its georeference; empty where nobody asks for it."""
        side = cell_side(self.held_out.groups)
        if side is None or self.source.groups:
            return {}
        return {path: _cell(path, side) for path in self._hashes_of(_paths(self._reference))}

    def _divided(self, part: Part) -> Files:
        """The files of a part, after images are held out."""
        if not divides(self.source, part, self.held_out):
            return self.files(part)
        return self._sides[part == "val"]

    @cached_property
    def _sides(self) -> tuple[Files, Files]:
        """The training images without those that are held out, and these.

        Where content decides which images are held out, it decides their order too, so that a run does not depend on
        names.
        """
        files, held_out = self._reference, self.held_out
        if held_out.split == "names":
            cuts = {name: len(paths) - held_out.of_class(len(paths)) for name, paths in files.items()}
            train = {name: paths[: cuts[name]] for name, paths in files.items()}
            return train, {name: paths[cuts[name] :] for name, paths in files.items()}
        if held_out.val_per_class == 0:
            return {name: [*paths] for name, paths in files.items()}, {name: [] for name in files}
        digests = self._hashes_of(_paths(files))
        classes = {name: {path: digests[path] for path in paths if path in digests} for name, paths in files.items()}
        scenes: Mapping[Path, Hashable] = {}
        together: Mapping[Path, Hashable] = {}
        if held_out.split == "content":
            scenes = self._scenes
            together = joined(scenes, self._named_groups(files), self._cells)
        counted = scenes if held_out.val_per_class is not None else {}  # a share is the same of files and of scenes
        held = choose_groups(classes, together, held_out, self.root, counted)
        unread = "~"  # behind every hash; these files are reported in the order of their names
        train, val = (
            {
                name: sorted(
                    (path for path in paths if (path in held) == is_held), key=lambda p: digests.get(p, unread)
                )
                for name, paths in files.items()
            }
            for is_held in (False, True)
        )
        return train, val


def open_scenes(root: Path, options: HeldOut = BY_CONTENT, reading: Reading | Rendering | None = None) -> Scenes:
    """Open a folder tree or a list, and list its training images. No image is opened yet.

    Args:
        root: a folder with class folders, or with train/ (and val/, test/) that have them; or a .csv or .parquet list
            with the columns path, label and perhaps split.
        options: which images are held out; and how images are read, if they say it. What they leave at its default is
            as the data card says, if there is one.
        reading: how images are read instead of what options and card say: the card is not read then.

    Raises:
        DataError: nothing at root, or nothing of that kind; an empty class, or fewer than two.
        InputError: a damaged data card, or options that say something else.
        MissingExtraError: the list needs pyarrow, which is not installed.
    """
    if reading is not None:
        return Scenes(open_source(root, options.groups, options.allow_outside), options, reading)
    chosen = options if isinstance(options, ImageOptions) else ImageOptions(**vars(options))
    card = read_card(root)
    if card is not None:
        chosen = replace(chosen, **card.with_options(chosen.given_image_options))
    source = open_source(root, chosen.groups, chosen.allow_outside)
    return Scenes(source, chosen, chosen.reading, card)


def opened(data: Path | Scenes, options: HeldOut = BY_CONTENT, reading: Reading | Rendering | None = None) -> Scenes:
    """Scenes that somebody has opened, or those at a path, opened as `open_scenes` does."""
    return data if isinstance(data, Scenes) else open_scenes(data, options, reading)


def check_unopened(data: Path | Scenes, options: HeldOut, reading: Reading | None) -> None:
    """Check that nobody says of opened scenes how they are to be opened.

    Raises:
        InputError: somebody does.
    """
    if isinstance(data, Scenes) and (options != BY_CONTENT or reading is not None):
        raise InputError(
            f"{data.root}: was opened, and says itself how it is read and divided; leave these options out"
        )


def read_scenes(
    root: Path,
    *,
    part: Part,
    resolution: int | None = None,
    held_out: HeldOut = BY_CONTENT,
    reading: Reading | Rendering | None = None,
) -> SceneSet:
    """Read one part of a data set, of which nothing else is needed.

    Args:
        root, held_out, reading: as `open_scenes` takes them. part, resolution: as `Scenes.part` takes them.

    Raises:
        DataError, MissingExtraError: as both.
    """
    if resolution is not None and resolution < 1:
        raise DataError(f"resolution is {resolution}: give a positive number of pixels")
    return open_scenes(root, held_out, reading).part(part, resolution)


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


def _cell(path: Path, side: float) -> str:
    """The cell of a file's georeference.

    Raises:
        DataError: it has none, or the file cannot be read.
    """
    place = centre_of(path)
    if isinstance(place, str):
        raise DataError(
            f"{path}: {place}; --groups cells:{side:g} keeps images of one place together: give a list with the "
            "columns lon and lat, or leave the file out"
        )
    return cell_of(*place, side)


def _paths(files: Files) -> list[Path]:
    return [path for paths in files.values() for path in paths]


def common_size(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The most common size; of several that are equally common the one with the smallest shorter side."""
    most = max(sizes.values())
    return min((size for size, count in sizes.items() if count == most), key=lambda size: (min(size), size))


def open_source(root: Path, groups: str | None = None, allow_outside: bool = False) -> Source:
    """Open a folder tree or a list.

    Args:
        groups, allow_outside: as in `HeldOut`.

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


def _is_list(root: Path) -> bool:
    return root.is_file() and root.suffix.lower() in LIST_SUFFIXES


def settled(reading: Reading | Rendering, files: Files, root: Path) -> Rendering | None:
    """The rendering of a reading, with limits from `files`; None where Pillow reads the images as they are."""
    if isinstance(reading, Rendering):
        return reading
    return None if reading.plain else settle(reading, files, root)


def notes_of(together: Alike) -> tuple[str, ...]:
    """What the user should know of how Pillow reads the files, one line each."""
    return (f"{together.note}; --bands all keeps them",) if together.note else ()


def _decode(scenes: Scenes, files: Files, part: Part, resolution: int) -> SceneSet:
    source, rendering = scenes.source, scenes.rendering
    gaps: list[bool] = []
    to_pixels = reader(rendering, scenes.alike, gaps)
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
        if scenes.held_out.allow_outside
        else tuple(name_in(source, path) for path in used if not path.resolve().is_relative_to(inside)),
        tuple(gaps),
        notes_of(scenes.alike),
        card=scenes.card.sha256 if scenes.card is not None else None,
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


def look_at(scenes: Scenes) -> Look:
    """Decode a sample of every class, and suggest how to read it.

    Raises:
        DataError: no folder or list of at least two classes; or no image of the sample is usable, however read.
        MissingExtraError: the reading needs rasterio, which is not installed.
    """
    parts, rendering = scenes.every_part, scenes.rendering
    sample = _sample(scenes, parts)
    plain = isinstance(scenes.reading, Reading) and scenes.reading.plain
    suggestion = _suggested(scenes, parts, sample) if plain and sample.set_aside else None
    if not sample.usable and suggestion is None:
        first = sample.set_aside[0]
        missing = first.reason in ("no such file", "broken link")
        way_out = "correct the paths: relative to the list's folder, with /" if missing else FORMATS
        raise DataError(
            f"{scenes.root}: none of {counted(sample.images, 'image')} can be used, first {first.path}: "
            f"{first.reason}; {way_out}"
        )
    return Look(
        counts={part: {name: len(paths) for name, paths in files.items()} for part, files in parts.items()},
        sample=sample,
        suggestion=suggestion,
        bands=rendering.carried if rendering is not None else (),
        notes=notes_of(scenes.alike),
    )


def _sample(scenes: Scenes, parts: Mapping[str, Files]) -> Sample:
    to_pixels = reader(scenes.rendering, scenes.alike)
    tried, set_aside, sizes = 0, [], Counter[tuple[int, int]]()
    for part, files in parts.items():
        for paths in files.values():
            for path in evenly_spaced(paths, PER_CLASS):
                tried += 1
                square = read_square(path, SIDE, to_pixels)
                if isinstance(square, str):
                    set_aside.append(Finding(part, name_in(scenes.source, path), square))
                elif (size := size_of(path)) is not None:
                    sizes[size] += 1
    return Sample(tried, tuple(set_aside), sides_of(sizes) if sizes else None)


def _suggested(scenes: Scenes, parts: Mapping[str, Files], plain: Sample) -> tuple[str, Sample] | None:
    """The options that most of the reasons name, if more images are usable with them."""
    hints = Counter(
        match[0].strip() for one in plain.set_aside for match in HINT.finditer(one.reason) if match[0].strip()
    )
    for options, _ in hints.most_common(1):
        match = HINT.fullmatch(options)
        assert match is not None
        bands, stretch = (text and text.split()[1] for text in (match["bands"], match["stretch"]))
        try:
            sample = _sample(scenes.read_as(parse_reading(bands, stretch)), parts)
        except (DataError, MissingExtraError):  # no limits, or rasterio is not installed: the reason says what to do
            return None
        if sample.usable > plain.usable:
            return options, sample
    return None
