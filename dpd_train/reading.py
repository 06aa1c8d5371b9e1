"""How images are read and which of them are held out, as options say it. Loads no PyTorch."""

# ruff: noqa: RUF009 -- setting() is dataclasses.field()
import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from dpd_runtime.bands import DECIBELS, MOST_BANDS, float32_holds
from dpd_runtime.errors import DataError, InputError
from dpd_runtime.settings import setting

# -- Which training images are held out for validation where the data bring no val/.
#
# They are chosen by the hash of each file's content, so that names and their order decide nothing: names often follow
# place, time or scale, and then the last ones show other scenes than the rest. Files that show one scene stay on one
# side: near duplicates, and files of one group (`--groups`).


By = Literal["content", "files", "names"]
"""content: by a hash of each file, near duplicates and groups together. files: each file by its own hash alone, so that
one file that is replaced moves one other at most. names: the last ones."""
File = TypeVar("File", bound=Hashable)
LEAST = 2  # training images of a class
ALONE: Mapping[Any, Hashable] = MappingProxyType({})


_CELLS = re.compile(r"cells:(\d{1,4}(?:\.\d{1,3})?)(?: ?km)?")
_KM_A_DEGREE = 111.195  # of a great circle on a sphere of 6,371 km
PLACE_COLUMNS = (("lon", "lat"), ("longitude", "latitude"))
"""Columns of a list with the place of an image, in degrees (WGS 84)."""


def cell_side(groups: str | None) -> float | None:
    """Kilometres along a side of the cells that `--groups cells:10` asks for; None for other groups."""
    asked = None if groups is None else _CELLS.fullmatch(groups)
    return None if asked is None else float(asked[1])


def cell_of(longitude: float, latitude: float, side: float) -> str:
    """The cell of a place in degrees: rows of `side` kilometres from the South Pole, columns as wide in their middle.

    Up to 80° of latitude, two places of one cell of at most 100 km are less than 1.6 sides apart. Neighbours on both
    sides of a border are in two cells.
    """
    row = math.floor((latitude + 90) * _KM_A_DEGREE / side)
    middle = min((row + 0.5) * side / _KM_A_DEGREE - 90, 90.0)
    east = (longitude + 180) % 360  # 180° is the meridian of −180°
    column = math.floor(east * _KM_A_DEGREE * math.cos(math.radians(middle)) / side)
    return f"cell {row} {column}"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How the validation part is taken from training images that bring none. Every field is an option.

    Raises:
        InputError: a value out of range or without effect, or `groups` that is no regular expression.
    """

    val_per_class: int | None = setting(
        None,
        "Data",
        "Validation images per class; near duplicates count once. Default: a tenth of the class, at least 1.",
    )
    split: By = setting(
        "content",
        "Data",
        "How validation images are chosen where DATA brings none: by a hash of each file, with near duplicates on one "
        "side (content); by that hash alone (files); the last file names (names).",
    )
    groups: str | None = setting(
        None,
        "Data",
        "Column of the list, or regular expression of the file name: files with one value, such as a scene, a tile or "
        "a flight, are all training or all validation images. Or cells:10: those of one cell of 10 km, by the lon and "
        "lat of the list or the files' georeference.",
        "COLUMN_OR_REGEX",
    )
    allow_outside: bool = setting(
        False, "Data", "Accept a list that names files outside its own folder, such as by absolute paths."
    )

    def __post_init__(self) -> None:
        if self.val_per_class is not None and self.val_per_class < 0:
            raise InputError(f"--val-per-class is {self.val_per_class}: it must be at least 0")
        if self.groups is None:
            return
        if self.split != "content":
            raise InputError(f"--groups {self.groups} has no effect with --split {self.split}: leave one of them out")
        if self.groups.startswith("cells:") and not (cell_side(self.groups) or 0) > 0:
            raise InputError(f"--groups {self.groups}: give the side of the cells in kilometres, such as cells:10")
        try:
            re.compile(self.groups)
        except re.error as error:
            raise InputError(
                f"--groups {self.groups}: is neither a column nor a regular expression ({error})"
            ) from None

    @property
    def held_out_options(self) -> dict[str, Any]:
        """What decides which images are held out."""
        return {"val_per_class": self.val_per_class, "split": self.split, "groups": self.groups}

    @property
    def elsewhere(self) -> "HeldOut":
        """For other data, of which nothing is held out: what is allowed stays allowed."""
        return HeldOut(allow_outside=self.allow_outside)

    @property
    def given(self) -> bool:
        """Whether any of them differs from its default, which is another one where another default is declared."""
        defaults = {field.name: field.default for field in fields(self)}
        return any(value != defaults[name] for name, value in self.held_out_options.items())

    def of_class(self, images: int) -> int:
        """The number of validation images that a class of `images` training images is to give."""
        wanted = max(1, images // 10) if self.val_per_class is None else self.val_per_class
        return min(wanted, images)

    def group_of(self, path: Path) -> str:
        """The group that the file's name gives: the first bracket of the regular expression, or all that it matches.

        Raises:
            DataError: the name does not match.
        """
        assert self.groups is not None
        match = re.search(self.groups, path.name)
        if match is None:
            raise DataError(f"--groups {self.groups}: does not match the file name {path.name!r}; give another one")
        return match.group(1 if match.re.groups else 0) or ""


BY_CONTENT = HeldOut()


def joined(*partitions: Mapping[File, Hashable]) -> dict[File, Hashable]:
    """The finest groups in which files stay together that one of the partitions puts together."""
    files: dict[Hashable, list[File]] = defaultdict(list)
    for number, groups in enumerate(partitions):
        for file, group in groups.items():
            files[number, group].append(file)
    together: dict[File, set[File]] = {}
    for members in files.values():
        sets = {file: together.get(file, {file}) for file in members}
        largest = max(sets.values(), key=len)
        for own in sets.values():
            if own is not largest:
                largest |= own
        for file in largest:
            together[file] = largest
    return {file: id(group) for file, group in together.items()}


def choose_groups(
    classes: Mapping[str, Mapping[File, str]],
    groups: Mapping[File, Hashable],
    held_out: HeldOut,
    place: object = "DATA",
    scenes: Mapping[File, Hashable] = ALONE,
) -> set[File]:
    """Choose the files that are held out, whole groups at a time, in an order that only their content decides.

    A group is taken if no class then gives more than its number, and several files only if two scenes are left. A class
    that gives nothing in this way gives its smallest group, so that it has validation images. Files of one scene count
    as one.

    Args:
        classes: class → file → hash of its content.
        groups: file → group; a file that is missing is a group of its own.
        place: of the data, for messages.
        scenes: file → scene that it shows, within a group; a file that is missing shows one of its own.

    Raises:
        DataError: no group of a class can be held out and leave two training images.
    """
    members: dict[Hashable, list[tuple[str, File]]] = defaultdict(list)
    for name, files in classes.items():
        for file in files:
            members[groups.get(file, (name, file))].append((name, file))
    shown = {group: {(name, scenes.get(file, (file,))) for name, file in files} for group, files in members.items()}
    counts = {group: Counter(name for name, _ in scenes) for group, scenes in shown.items()}
    rest = Counter[str]()
    for of_class in counts.values():
        rest.update(of_class)
    order = {group: _digest(classes[name][file] for name, file in files) for group, files in members.items()}
    waiting = sorted(members, key=lambda group: order[group])
    left = {name: held_out.of_class(rest[name]) for name in classes}
    wanting = sorted(name for name, number in left.items() if number)
    every = dict(rest)
    taken: set[File] = set()

    def take(group: Hashable) -> None:
        waiting.remove(group)
        taken.update(file for _, file in members[group])
        for name, number in counts[group].items():
            left[name] -= number
            rest[name] -= number

    for group in [*waiting]:
        one = len(members[group]) == 1
        if all(n <= left[name] and (one or rest[name] - n >= LEAST) for name, n in counts[group].items()):
            take(group)
    for name in wanting:
        if rest[name] < every[name]:
            continue
        possible = [
            group
            for group in waiting
            if name in counts[group] and all(rest[other] - number >= LEAST for other, number in counts[group].items())
        ]
        if not possible:
            raise DataError(f"{place}: {_one_sided(name, held_out)}")
        take(min(possible, key=lambda group: counts[group][name]))
    return taken


def _digest(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _one_sided(name: str, held_out: HeldOut) -> str:
    why = "its files are near duplicates of one another"
    if held_out.groups is not None:
        why = f"--groups {held_out.groups}, or near duplicates, put nearly all of its files into one group"
    return (
        f"class {name!r}: no group of its files can be held out and leave {LEAST} training images: {why}; put "
        "validation images into val/, give other --groups, or --val-per-class 0"
    )


# -- How images are read: which bands, which values become black and white, and which files are held out.


PERCENTILES = (2.0, 98.0)
OF_PICTURE = (1, 3)  # bands that are made into RGB


@dataclass(frozen=True)
class Reading:
    """Options for reading. If all are None, Pillow reads the images as they are, and 16-bit grey by its full range.

    bands       numbers (1-based, as in GDAL) or names (as the files describe them) of the red, green and blue band, or
                of one grey band; any other number of bands, or "all", is carried as it is. None: the images' own
                colours.
    percentiles that become black and white, over a sample of the whole data set, for each band; None takes (2, 98) if
                `bands` are given and pixels are not 8-bit, and leaves 8-bit pixels as they are.
    limits      instead of percentiles: (low, high) in pixel values, once for all bands or once for each.
    decibels    whether the limits, one pair for all bands, are 10 · log10 of pixel values.

    Raises:
        InputError: a value is out of range, or options exclude each other.
    """

    bands: tuple[int, ...] | tuple[str, ...] | Literal["all"] | None = None
    percentiles: tuple[float, float] | None = None
    limits: tuple[tuple[float, float], ...] | None = None
    decibels: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bands, tuple):
            self._check_bands(self.bands)
        if self.percentiles is not None and self.limits is not None:
            raise InputError("a stretch is by percentiles or by pixel values: give one of them")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"stretch {_join(self.percentiles)}: give two percentiles, 0 ≤ low < high ≤ 100")
        if self.limits is not None:
            self._check_limits(self.limits)
        elif self.decibels:
            raise InputError("decibels need limits, such as --stretch dB:-25:5")

    def _check_bands(self, bands: tuple[int, ...] | tuple[str, ...]) -> None:
        shown = ",".join(map(str, bands))
        if not bands or any(band < 1 if isinstance(band, int) else not band for band in bands):
            raise InputError(
                f"bands {shown}: give three band numbers, red, green and blue, or one for grey, or others to carry; "
                "the first band is 1"
            )
        if len(bands) > MOST_BANDS:
            raise InputError(f"bands {shown}: are {len(bands)}, at most {MOST_BANDS} are carried; leave some out")
        twice = [band for band, count in Counter(bands).items() if count > 1]
        if self.carries and twice:
            raise InputError(f"bands {shown}: band {twice[0]} stands there twice; give each band once")

    def _check_limits(self, limits: tuple[tuple[float, float], ...]) -> None:
        shown = "dB:" * self.decibels + ",".join(f"{low:g}:{high:g}" for low, high in limits)
        counts = (1, len(self.bands)) if isinstance(self.bands, tuple) else OF_PICTURE
        if self.decibels and len(limits) != 1:
            raise InputError(f"stretch {shown}: give one dB:LOW:HIGH for all bands")
        if self.bands != "all" and len(limits) not in counts:
            raise InputError(f"stretch {shown}: give one LOW:HIGH, or one for each of the bands")
        if any(not (math.isfinite(low) and math.isfinite(high) and low < high) for low, high in limits):
            raise InputError(f"stretch {shown}: LOW must be below HIGH, both finite")
        if self.decibels and max(map(abs, limits[0])) > DECIBELS:
            raise InputError(f"stretch {shown}: give decibels between -{DECIBELS:g} and {DECIBELS:g}")
        if not all(float32_holds(low, high) for low, high in limits):
            raise InputError(f"stretch {shown}: float32 does not hold LOW and HIGH as two numbers; bring them nearer")

    @property
    def plain(self) -> bool:
        """Whether Pillow can read the images, without rasterio."""
        return self.bands is None and self.percentiles is None and self.limits is None

    @property
    def carries(self) -> bool:
        """Whether the images keep their bands; else they become RGB, one band in three equal channels."""
        return self.bands == "all" or (self.bands is not None and len(self.bands) not in OF_PICTURE)


PLAIN = Reading()


def parse_reading(bands: str | None = None, stretch: str | None = None) -> Reading:
    """Parse `--bands 4,3,2`, `--bands B4,B3,B2` or `--bands all`, and `--stretch 2,98` (percentiles), `--stretch
    0:3000` (pixel values for all bands; `0:3000,0:2800,0:2500` for each) or `--stretch dB:-25:5` (decibels).

    Raises:
        InputError: the text has another form, or values out of range.
    """
    chosen = None if bands is None else _bands(bands)
    if stretch is None:
        return Reading(chosen)
    decibels = stretch[:3].casefold() == "db:"
    parts = [part.split(":") for part in (stretch[3:] if decibels else stretch).split(",")]
    try:
        numbers = [tuple(float(number) for number in part) for part in parts]
    except ValueError:
        numbers = []
    lengths = {len(part) for part in numbers}
    if lengths == {1} and len(numbers) == 2 and not decibels:
        return Reading(chosen, percentiles=(numbers[0][0], numbers[1][0]))
    if lengths == {2}:
        return Reading(chosen, limits=tuple((part[0], part[1]) for part in numbers), decibels=decibels)
    raise InputError(
        f"--stretch {stretch}: give two percentiles such as 2,98, or pixel values such as 0:3000 (one pair for all "
        "bands, or one for each with commas between), or decibels such as dB:-25:5"
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions(HeldOut):
    """How real images are read. Every field is an option."""

    bands: str | None = setting(
        None,
        "Data",
        "Bands by number from 1 or by name: three for red, green and blue, such as 4,3,2, or one for grey. More, or "
        "all, are kept as bands. Default: the file's colours.",
    )
    stretch: str | None = setting(
        None,
        "Data",
        "What becomes black and white: percentiles such as 2,98, pixel values such as 0:3000, or decibels such as "
        "dB:-25:5.",
    )

    @property
    def reading(self) -> Reading:
        """Raises:
        InputError: as `parse_reading`.
        """
        return parse_reading(self.bands, self.stretch)

    @property
    def image_options(self) -> dict[str, Any]:
        """These options alone, of a config that has others too."""
        return {field.name: getattr(self, field.name) for field in fields(ImageOptions)}

    @property
    def given_image_options(self) -> dict[str, Any]:
        """Those of these options that differ from their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in self.image_options.items() if value != defaults[name]}


def _bands(text: str) -> tuple[int, ...] | tuple[str, ...] | Literal["all"]:
    if text.strip() == "all":
        return "all"
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise InputError(
            f"--bands {text}: give band numbers such as 4,3,2 (the first band is 1), names such as B4,B3,B2, or all"
        )
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        return parts


def _join(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
