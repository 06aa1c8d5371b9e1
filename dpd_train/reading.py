"""How images are read: which bands, which values become black and white, and which files are held out."""

import math
from dataclasses import dataclass, fields
from typing import Any

from dpd_runtime.errors import InputError
from dpd_train.held_out import HeldOut
from dpd_train.options import setting

PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class Reading:
    """Options for reading. If all are None, Pillow reads the images as they are, and 16-bit grey by its full range.

    bands       numbers of the red, green and blue band, or of one grey band; 1-based, as in GDAL. None: the images'
                own colours.
    percentiles that become black and white, over a sample of the whole data set, for each band; None takes (2, 98) if
                `bands` are given and pixels are not 8-bit, and leaves 8-bit pixels as they are.
    limits      instead of percentiles: (low, high) in pixel values, once for all bands or once for each.

    Raises:
        InputError: a value is out of range, or options exclude each other.
    """

    bands: tuple[int, ...] | None = None
    percentiles: tuple[float, float] | None = None
    limits: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise InputError(
                f"bands {_join(self.bands)}: give three band numbers, red, green and blue, or one for grey; "
                "the first band is 1"
            )
        if self.percentiles is not None and self.limits is not None:
            raise InputError("a stretch is by percentiles or by pixel values: give one of them")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"stretch {_join(self.percentiles)}: give two percentiles, 0 ≤ low < high ≤ 100")
        if self.limits is not None:
            self._check_limits(self.limits)

    def _check_limits(self, limits: tuple[tuple[float, float], ...]) -> None:
        shown = ",".join(f"{low:g}:{high:g}" for low, high in limits)
        if len(limits) not in ((1, 3) if self.bands is None else (1, len(self.bands))):
            raise InputError(f"stretch {shown}: give one LOW:HIGH, or one for each of the bands")
        if any(not (math.isfinite(low) and math.isfinite(high) and low < high) for low, high in limits):
            raise InputError(f"stretch {shown}: LOW must be below HIGH, both finite")

    @property
    def plain(self) -> bool:
        """Whether Pillow can read the images, without rasterio."""
        return self.bands is None and self.percentiles is None and self.limits is None


PLAIN = Reading()


def parse_reading(bands: str | None = None, stretch: str | None = None) -> Reading:
    """Parse `--bands 4,3,2` and `--stretch 2,98` (percentiles) or `--stretch 0:3000` (pixel values for all bands;
    `0:3000,0:2800,0:2500` for each).

    Raises:
        InputError: the text has another form, or values out of range.
    """
    if stretch is None:
        return Reading(_whole(bands))
    parts = [part.split(":") for part in stretch.split(",")]
    try:
        numbers = [tuple(float(number) for number in part) for part in parts]
    except ValueError:
        numbers = []
    lengths = {len(part) for part in numbers}
    if lengths == {1} and len(numbers) == 2:
        return Reading(_whole(bands), percentiles=(numbers[0][0], numbers[1][0]))
    if lengths == {2}:
        return Reading(_whole(bands), limits=tuple((part[0], part[1]) for part in numbers))
    raise InputError(
        f"--stretch {stretch}: give two percentiles such as 2,98, or pixel values such as 0:3000 (one pair for all "
        "bands, or three pairs with commas between)"
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions(HeldOut):
    """How real images are read. Every field is an option."""

    bands: str | None = setting(
        None, "Data", "Bands to use as red, green and blue, such as 4,3,2; the first is 1. Default: those of the file."
    )
    stretch: str | None = setting(
        None, "Data", "What becomes black and white: percentiles such as 2,98, or pixel values such as 0:3000."
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


def _whole(bands: str | None) -> tuple[int, ...] | None:
    if bands is None:
        return None
    try:
        return tuple(int(number) for number in bands.split(","))
    except ValueError:
        raise InputError(f"--bands {bands}: give band numbers such as 4,3,2; the first band is 1") from None


def _join(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
