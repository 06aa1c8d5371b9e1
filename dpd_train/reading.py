"""How images are read: which bands, which values become black and white, and which files are held out."""

import math
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, Literal

from dpd_runtime.errors import InputError
from dpd_runtime.images.bands import DECIBELS, MOST_BANDS, float32_holds
from dpd_train.held_out import HeldOut
from dpd_train.options import setting

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
